"""The server: what it sends, and what it refuses, to whomever knocks."""

import errno
import json
import re
import socket
import threading
import time
from dataclasses import replace

import pytest

from dposcope.errors import DposcopeError
from dposcope.talk.session import Session
from dposcope.talk.web.answering import MOST_LETTERS, MOST_TOKENS
from dposcope.talk.web.server import BUSY, MOST_BYTES, MOST_CONNECTIONS, PATIENCE, TalkServer
from helpers.families import hook_count, tiny
from helpers.html import Parsed
from helpers.pages import HOSTILE
from helpers.served import QUESTION, answering_of, asked, raw, request, served


@pytest.fixture(scope="module")
def model():
    return tiny("llama")


@pytest.fixture
def server(model):
    with served(answering_of(model)) as one:
        yield one
    assert hook_count(model.model) == 0


# What it sends


def test_the_page_and_its_files(server):
    kinds = {"": "text/html", "page.css": "text/css", "page.js": "text/javascript", "icon.svg": "image/svg+xml"}
    for name, kind in kinds.items():
        got = request(server, "GET", name)
        assert (got.status, got.headers["content-type"].partition(";")[0]) == (200, kind)
        assert len(got.body) == int(got.headers["content-length"]) > 0
        head = request(server, "HEAD", name)
        assert (head.status, head.headers["content-length"], head.body) == (200, str(len(got.body)), b"")
    assert request(server, "GET", "?x=1", Host=f"localhost:{server.port}").status == 200


def test_browsers_leave_out_the_usual_port(server, monkeypatch):
    monkeypatch.setattr(type(server), "port", 80)
    assert server.hosts == ("127.0.0.1:80", "localhost:80", "127.0.0.1", "localhost")
    monkeypatch.setattr(type(server), "port", 8080)
    assert server.hosts == ("127.0.0.1:8080", "localhost:8080")


def test_the_page_has_nothing_inline_and_nothing_from_elsewhere(server):
    text = request(server, "GET").body.decode()
    parsed = Parsed(text)
    assert [one["src"] for one in parsed.all("script")] == ["page.js"]
    assert {one["href"] for one in parsed.all("link")} == {"icon.svg", "page.css"}
    assert not parsed.all("style")
    assert not [name for name, _ in parsed.attributes() if name == "style" or name.startswith("on")]
    for name in ("", "page.css", "page.js"):
        body = request(server, "GET", name).body.decode()
        assert not [part for part in ("https:", "http:", "@import", "innerHTML", "eval(") if part in body], name


