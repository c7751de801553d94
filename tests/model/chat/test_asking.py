"""How a model is asked: what is chosen, what a template makes of it, and clear words where it cannot be."""

import pytest

from dposcope.errors import DposcopeError
from dposcope.model.chat.asking import Asking, ChatOptions, Turn, conversation_told, turns_of
from helpers.chats import BEGINS, BROKEN, ENDS, FAILS, LEAVES_OUT, PLAIN, REFUSES, with_template


def test_a_wrapper_is_of_the_last_message_alone(llama):
    lm = with_template(llama, PLAIN)
    asking = ChatOptions(wrap="go on: {prompt}").asking(lm.tokenizer, name="it")
    assert asking is not None
    turns = (Turn("user", "a cat"), Turn("assistant", "a mat"), Turn("user", "{prompt} the sea"))
    told = asking.render(lm.tokenizer, turns, name="it")
    assert told == "user: a cat\nassistant: a mat\nuser: go on: {prompt} the sea\nassistant:"


def test_a_prefill_begins_the_answer_to_the_last_message(llama):
    lm = with_template(llama, PLAIN)
    asking = ChatOptions(wrap="go on: {prompt}", prefill="Well, {prompt}").asking(lm.tokenizer, name="it")
    assert asking is not None
    turns = (Turn("user", "a cat"), Turn("assistant", "a mat"), Turn("user", "the sea"))
    told = asking.render(lm.tokenizer, turns, name="it")
    assert told == "user: a cat\nassistant: a mat\nuser: go on: the sea\nassistant:Well, the sea"
    fixed = ChatOptions(prefill="Sure").asking(lm.tokenizer, name="it")
    assert fixed is not None
    assert fixed.render(lm.tokenizer, "{prompt}", name="it") == "user: {prompt}\nassistant:Sure"


def test_the_token_that_ends_an_answer_is_the_templates(llama):
    tokenizer = with_template(llama, ENDS).tokenizer
    assert Asking(ENDS).ending(tokenizer, name="it") == tokenizer.eos_token_id
    assert Asking(PLAIN).ending(with_template(llama, PLAIN).tokenizer, name="it") is None, (
        "a line break is no special token"
    )
    with pytest.raises(DposcopeError, match="the chat template of it fails"):
        Asking(FAILS).ending(with_template(llama, FAILS).tokenizer, name="it")


def test_what_results_depend_on_names_all_parts(llama):
    asking = ChatOptions("on", "be kind", "x {prompt}").asking(with_template(llama, PLAIN).tokenizer, name="it")
    assert asking == Asking(PLAIN, "be kind", "x {prompt}")
    assert str(asking) == (
        "Prompts are messages in the model's chat template, with the system prompt “be kind”, as “x {prompt}”"
    )
    begun = ChatOptions("on", prefill="so {prompt}").asking(with_template(llama, PLAIN).tokenizer, name="it")
    assert begun == Asking(PLAIN, prefill="so {prompt}")
    assert str(begun) == "Prompts are messages in the model's chat template, and answers begin with “so {prompt}”"
    assert str(Asking(PLAIN)) == "Prompts are messages in the model's chat template"


def test_a_text_is_what_the_user_says():
    assert turns_of("who") == (Turn("user", "who"),)
    assert conversation_told([Turn("user", "who"), Turn("assistant", "a cat")]) == "who\na cat"


@pytest.mark.parametrize(
    ("template", "options", "told"),
    [
        (None, ChatOptions("on"), r"the tokenizer of it has no chat template; leave --chat on out"),
        (None, ChatOptions(system="s"), r"has no chat template, so a system prompt has no place; leave --system out"),
        (None, ChatOptions(wrap="{prompt}"), r"has no chat template, so a wrapper has no place; leave --wrap out"),
        (BEGINS, ChatOptions("off", "s"), r"without its chat template, so a system prompt has no place; leave --sys"),
        (BEGINS, ChatOptions("off", wrap="{prompt}"), r"without its chat template, so a wrapper has no place; leave"),
        (None, ChatOptions(prefill="so"), r"has no chat template, so a prefill has no place; leave --prefill out"),
        (BEGINS, ChatOptions(prefill=" "), r"the prefill is empty; leave --prefill out"),
        (BEGINS, ChatOptions(prefill="{prompt} {prompt}"), r"the prefill '.+' holds \{prompt\} 2 times; write it once"),
        (BEGINS, ChatOptions(wrap="go on"), r"the wrapper 'go on' holds \{prompt\} 0 times; write it once"),
        (BEGINS, ChatOptions(wrap="{prompt}{prompt}"), r"holds \{prompt\} 2 times; write it once"),
        (REFUSES, ChatOptions(system="s"), r"takes no system prompt \(no system role\); leave --system out"),
        (LEAVES_OUT, ChatOptions(system="be kind"), r"leaves a system prompt out; leave --system out, too"),
        (FAILS, ChatOptions(), r"the chat template of it fails \(.+\); use --chat off"),
        (BROKEN, ChatOptions("on", "be kind"), r"the chat template of it fails \(.+\); use --chat off"),
        (BEGINS, ChatOptions("sometimes"), "chat 'sometimes' is unknown; choose from auto, on, off"),  # pyright: ignore
    ],
)
def test_what_cannot_be_is_told_in_one_line(llama, template, options, told):
    lm = llama if template is None else with_template(llama, template)
    with pytest.raises(DposcopeError, match=told) as refused:
        options.asking(lm.tokenizer, name="it")
    assert "\n" not in str(refused.value)
