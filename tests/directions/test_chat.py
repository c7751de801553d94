"""The client of chat endpoints, against a server on this machine that misbehaves on request."""

import json
import math
import socket
import traceback

import pytest

from dposcope.directions.chat import KEY_VARIABLE, ChatEndpoint, ChatMessage
from dposcope.errors import DposcopeError
from helpers.endpoints import Answer, Clock, completion, scripted, serving

KEY = "sk-Secret+1234/abcd=="
HELLO = [ChatMessage("system", "be brief"), ChatMessage("user", "hello ☃")]


@pytest.fixture(autouse=True)
def _surroundings(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv(KEY_VARIABLE, KEY)


def chat(url, clock=None, **settings):
    clock = clock or Clock()
    settings = {"requests_per_minute": math.inf, **settings}
    return ChatEndpoint(url, sleep=clock.sleep, clock=clock, **settings)


# What is sent


def test_a_request_is_the_conversation_and_the_answer_its_text():
    with serving(scripted(completion("good day"))) as server:
        assert chat(server.url, model="some-model").ask(HELLO) == "good day"
    (request,) = server.requests
    assert request.path == "/v1/chat/completions"
    assert request.headers["Authorization"] == f"Bearer {KEY}"
    assert request.headers["Content-Type"] == "application/json"
    assert request.body == {
        "model": "some-model",
        "temperature": 0.0,
        "messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hello ☃"}],
    }


def test_without_a_key_or_a_temperature_neither_is_sent(monkeypatch):
    monkeypatch.delenv(KEY_VARIABLE)
    with serving(scripted(completion("x"))) as server:
        chat(server.url, temperature=None).ask(HELLO)
    assert "Authorization" not in server.requests[0].headers
    assert "temperature" not in server.requests[0].body


def test_the_key_is_read_anew_for_each_request(monkeypatch):
    with serving(scripted(completion("x"))) as server:
        endpoint = chat(server.url)
        endpoint.ask(HELLO)
        monkeypatch.setenv(KEY_VARIABLE, "  other\n")
        endpoint.ask(HELLO)
    assert server.requests[1].headers["Authorization"] == "Bearer other"


@pytest.mark.parametrize(
    ("given", "address"),
    [
        ("https://api.openai.com", "https://api.openai.com/v1/chat/completions"),
        ("https://api.openai.com/", "https://api.openai.com/v1/chat/completions"),
        ("https://api.openai.com/v1", "https://api.openai.com/v1/chat/completions"),
        ("https://api.openai.com/v1/", "https://api.openai.com/v1/chat/completions"),
        ("https://api.openai.com/v1/chat/completions", "https://api.openai.com/v1/chat/completions"),
        ("HTTP://localhost:8000/openai/v2", "http://localhost:8000/openai/v2/chat/completions"),
        ("http://[::1]:80", "http://[::1]:80/v1/chat/completions"),
    ],
)
def test_addresses_are_completed(given, address):
    assert ChatEndpoint(given).url == address


@pytest.mark.parametrize(
    "url", ["", "api.openai.com", "ftp://host/v1", "https://", "https://host/a b", "https://hôst/v1", "http://h/v1#m"]
)
def test_what_is_no_address_is_refused(url):
    with pytest.raises(DposcopeError, match=r"is no http or https address; give one such as https://"):
        ChatEndpoint(url)


@pytest.mark.parametrize("url", ["http://host:99999/v1", "http://[::1/v1"])
def test_what_cannot_be_read_as_an_address_is_refused(url):
    with pytest.raises(DposcopeError, match="the endpoint is no address; give one such as"):
        ChatEndpoint(url)