def test_every_answer_has_the_strict_headers(server):
    replies = [request(server, "GET"), request(server, "GET", "none"), request(server, "PUT", ""), asked(server)]
    for got in replies:
        policy = dict(part.strip().partition(" ")[::2] for part in got.headers["content-security-policy"].split(";"))
        assert policy["default-src"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
        assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
        assert got.headers["x-content-type-options"] == "nosniff"
        assert got.headers["referrer-policy"] == "no-referrer"
        assert got.headers["cache-control"] == "no-store"
        assert "access-control-allow-origin" not in got.headers
        assert got.headers["server"].strip() == "dposcope"


def test_a_question_gets_both_answers(server, model):
    got = asked(server)
    assert got.status == 200
    session = server.answering.session
    done = got.events[-1]
    for side, strength in (("plain", 0), ("edited", 1)):
        wanted = session.answer(QUESTION["prompt"], strength, new_tokens=6)
        assert done["answers"][side]["raw"] == wanted.text


def test_a_model_with_a_hostile_name_is_text(model):
    hostile = replace(model, name="</title><script>alert(1)</script>")
    with served(answering_of(hostile)) as one:
        text = request(one, "GET").body.decode()
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(1)" in text


@pytest.mark.parametrize("prompt", [*HOSTILE, "\ud83d", "\x00", "a" * 100])
def test_hostile_prompts_are_answered_in_lines_of_json(server, prompt):
    got = asked(server, prompt=prompt, new_tokens=2)
    if got.status == 200:
        assert got.events[-1]["event"] in ("done", "error")
    else:
        assert got.status == 400


# What it refuses


@pytest.mark.parametrize(
    "host", [None, "", "evil.example", "127.0.0.1", "127.0.0.1:1", "localhost", "[::1]:{}", "x@127.0.0.1:{}"]
)
@pytest.mark.parametrize(("method", "path"), [("GET", ""), ("POST", "answer")])
def test_another_host_is_refused(server, host, method, path):
    host = host and host.format(server.port)
    got = request(server, method, path, QUESTION if method == "POST" else None, Host=host)
    assert (got.status, got.error) == (421, "This server answers to the name 127.0.0.1 only.")


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/answer",
        "//",
        "/x/",
        "/{}",
        "/{}x/",
        "/x{}/",
        "{}/",
        "http://127.0.0.1/{}/",
        "/../{}/",
        "/%00/",
        "/é/",
        "*",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_wrong_token_finds_nothing(server, path, method):
    whole = path.format(server.token).encode("latin-1").decode("latin-1")
    got = raw(server, f"{method} {whole} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n\r\n".encode("latin-1"))
    assert b" 404 " in got.split(b"\r\n")[0]
    assert server.token.encode() not in got


@pytest.mark.parametrize("name", ["none", "../page.css", "page.css/", "%2e%2e/", "answer", "/"])
def test_there_is_nothing_else(server, name):
    assert request(server, "GET", name).status == 404


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "X"])
def test_other_methods_are_refused(server, method):
    assert request(server, method, "answer").status == 501
    assert request(server, "POST", "page.js", QUESTION).status == 405


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://127.0.0.1:1"}, 403),
        ({"Sec_Fetch_Site": "cross-site"}, 403),
        ({"Sec_Fetch_Site": "same-site"}, 403),
        ({"Content_Type": "text/plain"}, 415),
        ({"Content_Type": None}, 415),
        ({"Content_Type": "application/x-www-form-urlencoded"}, 415),
        ({"Content_Length": None}, 411),
        ({"Content_Length": "many"}, 411),
        ({"Content_Length": "-1"}, 411),
        ({"Content_Length": "٣"}, 411),
        ({"Transfer_Encoding": "chunked"}, 411),
        ({"Content_Length": str(MOST_BYTES + 1)}, 413),
        ({"Content_Length": "9" * 12}, 411),
    ],
)
def test_questions_from_elsewhere_or_of_another_kind(server, headers, status):
    if headers.get("Content_Length") == str(MOST_BYTES + 1):
        got = request(server, "POST", "answer", b" " * (MOST_BYTES + 1))
    else:
        given = {name: value.encode() if value and not value.isascii() else value for name, value in headers.items()}
        got = request(server, "POST", "answer", QUESTION, **given)
    assert got.status == status
    assert got.error.endswith(".")
    own = {"Origin": f"http://127.0.0.1:{server.port}", "Sec_Fetch_Site": "same-origin"}
    assert request(server, "POST", "answer", QUESTION | {"new_tokens": 1}, **own).status == 200


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"", "is empty|is not JSON"),
        (b"{", "is not JSON"),
        (b"\xff\xfe", "not UTF-8"),
        (b"[]", "damaged"),
        (b"null", "damaged"),
        (b"[" * 20_000, "nested too deeply|is not JSON"),
        ({}, "prompt is missing"),
        (QUESTION | {"prompt": 7}, "prompt"),
        (QUESTION | {"prompt": "a" * (MOST_LETTERS + 1)}, "prompt"),
        (QUESTION | {"strength": "1"}, "strength"),
        (QUESTION | {"strength": -0.1}, "strength"),
        (QUESTION | {"strength": 2.1}, "strength"),
        (b'{"prompt": "a", "strength": NaN, "new_tokens": 1}', "NaN is no number of JSON"),
        (b'{"prompt": "a", "strength": 1e999, "new_tokens": 1}', "too large a number"),
        (b'{"prompt": "a", "prompt": "b", "strength": 1, "new_tokens": 1}', "twice"),
        (QUESTION | {"new_tokens": 0}, "new_tokens"),
        (QUESTION | {"new_tokens": MOST_TOKENS + 1}, "new_tokens"),
        (QUESTION | {"new_tokens": 1.5}, "new_tokens"),
        (QUESTION | {"new_tokens": True}, "new_tokens"),
    ],
)
def test_a_bad_question_is_told_in_one_line(server, body, told):
    got = request(server, "POST", "answer", body)
    assert got.status == 400
    assert re.search(told, got.error)
    assert "\n" not in got.error
    assert asked(server, new_tokens=1).status == 200


@pytest.mark.parametrize(
    ("change", "told"), [({"prompt": "a " * 300}, "do not fit into"), ({"prompt": "  "}, "is blank")]
)
def test_what_the_model_cannot_answer_is_an_event(server, change, told):
    events = asked(server, **change).events
    assert [event["event"] for event in events] == ["error"]
    assert told in events[0]["message"]


