"""A server writes what the model writes, in every way in which it may speak."""

from dataclasses import replace

import pytest

from dposcope.errors import DposcopeError
from dposcope.model.chat.prompts import with_chat
from dposcope.model.engine.endpoint import CompletionsEndpoint
from dposcope.model.engine.served import Form, Served
from dposcope.model.generate import Sampling, generate
from helpers.chats import BEGINS, with_template
from helpers.completions import NAMES, Manners, instead, text, writing
from helpers.endpoints import Clock, serving
from helpers.families import TEXTS

FORMS = {
    "all": (Manners(tells_ids=True), Form(True, True)),
    "ids, as OpenAI": (Manners(takes_further=False), Form(True, False)),
    "text, and more": (Manners(takes_ids=False, tells_ids=True), Form(False, True)),
    "text, as OpenAI, unlisted": (Manners(takes_ids=False, takes_further=False, lists=False), Form(False, False)),
}


def connect(server, lm, prompts=TEXTS, **options) -> Served:
    endpoint = CompletionsEndpoint(server.url, model="tiny", attempts=2, timeout=20, sleep=Clock().sleep)
    return Served.connect(endpoint, lm, prompts, **options)


@pytest.mark.parametrize("name", FORMS)
def test_greedy_texts_are_those_of_the_model(name, lm):
    manners, form = FORMS[name]
    with serving(writing({"tiny": lm}, manners)) as server:
        served = connect(server, lm, at_once=3)
        written = served.write(lm, TEXTS, new_tokens=7, max_prompt_tokens=12)
    own = generate(lm, TEXTS, new_tokens=7, max_prompt_tokens=12)
    assert served.form == form
    assert [one.text for one in written] == [one.text for one in own]
    assert [one.prompt_ids for one in written] == [one.prompt_ids for one in own]
    if manners.tells_ids:
        assert [one.ids for one in written] == [one.ids for one in own]
    asked = server.requests[-1].body
    assert (asked["max_tokens"], asked["temperature"], asked["top_p"], asked["n"]) == (7, 0.0, 1.0, 1)
    assert (set(asked) == set(NAMES)) == (not form.further)
    if form.further:
        altered = {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0, "repeat_penalty": 1.0}
        assert asked | altered == asked, "a server's own defaults alter the distribution"


def test_sampled_texts_have_a_seed_each(family_lm):
    lm = family_lm("gemma3")
    with serving(writing({"tiny": lm})) as server:
        served = connect(server, lm)
        before = len(server.requests)
        sampling = Sampling(0.7, 0.9, seed=5, first_row=10)
        written = served.write(lm, TEXTS[:3] * 2, new_tokens=6, sampling=sampling)
        again = served.write(lm, TEXTS[:3] * 2, new_tokens=6, sampling=sampling)
    asked = [request.body for request in server.requests[before : before + 6]]
    assert {(one["temperature"], one["top_p"]) for one in asked} == {(0.7, 0.9)}
    assert sorted(one["seed"] for one in asked) == [5_000_015 + 10 + row for row in range(6)]
    assert written == again
    assert written[0].text != written[3].text


def test_a_chat_model_is_asked_through_its_template(family_lm):
    lm = with_chat(with_template(family_lm("llama"), BEGINS))
    own = generate(lm, TEXTS[:3], new_tokens=5)
    for manners in (Manners(), Manners(takes_ids=False)):
        with serving(writing({"tiny": lm}, manners)) as server:
            written = connect(server, lm).write(lm, TEXTS[:3], new_tokens=5)
        assert [one.text for one in written] == [one.text for one in own]
        assert [one.prompt_ids for one in written] == [one.prompt_ids for one in own]


def test_a_server_that_puts_tokens_of_its_own_around_a_prompt_is_refused(family_lm):
    lm = family_lm("gpt2")
    with (
        serving(writing({"tiny": lm}, Manners(adds=3))) as server,
        pytest.raises(DposcopeError, match=r"reads \d+ tokens where tiny-gpt2 has \d+: .* check what it serves"),
    ):
        connect(server, lm)


def test_what_identifies_a_server_is_its_model_and_what_it_writes(family_lm):
    lm, other = family_lm("gpt2"), family_lm("gemma3")
    with serving(writing({"tiny": lm})) as first, serving(writing({"tiny": lm})) as second:
        one, two = connect(first, lm), connect(second, lm)
    assert one.identity == two.identity, "an address is none"
    with serving(writing({"tiny": other})) as server:
        endpoint = CompletionsEndpoint(server.url)
        assert Served.connect(endpoint, other, TEXTS).identity != one.identity
    assert one.identity["facts"] == {"root": "folder/tiny"}
    assert len(one.probes) == len(set(TEXTS))


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (text("a b c d e f g h i j k l m n o p q r s t u v w x y z" * 2), "writes more than the 1 token"),
        (text("a", choices=[{"text": "a", "token_ids": [10**9]}]), "beyond the vocabulary"),
    ],
)
def test_texts_that_the_model_cannot_have_written_are_refused(answer, fault, family_lm):
    lm = family_lm("gpt2")
    with serving(writing({"tiny": lm})) as server:
        served = connect(server, lm)
    with serving(instead(writing({"tiny": lm}), lambda _request: answer)) as server:
        endpoint = CompletionsEndpoint(server.url, model="tiny")
        with pytest.raises(DposcopeError, match=fault):
            replace(served, endpoint=endpoint).write(lm, TEXTS[:2], new_tokens=1)