@pytest.mark.parametrize("url", [f"https://me:{KEY}@host/v1", f"https://{KEY}@host/v1", f"https://host/v1?key={KEY}"])
def test_an_address_with_a_secret_is_refused_and_not_repeated(url):
    with pytest.raises(DposcopeError, match=f"put the key in {KEY_VARIABLE}") as caught:
        ChatEndpoint(url)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": ""}, "model '' is no name"),
        ({"model": "a\nb"}, "is no name; give the one that the endpoint knows"),
        ({"attempts": 0}, "attempts 0 is below 1"),
        ({"requests_per_minute": 0}, "requests_per_minute 0 is not above 0"),
        ({"timeout": math.nan}, "timeout nan is not above 0"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(DposcopeError, match=message):
        ChatEndpoint("http://localhost", **settings)


@pytest.mark.parametrize("key", ["two words", "clé", "a\x00b", "line\nbreak"])
def test_a_key_that_no_header_can_hold_is_refused_before_anything_is_sent(monkeypatch, key):
    # The system takes no zero byte in a variable, so the mapping is replaced.
    monkeypatch.setattr("dposcope.service.os.environ", {KEY_VARIABLE: key})
    with serving(scripted(completion("x"))) as server, pytest.raises(DposcopeError, match="set it again") as caught:
        chat(server.url).ask(HELLO)
    assert server.requests == []
    assert key not in str(caught.value)


# What comes back


@pytest.mark.parametrize(
    "body",
    [
        "",
        "{",
        "<html>",
        "[]",
        "{}",
        '{"choices": []}',
        '{"choices": [{"message": {"content": null, "refusal": "no"}}]}',
        '{"choices": [{"message": {"content": [1]}}]}',
        '{"choices": "text"}',
        "[" * 100_000,
    ],
)
def test_a_body_that_is_no_completion_gives_none(body):
    with serving(scripted(Answer(body=body))) as server:
        assert chat(server.url).ask(HELLO) is None
    assert len(server.requests) == 1


# What is tried again


def test_429_waits_as_long_as_the_server_says():
    clock = Clock()
    busy = Answer(429, headers={"Retry-After": "7"})
    with serving(scripted(busy, Answer(429, headers={"Retry-After": "0.25"}), completion("x"))) as server:
        assert chat(server.url, clock).ask(HELLO) == "x"
    assert clock.slept == [7, 0.25]
    assert len(server.requests) == 3


def test_retry_after_may_be_a_date_beside_the_servers_own():
    clock = Clock()
    dates = {"Date": "Wed, 21 Oct 2015 07:28:00 GMT", "Retry-After": "Wed, 21 Oct 2015 07:28:42 GMT"}
    with serving(scripted(Answer(raw=_raw(503, dates)), completion("x"))) as server:
        assert chat(server.url, clock).ask(HELLO) == "x"
    assert clock.slept == [42]


@pytest.mark.parametrize("value", ["soon", "-3", "1e9", ""])
def test_another_retry_after_is_as_none(value):
    clock = Clock()
    with serving(scripted(Answer(500, headers={"Retry-After": value}), completion("x"))) as server:
        assert chat(server.url, clock).ask(HELLO) == "x"
    assert clock.slept == [1]


def test_a_server_that_asks_for_more_than_five_minutes_is_not_waited_for():
    clock = Clock()
    with (
        serving(scripted(Answer(429, headers={"Retry-After": "3600"}))) as server,
        pytest.raises(DposcopeError, match=r"asks to wait 3,600 seconds \(429 Too Many Requests\); run again after"),
    ):
        chat(server.url, clock).ask(HELLO)
    assert clock.slept == []
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 529])
def test_passing_faults_wait_longer_each_time_and_are_given_up(status):
    clock = Clock()
    with (
        serving(scripted(Answer(status, '{"error": {"message": "busy"}}'))) as server,
        pytest.raises(DposcopeError, match=rf"gave no answer in 4 attempts \(last: {status} .*: busy\); try again"),
    ):
        chat(server.url, clock, attempts=4).ask(HELLO)
    assert clock.slept == [1, 2, 4]
    assert len(server.requests) == 4


