"""A chat endpoint on this machine that answers by a script, and a clock that nobody waits for."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Request:
    """What a client sent."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    method: str = "POST"


@dataclass
class Answer:
    """What the server says: `raw` stands in the place of the whole response, `hang` and `drop` in that of any."""

    status: int = 200
    body: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    raw: bytes | None = None
    hang: bool = False
    drop: bool = False


def completion(content: Any) -> Answer:
    return Answer(body=json.dumps({"choices": [{"message": {"role": "assistant", "content": content}}]}))


Script = Callable[[Request], Answer]


@dataclass
class Server:
    url: str
    requests: list[Request] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)


@contextmanager
def serving(script: Script) -> Iterator[Server]:
    """A server on a free port; every request is answered by `script` and kept."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            length = int(self.headers["Content-Length"])
            self.answered(Request(self.path, dict(self.headers), json.loads(self.rfile.read(length))))

        def do_GET(self):
            self.answered(Request(self.path, dict(self.headers), {}, "GET"))

        def answered(self, request):
            server.requests.append(request)
            answer = script(request)
            if answer.hang:
                server.released.wait(10)
            if answer.hang or answer.drop:
                return
            if answer.raw is not None:
                self.wfile.write(answer.raw)
                return
            self.send_response(answer.status)
            content = answer.body.encode()
            for name, value in {"Content-Length": str(len(content)), **answer.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args):
            pass

    listener = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server = Server(f"http://127.0.0.1:{listener.server_port}/v1")
    thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.released.set()
        listener.shutdown()
        thread.join()
        listener.server_close()


def scripted(*answers: Answer) -> Script:
    """These answers in order, the last again and again."""
    left = list(answers)
    return lambda _request: left.pop(0) if len(left) > 1 else left[0]


@dataclass
class Clock:
    """Sleeping is a number here."""

    now: float = 1000.0
    slept: list[float] = field(default_factory=list)

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    def __call__(self) -> float:
        return self.now
