"""What a server may say, and what becomes of it: hostile answers, refusals, lists of models."""

import json

import pytest

from dposcope.errors import DposcopeError
from dposcope.model.engine.endpoint import CompletionsEndpoint, Refused
from helpers.completions import models, refused, text
from helpers.endpoints import Answer, Clock, scripted, serving

ASK = {"model": "m", "new_tokens": 4, "temperature": 0.0, "top_p": 1.0, "seed": 0, "further": {}}


def endpoint(server, **options) -> CompletionsEndpoint:
    return CompletionsEndpoint(server.url, **({"sleep": Clock().sleep, "attempts": 2, "timeout": 5} | options))


def body(value) -> Answer:
    return Answer(body=json.dumps(value))


def choice(**fields) -> Answer:
    return body({"choices": [{"text": "a", **fields}]})


UNFIT = {
    "no JSON": (Answer(body="<html>"), "it is not JSON"),
    "nested deeply": (Answer(body="[" * 100_000), "it is not JSON"),
    "too much": (Answer(body=json.dumps({"choices": [{"text": "a" * (1 << 20)}]})), "it is not JSON, or too long"),
    "a list": (body([]), r"choices\[0\]"),
    "nothing": (body({}), r"choices\[0\]"),
    "no choice": (body({"choices": []}), r"choices\[0\]"),
    "choices are a text": (body({"choices": "a"}), r"choices\[0\]"),
    "a choice is a text": (body({"choices": ["a"]}), r"choices\[0\]"),
    "the text is a number": (choice(text=7), r"choices\[0\]"),
    "the text is null": (choice(text=None), r"choices\[0\]"),
    "two texts": (body({"choices": [{"text": "a"}, {"text": "b"}]}), "2 texts for one prompt"),
    "a long text": (choice(text="a" * 2000), "longer than the 4 tokens"),
    "many tokens": (text("a", usage={"completion_tokens": 9}), "longer than the 4 tokens"),
    "many ids": (choice(token_ids=[1] * 6), "longer than the 4 tokens"),
    "ids are a text": (choice(token_ids="1"), "no token ids"),
    "ids are negative": (choice(token_ids=[-1]), "no token ids"),
    "ids are true": (choice(token_ids=[True]), "no token ids"),
    "ids are fractions": (choice(token_ids=[1.5]), "no token ids"),
}


@pytest.mark.parametrize("name", UNFIT)
def test_an_answer_that_is_no_completion_is_told_in_one_line(name):
    answer, fault = UNFIT[name]
    with serving(scripted(answer)) as server:
        with pytest.raises(DposcopeError, match=fault) as told:
            endpoint(server).complete([1], **ASK)
        assert "\n" not in str(told.value)
        assert "check that the server speaks the OpenAI API" in str(told.value)
        assert len(server.requests) == 1, "asked again for what will not change"


def test_what_is_right_is_read_and_halves_of_characters_are_replaced():
    answer = Answer(body='{"choices": [{"text": "a\\ud800b\\ud83d\\ude00", "token_ids": [1, 2]}], "usage": null}')
    usage = text("c", usage={"prompt_tokens": 3, "completion_tokens": 5})  # with the end-of-text token
    odd = text("d", usage={"prompt_tokens": "3", "completion_tokens": -1})
    with serving(scripted(answer, usage, odd)) as server:
        read = [endpoint(server).complete([1], **ASK) for _ in range(3)]
    assert [one.text for one in read] == ["a�b😀", "c", "d"]
    assert [one.ids for one in read] == [(1, 2), None, None]
    assert [one.prompt_tokens for one in read] == [None, 3, None]