@pytest.mark.parametrize("fault", [Answer(drop=True), Answer(raw=b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{")])
def test_a_connection_that_breaks_is_tried_again(fault):
    clock = Clock()
    with serving(scripted(fault, completion("x"))) as server:
        assert chat(server.url, clock).ask(HELLO) == "x"
    assert clock.slept == [1]


def test_a_server_that_says_nothing_is_timed_out_and_asked_again():
    clock = Clock()
    with serving(scripted(Answer(hang=True), completion("x"))) as server:
        assert chat(server.url, clock, timeout=0.2).ask(HELLO) == "x"
    assert clock.slept == [1]
    with (
        serving(scripted(Answer(hang=True))) as server,
        pytest.raises(DposcopeError, match=r"gave no answer in 1 attempt \(last: timed out\); try again later"),
    ):
        chat(server.url, timeout=0.1, attempts=1).ask(HELLO)


# What is not


def test_a_closed_port_is_told_at_once():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    clock = Clock()
    with pytest.raises(DposcopeError, match=r"cannot reach http://.*refused.*; check the address, and that its server"):
        chat(f"http://127.0.0.1:{port}", clock).ask(HELLO)
    assert clock.slept == []


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed(status):
    with serving(scripted(completion("x"))) as elsewhere:
        moved = Answer(status, headers={"Location": f"{elsewhere.url}/chat/completions"})
        with (
            serving(scripted(moved)) as server,
            pytest.raises(DposcopeError, match=rf"redirects \({status} .*\), which is not followed; give the final"),
        ):
            chat(server.url).ask(HELLO)
        assert elsewhere.requests == []
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (400, "refuses .400 Bad Request: too long.; check that it takes chat messages for the model 'gpt-4o'"),
        (401, f"does not accept the key .401.; set {KEY_VARIABLE} to a valid key"),
        (403, f"refuses .403 Forbidden: too long.; check what the key in {KEY_VARIABLE} allows"),
        (404, "refuses .404 Not Found: too long.; check the address, and that it knows the model 'gpt-4o'"),
    ],
)
def test_a_refusal_is_told_at_once_with_its_mend(status, message):
    clock = Clock()
    with (
        serving(scripted(Answer(status, '{"error": {"message": "too long"}}'))) as server,
        pytest.raises(DposcopeError, match=message),
    ):
        chat(server.url, clock).ask(HELLO)
    assert len(server.requests) == 1
    assert clock.slept == []


def test_a_missing_key_is_asked_for(monkeypatch):
    monkeypatch.delenv(KEY_VARIABLE)
    with serving(scripted(Answer(401))) as server, pytest.raises(DposcopeError, match=f"wants a key.*{KEY_VARIABLE}"):
        chat(server.url).ask(HELLO)


@pytest.mark.parametrize(
    "body", ['{"message": "no"}', '{"detail": "no"}', '{"error": "no"}', '{"error": {"detail": "no"}}']
)
def test_a_servers_reason_is_found_where_servers_put_it(body):
    with serving(scripted(Answer(400, body))) as server, pytest.raises(DposcopeError, match="Bad Request: no"):
        chat(server.url).ask(HELLO)


@pytest.mark.parametrize("body", ["", "no json", '{"detail": [{"loc": 1}]}', "[]"])
def test_a_refusal_without_a_reason_names_the_status(body):
    with serving(scripted(Answer(400, body))) as server, pytest.raises(DposcopeError, match=r"\(400 Bad Request\)"):
        chat(server.url).ask(HELLO)


def test_what_a_server_says_is_shown_on_one_short_line():
    said = "a\nb\x1b[31m\u202e " + "x" * 500
    with (
        serving(scripted(Answer(400, json.dumps({"error": said})))) as server,
        pytest.raises(DposcopeError, match=r"a b \[31m x+…\);") as caught,
    ):
        chat(server.url).ask(HELLO)
    assert "x" * 160 not in str(caught.value)
    assert str(caught.value).isprintable()


# The key


_ECHO = json.dumps({"error": {"message": f"the key {KEY} is bad, {KEY}"}})


@pytest.mark.parametrize(
    "answer",
    [
        *[Answer(status, _ECHO) for status in (301, 400, 401, 403, 404, 422, 429, 500)],
        Answer(429, _ECHO, {"Retry-After": "9999"}),
        Answer(raw=f"{KEY} HTTP nonsense {KEY}\r\n\r\n".encode()),
        Answer(raw=f"HTTP/1.1 {KEY} OK\r\n\r\n".encode()),
    ],
)
def test_the_key_never_appears_in_what_a_fault_prints(answer):
    with serving(scripted(answer)) as server:
        endpoint = chat(server.url, attempts=2)
        with pytest.raises(DposcopeError) as caught:
            endpoint.ask(HELLO)
        assert server.requests[0].headers["Authorization"].endswith(KEY), "nothing to hide"
    assert KEY not in "".join(traceback.format_exception(caught.value))
    assert KEY not in repr(vars(endpoint)) + repr(vars(endpoint._service))


def test_an_echoed_key_is_starred_where_the_reason_is_told():
    with serving(scripted(Answer(400, _ECHO))) as server, pytest.raises(DposcopeError, match=r"the key \*\*\* is bad"):
        chat(server.url).ask(HELLO)


# The rate


def test_requests_keep_their_distance():
    """30 a minute: no two starts within 2 seconds, whatever a request itself takes."""
    clock = Clock()
    starts = []

    def script(_request):
        starts.append(clock.now)
        clock.now += [0.5, 0.0, 5.0, 0.0, 1.0][len(starts) - 1]
        return completion("x")

    with serving(script) as server:
        endpoint = chat(server.url, clock, requests_per_minute=30)
        for _ in range(5):
            endpoint.ask(HELLO)
    assert [start - 1000 for start in starts] == [0, 2, 4, 9, 11]


def test_repeated_requests_keep_it_too():
    clock = Clock()
    starts = []

    def script(_request):
        starts.append(clock.now - 1000)
        return Answer(500) if len(starts) < 3 else completion("x")

    with serving(script) as server:
        chat(server.url, clock, requests_per_minute=6).ask(HELLO)
    assert starts == [0, 10, 20]


def test_without_a_limit_nothing_is_waited_for():
    clock = Clock()
    with serving(scripted(completion("x"))) as server:
        endpoint = chat(server.url, clock, requests_per_minute=math.inf, timeout=math.inf)
        for _ in range(3):
            endpoint.ask(HELLO)
    assert clock.slept == []


def _raw(status: int, headers: dict[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {status} X", *[f"{name}: {value}" for name, value in headers.items()], "Content-Length: 0"]
    return "\r\n".join([*lines, "", ""]).encode()
