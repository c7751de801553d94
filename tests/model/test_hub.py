"""Which names are asked of the hub, and how soon a hub that does not answer is given up."""

import socket
import threading
import time

import pytest

from dposcope.errors import DposcopeError
from dposcope.model.hub import check_hub_name, hub_answers, hub_id


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("gemma-3-270", "gemma-3-270m"),
        ("gema-3-270m", "gemma-3-270m"),
        ("Gemma3-270m", "gemma-3-270m"),
        ("smollm2-135m", "smollm2-135m-instruct"),
        ("smollm2-135m-instuct", "smollm2-135m-instruct"),
    ],
)
def test_a_slip_in_a_bundled_name_is_told_and_not_asked(name, meant):
    with pytest.raises(DposcopeError, match=f"Did you mean the bundled '{meant}'\\? A model of the hub is hf:{name}$"):
        check_hub_name(name)


@pytest.mark.parametrize(
    "name", ["gpt2", "gpt2-medium", "distilgpt2", "openai-gpt", "google/gemma-3-270m", "hf:gemma-3-270", "bloom-560m"]
)
def test_names_of_the_hub_pass(name):
    check_hub_name(name)
    assert hub_id(name) == name.removeprefix("hf:")


@pytest.mark.parametrize("name", ["", "a/b/c", "no such model", "hf:", "hf:a b", "../x"])
def test_what_is_no_name_is_told(name):
    with pytest.raises(DposcopeError, match="is not a model; give a folder, "):
        check_hub_name(name)


@pytest.mark.parametrize(("status", "answers"), [("200 OK", True), ("404 Not Found", True), ("401 Unauthorized", True)])
def test_any_answer_is_one(monkeypatch, status, answers):
    """A hub of one line, at an address of this machine."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            caller, _ = server.accept()
            with caller:
                caller.recv(65536)
                body = b'{"id": "a/b", "siblings": []}'
                caller.sendall(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)

        waiting = threading.Thread(target=serve, daemon=True)
        waiting.start()
        _at(monkeypatch, server.getsockname()[1])
        assert hub_answers("a/b") == answers
        waiting.join(5)


def test_a_hub_that_is_not_there_is_given_up_at_once(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    _at(monkeypatch, port)  # closed: nobody listens
    before = time.monotonic()
    assert not hub_answers("a/b")
    assert time.monotonic() - before < 10


def _at(monkeypatch, port: int) -> None:
    import huggingface_hub.hf_api

    monkeypatch.setattr(huggingface_hub.hf_api.constants, "ENDPOINT", f"http://127.0.0.1:{port}")
    monkeypatch.setattr(huggingface_hub.hf_api.constants, "HF_HUB_OFFLINE", False)
