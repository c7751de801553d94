"""The Perspective API as a scorer, against a server on this machine. Nothing here reaches the real service."""

import errno
import json
import math
import re
import socket
import ssl
import threading
import traceback
from urllib.parse import quote

import pytest

from dposcope.errors import DposcopeError
from dposcope.evaluation.perspective import scorer as module
from dposcope.evaluation.perspective.scorer import ADDRESS, KEY_VARIABLE, RATE_VARIABLE, cut, perspective_scorer
from dposcope.evaluation.scorers import load_scorer
from helpers.endpoints import Answer, Clock, scripted, serving

KEY = "AIza-Secret_1234/ab+cd=="


@pytest.fixture(autouse=True)
def _surroundings(monkeypatch, tmp_path):
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("DPOSCOPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    monkeypatch.delenv(RATE_VARIABLE, raising=False)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "cache" / "scorers" / "perspective.jsonl"


def scored(value):
    score = {"value": value, "type": "PROBABILITY"}
    spans = [{"begin": 0, "end": 3, "score": {"value": 0.9, "type": "PROBABILITY"}}]
    return Answer(
        body=json.dumps(
            {"attributeScores": {"TOXICITY": {"spanScores": spans, "summaryScore": score}}, "languages": ["en"]}
        )
    )


def by_length(request):
    return scored(len(request.body["comment"]["text"]) / 100)


def fault(message="no", status=400, **detail):
    details = [{"@type": "type.googleapis.com/google.commentanalyzer.v1alpha1.Error", **detail}]
    return Answer(status, json.dumps({"error": {"code": status, "message": message, "details": details}}))


def perspective(server, clock=None, **settings):
    clock = clock or Clock()
    settings = {"queries_per_second": math.inf, "jitter": lambda: 0.0, **settings}
    address = server.url.removesuffix("/v1")
    return perspective_scorer(address=address, sleep=clock.sleep, clock=clock, **settings)


# What is asked


def test_a_request_is_as_documented_and_the_answer_the_summary_score():
    with serving(scripted(scored(0.123456789))) as server:
        assert perspective(server)(["hello ☃"]).tolist() == [0.123456789]
    (request,) = server.requests
    assert request.path == "/v1alpha1/comments:analyze"
    assert request.headers["X-Goog-Api-Key"] == KEY
    assert request.body == {
        "comment": {"text": "hello ☃", "type": "PLAIN_TEXT"},
        "languages": ["en"],
        "requestedAttributes": {"TOXICITY": {}},
        "doNotStore": True,
    }


def test_texts_are_asked_about_in_order_once_each_and_blank_ones_never():
    with serving(by_length) as server:
        scorer = perspective(server)
        assert scorer(["abc", "", "a", "abc", " \n", "ab"]).tolist() == [0.03, 0, 0.01, 0.03, 0, 0.02]
        assert scorer.score([" ", "a", "a", "abcd", "abcd"]) == [0, 0.01, 0.01, 0.04, 0.04]
    assert [request.body["comment"]["text"] for request in server.requests] == ["abc", "a", "ab", "abcd"]


@pytest.mark.parametrize(
    ("text", "sent"),
    [
        ("a" * 20_481, "a" * 20_480),
        ("é" * 20_000, "é" * 10_240),
        ("a" + "☃" * 10_000, "a" + "☃" * 6826),  # 1 + 3 × 6,826 = 20,479: the next would not fit
        ("\ud800x", "?x"),
    ],
)
def test_long_texts_are_cut_between_characters_and_halves_of_characters_replaced(text, sent):
    assert cut(text) == sent
    with serving(scripted(scored(0.5))) as server:
        scorer = perspective(server)
        scorer([text])
        scorer.score([text])
    assert [request.body["comment"]["text"] for request in server.requests] == [sent]


def test_what_is_blank_after_the_cut_is_not_sent():
    with serving(scripted(scored(0.5))) as server:
        assert perspective(server)([" " * 20_480 + "a"]).tolist() == [0]
    assert server.requests == []


def test_a_text_that_the_service_calls_empty_scores_0_for_good(monkeypatch):
    with serving(scripted(fault("Comment must be non-empty.", errorType="COMMENT_EMPTY"))) as server:
        assert perspective(server)(["\u200b"]).tolist() == [0]
    monkeypatch.delenv(KEY_VARIABLE)
    assert perspective_scorer()(["\u200b"]).tolist() == [0]


def test_the_scorer_has_a_name_and_a_digest_of_what_is_asked(monkeypatch):
    with serving(by_length) as server:
        scorer = perspective(server)
        assert scorer.name == "perspective"
        digest = scorer.digest
        monkeypatch.setenv(KEY_VARIABLE, "another")
        assert perspective(server).digest == digest
        monkeypatch.setattr(module, "_ATTRIBUTE", "INSULT")
        assert perspective(server).digest != digest


def test_load_scorer_knows_it_and_sends_nothing():
    scorer = load_scorer("perspective")
    assert scorer.name == "perspective"
    assert scorer(["", " "]).tolist() == [0, 0]
    with pytest.raises(DposcopeError, match="perspective has no labels to choose from"):
        load_scorer("perspective", label="toxic")


# Kept answers


def test_kept_answers_are_read_without_a_key_and_where_the_file_is_copied_to(monkeypatch, path, tmp_path):
    with serving(by_length) as server:
        perspective(server)(["abc", "ab"])
    monkeypatch.delenv(KEY_VARIABLE)
    assert load_scorer("perspective")(["ab", "abc", ""]).tolist() == [0.02, 0.03, 0]
    copy = tmp_path / "other machine.jsonl"
    copy.write_bytes(path.read_bytes())
    path.unlink()
    assert perspective_scorer(answers=copy)(["abc", "ab"]).tolist() == [0.03, 0.02]


def test_without_a_key_an_error_counts_the_answers_that_are_missing(monkeypatch, path):
    with serving(by_length) as server:
        perspective(server)(["abc"])
        monkeypatch.delenv(KEY_VARIABLE)
        scorer = perspective(server)
        message = rf"lacks the answer for 2 texts of 3; set {KEY_VARIABLE} to a key of the Perspective API"
        with pytest.raises(DposcopeError, match=message) as caught:
            scorer(["abc", "x", "y", "x", ""])
        assert str(path) in str(caught.value)
        with path.open("a") as file:
            file.write("damage\n")
        with pytest.raises(DposcopeError, match=r"for 1 text of 1 \(1 line of it cannot be read\); set"):
            scorer(["z"])
    assert len(server.requests) == 1


@pytest.mark.parametrize("key", [None, "", "  "])
def test_with_neither_a_key_nor_an_answer_there_is_no_scorer(monkeypatch, key):
    if key is None:
        monkeypatch.delenv(KEY_VARIABLE)
    else:
        monkeypatch.setenv(KEY_VARIABLE, key)
    with pytest.raises(
        DposcopeError, match=rf"has no key, and .*perspective.jsonl holds no answer; set {KEY_VARIABLE}"
    ):
        load_scorer("perspective")


def test_an_interruption_loses_nothing_and_the_next_run_asks_for_the_rest():
    class Interrupted(Clock):
        def sleep(self, seconds):
            if len(self.slept) == 1:
                raise KeyboardInterrupt
            super().sleep(seconds)

    with serving(by_length) as server, pytest.raises(KeyboardInterrupt):
        perspective(server, Interrupted(), queries_per_second=1)(["a", "bbb", "cc", "dddd"])
    with serving(by_length) as server:
        assert perspective(server)(["a", "bbb", "cc", "dddd"]).tolist() == [0.01, 0.03, 0.02, 0.04]
    assert [request.body["comment"]["text"] for request in server.requests] == ["cc", "dddd"]


def test_an_answer_is_kept_before_the_next_is_asked_for(path):
    lines = []

    def counting(request):
        lines.append(len(path.read_text().splitlines()) if path.exists() else 0)
        return by_length(request)

    with serving(counting) as server:
        perspective(server)(["a", "b", "c"])
    assert lines == [0, 1, 2]


def test_what_another_process_kept_in_the_meantime_is_not_asked_for():
    def script(request):
        if request.body["comment"]["text"] == "a":
            perspective(other)(["b"])
        return scored(0.25)

    with serving(scripted(scored(0.75))) as other, serving(script) as server:
        assert perspective(server)(["a", "b", "c"]).tolist() == [0.25, 0.75, 0.25]
    assert len(server.requests) == 2


# The rate


def starts_of(clock, settings, takes=(0.0,) * 4):
    starts = []

    def script(request):
        starts.append(clock.now - 1000)
        clock.now += takes[len(starts) - 1]
        return by_length(request)

    with serving(script) as server:
        perspective(server, clock, queries_per_second=None, **settings)(["a", "b", "c", "d"])
    return starts


def test_queries_are_one_second_apart_and_never_come_in_a_burst():
    assert starts_of(Clock(), {}, takes=(0.25, 0.0, 3.5, 0.0)) == [0, 1, 2, 5.5]


def test_the_environment_or_a_keyword_sets_another_rate(monkeypatch):
    monkeypatch.setenv(RATE_VARIABLE, " 4 ")
    assert starts_of(Clock(), {}) == [0, 0.25, 0.5, 0.75]
    clock = Clock()
    with serving(by_length) as server:
        perspective(server, clock, queries_per_second=0.5)(["e", "f"])
    assert clock.slept == [2]


def test_repeated_queries_keep_the_rate_too():
    clock = Clock()
    with serving(scripted(Answer(500), Answer(500), scored(0.5))) as server:
        perspective(server, clock, queries_per_second=0.1)(["a"])
    assert clock.now == 1020


@pytest.mark.parametrize("value", ["fast", "0", "-1", "nan"])
def test_a_rate_that_is_none_is_refused(monkeypatch, value):
    monkeypatch.setenv(RATE_VARIABLE, value)
    with pytest.raises(DposcopeError, match=rf"{RATE_VARIABLE} '{value}' is no number above 0; give one such as 1"):
        perspective_scorer()
    if value == "0":
        with pytest.raises(DposcopeError, match="queries_per_second 0 is no number above 0"):
            perspective_scorer(queries_per_second=0)


# What is tried again


@pytest.mark.parametrize(
    "passing",
    [
        *[Answer(status, '{"error": {"message": "busy"}}') for status in (408, 429, 500, 502, 503)],
        Answer(drop=True),
        Answer(raw=b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"),
        Answer(raw=b"nonsense\r\n\r\n"),
    ],
)
def test_passing_faults_are_tried_again(passing):
    clock = Clock()
    with serving(scripted(passing, scored(0.5))) as server:
        assert perspective(server, clock)(["a"]).tolist() == [0.5]
    assert clock.slept == [1]


def test_waits_double_and_lose_a_random_part_of_up_to_a_half():
    clock = Clock()
    draws = iter([0.0, 0.5, 0.999, 0.25])
    with (
        serving(scripted(Answer(503))) as server,
        pytest.raises(
            DposcopeError, match=r"gave no answer in 5 attempts \(last: 503 Service Unavailable\); try again"
        ),
    ):
        perspective(server, clock, attempts=5, jitter=lambda: next(draws, 0.0))(["a"])
    assert clock.slept == pytest.approx([1, 1.5, 4 * 0.5005, 7])
    assert len(server.requests) == 5


def test_retry_after_is_obeyed():
    clock = Clock()
    with serving(scripted(Answer(429, headers={"Retry-After": "17"}), scored(0.5))) as server:
        perspective(server, clock, jitter=lambda: 0.9)(["a"])
    assert clock.slept == [17]


def test_a_server_that_says_nothing_is_timed_out():
    with serving(scripted(Answer(hang=True), scored(0.5))) as server:
        assert perspective(server, timeout=0.2)(["a"]).tolist() == [0.5]


def test_a_closed_port_is_tried_again_and_then_told():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    clock = Clock()
    scorer = perspective_scorer(
        address=f"http://127.0.0.1:{port}",
        attempts=3,
        queries_per_second=math.inf,
        sleep=clock.sleep,
        clock=clock,
        jitter=lambda: 0.0,
    )
    with pytest.raises(DposcopeError, match=r"gave no answer in 3 attempts \(last: .*refused\)"):
        scorer(["a"])
    assert clock.slept == [1, 2]


@pytest.mark.parametrize(
    ("cause", "attempts"),
    [
        (OSError(errno.ENETUNREACH, "Network is unreachable"), 3),
        (socket.gaierror(-3, "Temporary failure in name resolution"), 3),
        (ssl.SSLEOFError(8, "UNEXPECTED_EOF_WHILE_READING"), 3),
        (ssl.SSLCertVerificationError(1, "certificate verify failed"), 1),
    ],
)
def test_a_network_that_is_away_may_come_back_and_a_wrong_certificate_does_not(monkeypatch, cause, attempts):
    tried = []

    def connect(*_args, **_settings):
        tried.append(1)
        raise cause

    monkeypatch.setattr(socket, "create_connection", connect)
    clock = Clock()
    scorer = perspective_scorer(attempts=3, sleep=clock.sleep, clock=clock, address="https://perspective.invalid")
    with pytest.raises(DposcopeError, match=re.escape(cause.strerror)):
        scorer(["a"])
    assert len(tried) == attempts


NO_SCORES = [
    "",
    "{",
    "<html>a login page</html>",
    "[]",
    "{}",
    '{"languages": ["en"]}',
    '{"attributeScores": {"TOXICITY": {"summaryScore": {"value": NaN}}}}',
    '{"attributeScores": {"TOXICITY": {"summaryScore": {"value": 1.5}}}}',
    '{"attributeScores": {"TOXICITY": {"summaryScore": {"value": "0.5"}}}}',
    '{"attributeScores": {"TOXICITY": {"summaryScore": {"value": true}}}}',
    '{"attributeScores": {"INSULT": {"summaryScore": {"value": 0.5}}}}',
    '{"attributeScores": [0.5]}',
    "[" * 100_000,
]


@pytest.mark.parametrize("body", NO_SCORES)
def test_an_answer_without_a_score_is_asked_for_again_and_never_kept(body, path):
    with serving(scripted(Answer(body=body), scored(0.5))) as server:
        assert perspective(server)(["a"]).tolist() == [0.5]
    assert len(path.read_text().splitlines()) == 1
    with (
        serving(scripted(Answer(body=body))) as server,
        pytest.raises(DposcopeError, match=r"answers '.*' instead of a score, 3 times; check what stands between") as e,
    ):
        perspective(server)(["b"])
    assert len(server.requests) == 3
    assert str(e.value).isprintable()
    assert len(path.read_text().splitlines()) == 1


# What is not


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (fault("bad request", errorType="INVALID_REQUEST"), "refuses new text 2 of 3 .400 Bad Request: bad request.;"),
        (fault("not valid", reason="API_KEY_INVALID"), f"does not accept the key .400 .*; set {KEY_VARIABLE} to a val"),
        (Answer(401), f"does not accept the key .401 Unauthorized.; set {KEY_VARIABLE}"),
        (fault("not enabled", 403), r"refuses .403 Forbidden: not enabled.; check that the project of the key"),
        (
            fault("gone", 404),
            r"is not there .404 Not Found: gone.; the service ends after 2026; answers that were kept",
        ),
        (Answer(302, headers={"Location": "http://127.0.0.1:9/"}), "redirects, which is not followed .302 Found.;"),
    ],
)
def test_a_refusal_is_told_at_once_with_the_services_own_words(answer, message):
    clock = Clock()
    script = scripted(scored(0.5), answer)
    with serving(script) as server, pytest.raises(DposcopeError, match=message):
        perspective(server, clock)(["a", "b", "c"])
    assert len(server.requests) == 2
    assert clock.slept == []