def test_a_fault_of_the_program_is_told_and_the_server_goes_on(server, monkeypatch):
    def fails(*_: object, **__: object):
        raise ZeroDivisionError("oh")

    with monkeypatch.context() as patch:
        patch.setattr(Session, "answer", fails)
        assert asked(server).events == [{"event": "error", "message": "internal error: ZeroDivisionError: oh"}]
    assert asked(server).events[-1]["event"] == "done"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\x16\x03\x01\x02",
        b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 300,
        b"GET /" + b"a" * 70_000,
        b"POST / HTTP/1.1\r\nHost",
    ],
)
def test_what_is_no_request_harms_nothing(server, data, capfd):
    raw(server, data)
    assert asked(server, new_tokens=1).status == 200
    assert capfd.readouterr().err == ""


def test_one_answer_at_a_time(server):
    with server.writing:
        got = asked(server)
        assert (got.status, got.error) == (503, BUSY)
        assert request(server, "GET").status == 200
    assert asked(server, new_tokens=1).status == 200


def slow_answers(monkeypatch, seconds: float) -> tuple[threading.Event, list[str]]:
    """So long for each token; told when the first is written, and what was written."""
    begun, tokens = threading.Event(), []
    answer = Session.answer

    def slow(self, prompt, strength, *, new_tokens, heard):
        def count(text: str) -> None:
            begun.set()
            tokens.append(text)
            time.sleep(seconds)
            heard(text)

        return answer(self, prompt, strength, new_tokens=new_tokens, heard=count)

    monkeypatch.setattr(Session, "answer", slow)
    return begun, tokens


def ask_for_much(server) -> socket.socket:
    """A connection that asks for an answer of many tokens, and reads nothing yet."""
    body = json.dumps(QUESTION | {"new_tokens": 60}).encode()
    head = f"POST /{server.token}/answer HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    line = socket.create_connection(("127.0.0.1", server.port))
    line.sendall(head.encode() + body)
    return line


def test_an_answer_that_nobody_hears_ends(server, monkeypatch):
    begun, tokens = slow_answers(monkeypatch, 0.05)
    with ask_for_much(server):
        assert begun.wait(20)
    assert server.writing.acquire(timeout=20)
    server.writing.release()
    assert len(tokens) < 60


def test_too_many_connections_are_turned_away(server):
    waiting = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(MOST_CONNECTIONS)]
    try:
        for _ in range(200):  # until all have their threads
            got = raw(server, b"")
            if got:
                break
            time.sleep(0.02)
        assert got.startswith(b"HTTP/1.0 503 ")
    finally:
        for line in waiting:
            line.close()
    page = f"GET /{server.token}/ HTTP/1.0\r\nHost: 127.0.0.1:{server.port}\r\n\r\n".encode()
    for _ in range(200):
        if raw(server, page).startswith(b"HTTP/1.0 200"):
            break
        time.sleep(0.02)
    else:
        pytest.fail("connections that ended are still counted")


def test_a_connection_that_gets_no_thread_is_closed_and_not_counted(server, monkeypatch):
    def none(_self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", none)
        assert [raw(server, b"") for _ in range(MOST_CONNECTIONS + 1)] == [b""] * (MOST_CONNECTIONS + 1)
    assert asked(server, new_tokens=1).status == 200


def test_at_its_end_no_thread_is_left(model, monkeypatch):
    """Not even that of a connection which sends nothing, nor that of an answer with many tokens to come."""
    before = set(threading.enumerate())
    begun, _ = slow_answers(monkeypatch, 0.5)
    with served(answering_of(model)) as server:
        silent, asking = socket.create_connection(("127.0.0.1", server.port)), ask_for_much(server)
        assert begun.wait(20)
        assert len(set(threading.enumerate()) - before) == 3, "the server's, and one for each connection"
        start = time.monotonic()
    assert time.monotonic() - start < PATIENCE / 2
    assert set(threading.enumerate()) <= before
    with silent, asking:
        assert silent.recv(1) == b""


# Its port


def test_it_listens_on_this_machine_alone(server):
    assert server.server_address[0] == "127.0.0.1"
    assert server.address == f"http://127.0.0.1:{server.port}/{server.token}/"


def test_every_server_has_a_token_of_its_own():
    tokens = set()
    for _ in range(3):
        one = TalkServer(0)
        tokens.add(one.token)
        one.server_close()
    assert len(tokens) == 3
    assert min(map(len, tokens)) >= 24


def test_a_taken_port_gets_one_line(server):
    with pytest.raises(DposcopeError, match=rf"port {server.port} is taken; give another with --port, or --port 0"):
        TalkServer(server.port)


def test_a_port_that_is_not_allowed_gets_one_line(monkeypatch):
    def refused(_self):
        raise OSError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(TalkServer, "server_bind", refused)
    with pytest.raises(DposcopeError, match="port 80 is not allowed for this user"):
        TalkServer(80)
