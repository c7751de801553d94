"""Prompts behind a chat template: the tokens that the template means, and clear words where there is none."""

import pytest

from dposcope.errors import DposcopeError
from dposcope.model.batches import encode
from dposcope.model.chat import Chat, Turn
from helpers.chats import BEGINS, BROKEN, FAILS, LEAVES_OUT, PLAIN, REFUSES, with_template
from helpers.families import TEXTS, WITHOUT_BOS


def theirs(lm, messages):
    """What the library itself makes of a conversation."""
    made = lm.tokenizer.apply_chat_template(messages, tokenize=True, add_generation_prompt=True, return_dict=True)
    return made["input_ids"]


def user(text):
    return {"role": "user", "content": text}


@pytest.mark.parametrize("template", [PLAIN, BEGINS, REFUSES])
def test_tokens_are_those_of_the_library(lm, template):
    lm = with_template(lm, template)
    assert Chat.of(lm).encode(TEXTS) == [theirs(lm, [user(text)]) for text in TEXTS]


@pytest.mark.parametrize(("template", "begins"), [(PLAIN, 0), (BEGINS, 1)])
def test_there_is_no_second_begin_of_text(llama, template, begins):
    lm = with_template(llama, template)
    assert [ids.count(lm.tokenizer.bos_token_id) for ids in Chat.of(lm).encode(TEXTS)] == [begins] * len(TEXTS)


def test_a_conversation_and_a_system_prompt_stand_in_the_template(llama):
    lm = with_template(llama, BEGINS)
    chat = Chat.of(lm, "on", system="be kind")
    turns = [Turn("user", "a cat"), Turn("assistant", "a mat"), Turn("user", "the sea")]
    said = [{"role": turn.role, "content": turn.content} for turn in turns]
    assert chat.render(turns) == "<bos>system: be kind\nuser: a cat\nassistant: a mat\nuser: the sea\nassistant:"
    assert chat.encode_turns(turns) == theirs(lm, [{"role": "system", "content": "be kind"}, *said])


@pytest.mark.parametrize("mode", ["auto", "off"])
def test_without_a_template_the_text_is_read_as_everywhere(lm, mode):
    chat = Chat.of(lm if mode == "auto" else with_template(lm, BEGINS), mode)
    assert not chat.on
    assert chat.encode(TEXTS) == encode(lm, TEXTS)
    assert chat.encode_turns([Turn("user", "not this"), Turn("user", TEXTS[0])]) == encode(lm, TEXTS[:1])[0]


def test_a_blank_message_is_one(gpt2):
    assert "gpt2" in WITHOUT_BOS
    assert Chat.of(with_template(gpt2, PLAIN)).encode([""])[0]
    with pytest.raises(DposcopeError, match="empty"):
        Chat.of(gpt2).encode([""])


@pytest.mark.parametrize(
    ("template", "mode", "system", "told"),
    [
        (None, "on", None, r"the tokenizer of .* has no chat template; leave --chat on out"),
        (None, "auto", "be kind", r"has no chat template, so a system prompt has no place; leave --system out"),
        (BEGINS, "off", "be kind", r"without its chat template, so a system prompt has no place; leave --system out"),
        (REFUSES, "auto", "be kind", r"takes no system prompt \(no system role\); leave --system out"),
        (LEAVES_OUT, "auto", "be kind", r"leaves a system prompt out; leave --system out, too"),
        (FAILS, "auto", None, r"the chat template of .* fails \(.+\); use --chat off"),
        (BROKEN, "on", "be kind", r"the chat template of .* fails \(.+\); use --chat off"),
        (BEGINS, "sometimes", None, "chat 'sometimes' is unknown; choose from auto, on, off"),
    ],
)
def test_what_cannot_be_is_told_in_one_line(llama, template, mode, system, told):
    lm = llama if template is None else with_template(llama, template)
    with pytest.raises(DposcopeError, match=told) as refused:
        Chat.of(lm, mode, system=system)
    assert "\n" not in str(refused.value)


def test_a_message_too_long_to_be_read_is_refused(llama):
    with pytest.raises(DposcopeError, match="too many to be made tokens of at once"):
        Chat.of(with_template(llama, PLAIN)).encode(["a " * (1 << 20)])