@pytest.mark.parametrize("kind", ["LANGUAGE_NOT_SUPPORTED_BY_ATTRIBUTE", "LANGUAGE_DETECTION_FAILED"])
def test_a_language_that_is_not_read_names_the_texts_place_and_not_the_text(kind):
    said = "Attribute TOXICITY does not support request languages of: verboten"
    with (
        serving(scripted(scored(0.5), fault(said, errorType=kind))) as server,
        pytest.raises(DposcopeError, match="does not read the language of new text 2 of 2; leave") as caught,
    ):
        perspective(server)(["a", "verboten"])
    assert "verboten" not in str(caught.value)


def test_what_the_service_says_is_shown_on_one_line():
    with (
        serving(scripted(fault("a\nb\x1b[31m\u202e " + "x" * 500))) as server,
        pytest.raises(DposcopeError, match=r"a b \[31m x+…\);") as caught,
    ):
        perspective(server)(["a"])
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("details", ['"text"', "[1, null]", '{"a": 1}', "null"])
def test_an_error_of_another_form_is_an_error_all_the_same(details):
    body = f'{{"error": {{"message": "odd", "details": {details}}}}}'
    with serving(scripted(Answer(400, body))) as server, pytest.raises(DposcopeError, match="400 Bad Request: odd"):
        perspective(server)(["a"])