REFUSALS = {
    "wants a key": (refused("who?", 401), "wants a key .*DPOSCOPE_API_KEY"),
    "forbidden": (refused("no", 403), r"refuses \(403 Forbidden: no\); check what the key"),
    "not there": (refused("no", 404), r"refuses \(404 Not Found: no\); check the address"),
    "redirects": (Answer(307, headers={"Location": "http://127.0.0.1:9/v1"}), "redirects .* not followed"),
    "500s": (refused("broken", 500), r"no answer in 2 attempts \(last: 500 Internal Server Error: broken\); look at"),
    "cut": (Answer(raw=b"HTTP/1.1 200 OK\r\nContent-Length: 90\r\n\r\n{"), "no answer in 2 attempts .*--concurrency"),
    "dropped": (Answer(drop=True), "no answer in 2 attempts"),
    "waits long": (Answer(429, headers={"Retry-After": "9999"}), "asks to wait 9,999 seconds"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refusals_and_failures_say_what_to_do(name):
    answer, fault = REFUSALS[name]
    with serving(scripted(answer)) as server:
        for ask in (lambda: endpoint(server).complete("a", **ASK), endpoint(server).served):
            with pytest.raises(DposcopeError, match=fault if "404" not in fault else "404|does not list") as told:
                ask()
            assert "\n" not in str(told.value)
            assert not isinstance(told.value, Refused)
        assert all(request.path.startswith("/v1/") for request in server.requests)


@pytest.mark.parametrize("status", [400, 415, 422])
def test_a_form_that_is_not_taken_is_an_error_of_its_own(status):
    with (
        serving(scripted(refused("prompt must be a text", status))) as server,
        pytest.raises(Refused, match="prompt must be a text"),
    ):
        endpoint(server).complete([1], **ASK)


def test_a_server_that_is_slow_or_away():
    with (
        serving(scripted(Answer(hang=True))) as server,
        pytest.raises(DposcopeError, match=r"2 attempts \(last: timed out\); look at the server's log"),
    ):
        endpoint(server, timeout=0.05).complete([1], **ASK)
    with pytest.raises(DposcopeError, match=r"cannot reach .* check the address, and that its server runs"):
        endpoint(server).served()


def test_the_key_is_sent_and_not_shown(monkeypatch):
    monkeypatch.setenv("DPOSCOPE_API_KEY", "sesame-1")
    with serving(scripted(refused("the key sesame-1 is bad", 403))) as server:
        with pytest.raises(DposcopeError, match=r"the key \*\*\* is bad"):
            endpoint(server).complete([1], **ASK)
        sent = server.requests[0].headers["Authorization"]
    assert sent == "Bearer sesame-1"


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://a/v1", "http://a:b@c/v1", "http://a/v1?key=1", "http://", ""])
def test_an_address_that_is_none_or_holds_a_secret_is_refused(url):
    with pytest.raises(DposcopeError):
        CompletionsEndpoint(url)


@pytest.mark.parametrize(
    ("given", "base"),
    [
        ("http://a:1", "http://a:1/v1"),
        ("http://a/", "http://a/v1"),
        ("http://a/v1/", "http://a/v1"),
        ("http://a/v1/completions", "http://a/v1"),
        ("https://a/other/v2", "https://a/other/v2"),
    ],
)
def test_the_base_of_an_address(given, base):
    assert CompletionsEndpoint(given).url == base


def test_the_model_is_the_only_one_or_the_one_that_is_named():
    for named, listed, found in (
        (None, models("a"), "a"),
        ("b", models("a", "b"), "b"),
        ("x", refused("no list", 404), "x"),
    ):
        with serving(scripted(listed)) as server:
            assert endpoint(server, model=named).served().name == found
    with serving(scripted(models("a"))) as server:
        assert endpoint(server).served().facts == {"root": "folder/a"}, "the time of its start is no fact of a model"
    meta = {"id": "a", "meta": {"n_params": 5, "size": True, "ftype": "Q4\x1b"}, "max_model_len": 1.5}
    with serving(scripted(body({"data": [meta]}))) as server:
        assert endpoint(server).served().facts == {"n_params": 5, "ftype": "Q4␛"}


@pytest.mark.parametrize(
    ("named", "listed", "fault"),
    [
        (None, models("a", "b"), r"has a, b; name one, as in http.*/v1#NAME"),
        (None, models(), "has none; name one"),
        (None, models(*"abcdefgh"), "a, b, c, d, e and 3 more"),
        ("x", models("a"), "has no model 'x', but a; name one that it has"),
        (None, refused("no", 404), "does not list its models; name one"),
        (None, body({"data": [{"id": 5}]}), "is no list of models"),
        (None, body({"data": {"id": "a"}}), "is no list of models"),
        (None, body([]), "is no list of models"),
        (None, Answer(body="x"), "is no list of models"),
        (None, body({"data": [{"id": "a" * 5000}]}), "is no list of models"),
    ],
)
def test_a_list_of_models_that_does_not_name_one(named, listed, fault):
    with serving(scripted(listed)) as server, pytest.raises(DposcopeError, match=fault):
        endpoint(server, model=named).served()
