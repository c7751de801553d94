"""Prompts behind a chat template: the tokens that the template means, on every family."""

import pytest

from dposcope.errors import DposcopeError
from dposcope.model.batches import encode
from dposcope.model.chat.asking import Turn
from dposcope.model.chat.prompts import asked_how, asked_like, encode_prompts, prompt_texts, with_chat
from dposcope.model.generate import generate
from dposcope.model.tuned import comparable
from helpers.changes import tuned_copy
from helpers.chats import BEGINS, PLAIN, REFUSES, with_template
from helpers.families import TEXTS, WITHOUT_BOS

WRAP = "go on: {prompt} ..."
TALK = (Turn("user", "a cat"), Turn("assistant", "a mat"), Turn("user", "the sea"))


def theirs(lm, messages):
    """What the library itself makes of a conversation."""
    made = lm.tokenizer.apply_chat_template(messages, tokenize=True, add_generation_prompt=True, return_dict=True)
    return made["input_ids"]


def user(text):
    return {"role": "user", "content": text}


def said(turns):
    return [{"role": turn.role, "content": turn.content} for turn in turns]


@pytest.mark.parametrize("template", [PLAIN, BEGINS, REFUSES])
def test_tokens_are_those_of_the_library(lm, template):
    lm = with_template(lm, template)
    assert encode_prompts(with_chat(lm), TEXTS) == [theirs(lm, [user(text)]) for text in TEXTS]


@pytest.mark.parametrize("template", [PLAIN, BEGINS])
def test_a_wrapper_and_a_system_prompt_stand_around_each_prompt(lm, template):
    lm = with_template(lm, template)
    asked = with_chat(lm, "on", system="be kind", wrap=WRAP)
    expected = [theirs(lm, [{"role": "system", "content": "be kind"}, user(f"go on: {text} ...")]) for text in TEXTS]
    assert encode_prompts(asked, TEXTS) == expected
    assert encode_prompts(asked, TEXTS, max_tokens=60) == expected


@pytest.mark.parametrize("template", [PLAIN, BEGINS])
def test_the_model_goes_on_from_a_prefill(lm, template):
    """Its tokens are those of the whole text, and a long prompt is cut alike in both its places."""
    lm = with_template(lm, template)
    asked = with_chat(lm, wrap=WRAP, prefill="{prompt}")
    rule = {"tokenize": False, "add_generation_prompt": True}
    texts = [lm.tokenizer.apply_chat_template([user(f"go on: {text} ...")], **rule) + text for text in TEXTS]
    expected = [lm.tokenizer(text, add_special_tokens=False).input_ids for text in texts]
    assert encode_prompts(asked, TEXTS) == expected
    assert [one.prompt_ids for one in generate(asked, TEXTS, new_tokens=2)] == expected
    (cut,) = prompt_texts(asked, TEXTS[:1], max_tokens=2, keep="start")
    before, _, after = (
        cut.removeprefix(lm.tokenizer.bos_token or "").removeprefix("user: go on: ").partition(" ...\nassistant:")
    )
    assert before == after
    assert TEXTS[0].startswith(after)
    assert 0 < len(after) < len(TEXTS[0])


@pytest.mark.parametrize(("template", "begins"), [(PLAIN, 0), (BEGINS, 1)])
def test_there_is_no_second_begin_of_text(llama, template, begins):
    lm = with_chat(with_template(llama, template))
    for limit in (None, 2):
        ids = encode_prompts(lm, TEXTS, max_tokens=limit)
        assert [one.count(lm.tokenizer.bos_token_id) for one in ids] == [begins] * len(TEXTS)


def test_a_conversation_keeps_its_turns_and_its_own_system_prompt(llama):
    lm = with_chat(with_template(llama, BEGINS), system="be kind")
    told = "user: a cat\nassistant: a mat\nuser: the sea\nassistant:"
    own = (Turn("system", "hush"), *TALK)
    assert prompt_texts(lm, [TALK, own]) == [f"<bos>system: be kind\n{told}", f"<bos>system: hush\n{told}"]
    assert encode_prompts(lm, [TALK])[0] == theirs(lm, [{"role": "system", "content": "be kind"}, *said(TALK)])


def test_prompts_that_are_equal_are_each_answered(llama):
    lm = with_chat(with_template(llama, PLAIN))
    assert encode_prompts(lm, ["a", "b", "a"]) == [encode_prompts(lm, [text])[0] for text in ("a", "b", "a")]


@pytest.mark.parametrize("mode", ["auto", "off"])
def test_without_a_template_the_text_is_read_as_everywhere(lm, mode):
    asked = with_chat(lm if mode == "auto" else with_template(lm, BEGINS), mode)
    assert asked.asking is None
    assert asked_how(asked) == {}
    for keep in ("start", "end"):
        for limit in (None, 4):
            expected = encode(lm, TEXTS, max_tokens=limit, keep=keep)
            assert encode_prompts(asked, TEXTS, max_tokens=limit, keep=keep) == expected
    assert encode_prompts(asked, [(Turn("user", TEXTS[0]),)]) == encode(lm, TEXTS[:1])


def test_a_conversation_needs_a_template(llama):
    with pytest.raises(DposcopeError, match=r"conversation of 3 messages, and .* without a chat template; give a chat"):
        encode_prompts(llama, [TALK])


def test_a_blank_message_is_one(gpt2):
    assert "gpt2" in WITHOUT_BOS
    assert encode_prompts(with_chat(with_template(gpt2, PLAIN)), [""])[0]
    with pytest.raises(DposcopeError, match="empty"):
        encode_prompts(gpt2, [""])


def test_a_template_that_makes_no_token_is_told(gpt2):
    lm = with_chat(with_template(gpt2, "{% if messages[0]['content'] == 'Hello.' %}a{% endif %}"))
    with pytest.raises(DposcopeError, match="makes no token of a prompt; use --chat off"):
        encode_prompts(lm, ["who"])


def test_a_message_too_long_to_be_read_is_refused(llama):
    with pytest.raises(DposcopeError, match="too many to be made tokens of at once"):
        encode_prompts(with_chat(with_template(llama, PLAIN)), ["a " * (1 << 20)])


def test_a_batch_is_its_members_and_a_cache_changes_nothing(lm):
    lm = with_chat(with_template(lm, BEGINS), wrap=WRAP)
    together = generate(lm, TEXTS, new_tokens=6, batch_size=8)
    assert [one.prompt_ids for one in together] == encode_prompts(lm, TEXTS)
    for options in ({"batch_size": 1}, {"use_cache": False}):
        assert [one.ids for one in generate(lm, TEXTS, new_tokens=6, **options)] == [one.ids for one in together]


def test_a_tuned_model_is_asked_as_its_base(llama):
    base = with_chat(with_template(llama, BEGINS), wrap=WRAP)
    assert comparable(base, tuned_copy(llama)).asking == base.asking


def test_another_model_is_asked_alike_through_its_own_template(llama, gpt2):
    base = with_chat(with_template(llama, BEGINS), system="be kind", wrap=WRAP, prefill="so {prompt}")
    other = asked_like(with_template(gpt2, PLAIN), base).asking
    assert other is not None
    assert (other.template, other.system, other.wrap, other.prefill) == (PLAIN, "be kind", WRAP, "so {prompt}")
    assert asked_like(gpt2, base) is gpt2
    assert asked_like(with_template(gpt2, PLAIN), llama).asking is None