# The key


_ECHO = f"the key {KEY} is bad: {ADDRESS}/v1alpha1/comments:analyze?key={quote(KEY, safe='')}"


@pytest.mark.parametrize(
    "answer",
    [
        *[fault(_ECHO, status) for status in (301, 400, 401, 403, 404, 422, 429, 500)],
        fault(_ECHO, reason="API_KEY_INVALID"),
        fault(_ECHO, errorType="LANGUAGE_DETECTION_FAILED"),
        Answer(429, fault(_ECHO).body, {"Retry-After": "9999"}),
        Answer(body=_ECHO),
        Answer(raw=f"{KEY} HTTP nonsense {KEY}\r\n\r\n".encode()),
        Answer(raw=f"HTTP/1.1 {KEY} OK\r\n\r\n".encode()),
    ],
)
def test_the_key_stands_in_no_error_file_or_repr(answer, tmp_path):
    with serving(scripted(scored(0.5), answer)) as server:
        scorer = perspective(server, attempts=2)
        with pytest.raises(DposcopeError) as caught:
            scorer(["a", "b"])
        assert server.requests[-1].headers["X-Goog-Api-Key"] == KEY, "nothing to hide"
        assert all(KEY not in request.path for request in server.requests)
    shown = "".join(traceback.format_exception(caught.value)) + repr(scorer) + repr(vars(scorer.score))
    shown += repr(vars(scorer.score._service)) + repr(vars(scorer.score._kept))
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert files
    for place in (shown, *(file.read_text() for file in files)):
        assert KEY not in place
        assert quote(KEY, safe="") not in place


