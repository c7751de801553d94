"""The local page of a tiny model, served in a thread, and hands for raw requests."""

import http.client
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from dposcope.evaluation.scorer import Scorer
from dposcope.model.chat.prompts import with_chat
from dposcope.talk.fired import edited_neurons
from dposcope.talk.scores import OfflineScorers
from dposcope.talk.session import Session
from dposcope.talk.web.answering import Answering
from dposcope.talk.web.server import TalkServer
from helpers.edits import both_of
from helpers.jobs import softness

QUESTION = {"prompt": "the cat sat", "strength": 1.0, "new_tokens": 6}


def answering_of(lm, *, edit=None, **changes) -> Answering:
    """Scored by a share of letters."""
    session = Session(with_chat(lm), edit or both_of(lm), 8)
    fields = {
        "session": session,
        "scorers": OfflineScorers({"softness": Scorer("softness", "", softness)}),
        "neurons": edited_neurons(session, 4),
    }
    return Answering(**(fields | changes))


@contextmanager
def served(answering: Answering) -> Iterator[TalkServer]:
    """A server at work, gone afterwards."""
    server = TalkServer(0)
    server.open(answering)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.end()


class Reply:
    """What came back."""

    def __init__(self, got: http.client.HTTPResponse):
        self.status = got.status
        self.headers = {name.lower(): value for name, value in got.getheaders()}
        self.body = got.read()

    @property
    def error(self) -> str:
        return json.loads(self.body)["error"]

    @property
    def events(self) -> list[dict]:
        return [json.loads(line) for line in self.body.splitlines()]


def request(server: TalkServer, method: str, path: str = "", body=None, *, whole_path: str | None = None, **headers):
    """One request; headers are named with underscores, and None leaves a usual one out."""
    usual = {"Host": f"127.0.0.1:{server.port}", "Content-Type": "application/json" if method == "POST" else None}
    given = usual | {name.replace("_", "-"): value for name, value in headers.items()}
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    connection.putrequest(method, whole_path or f"/{server.token}/{path}", skip_host=True, skip_accept_encoding=True)
    if data is not None and "Content_Length" not in headers:
        given["Content-Length"] = str(len(data))
    for name, value in given.items():
        if value is not None:
            connection.putheader(name, value)
    connection.endheaders(data)
    try:
        return Reply(connection.getresponse())
    finally:
        connection.close()


def asked(server: TalkServer, **changes) -> Reply:
    return request(server, "POST", "answer", QUESTION | changes)


def raw(server: TalkServer, data: bytes) -> bytes:
    """What the server says to bytes that may be no request."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as line:
        line.sendall(data)
        line.shutdown(socket.SHUT_WR)
        parts = []
        while piece := line.recv(65536):
            parts.append(piece)
    return b"".join(parts)