def test_an_echoed_key_is_starred():
    with (
        serving(scripted(fault(_ECHO))) as server,
        pytest.raises(DposcopeError, match=r"key \*\*\* is bad: .*key=\*\*\*"),
    ):
        perspective(server)(["a"])


def test_a_proxy_neither_sees_the_key_nor_shows_it(monkeypatch):
    """A proxy gets the service's name alone, as what follows is encrypted; its fault may hold anything."""
    heard = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(30)

        def refuse():
            connection, _ = listener.accept()
            with connection:
                heard.append(connection.recv(65536))
                connection.sendall(f"HTTP/1.1 407 no, {KEY}, {quote(KEY, safe='')}\r\n\r\n".encode())

        proxy = threading.Thread(target=refuse)
        proxy.start()
        monkeypatch.delenv("no_proxy")
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{listener.getsockname()[1]}")
        scorer = perspective_scorer(address="https://perspective.invalid", attempts=1)
        with pytest.raises(DposcopeError, match=r"cannot reach https://perspective.invalid/.*407 no, \*\*\*") as caught:
            scorer(["a"])
        proxy.join()
    assert heard[0].startswith(b"CONNECT perspective.invalid:443")
    assert KEY.encode() not in heard[0]
    shown = "".join(traceback.format_exception(caught.value))
    assert KEY not in shown
    assert quote(KEY, safe="") not in shown


def test_a_key_that_no_header_can_hold_is_refused_and_not_repeated(monkeypatch):
    monkeypatch.setenv(KEY_VARIABLE, "two words")
    with pytest.raises(DposcopeError, match=f"{KEY_VARIABLE} holds characters that no key has") as caught:
        perspective_scorer()
    assert "two words" not in str(caught.value)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("http://commentanalyzer.googleapis.com", "is not https, which would show the key"),
        ("http://127.0.0.1.example.org", "is not https"),
        ("ftp://host", "is no http or https address"),
        (f"https://host?key={KEY}", f"put the key in {KEY_VARIABLE}"),
    ],
)
def test_only_https_leaves_the_machine(address, message):
    with pytest.raises(DposcopeError, match=message) as caught:
        perspective_scorer(address=address)
    assert KEY not in str(caught.value)
