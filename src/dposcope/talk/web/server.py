"""A server for the person at this machine, on the standard library.

It listens on 127.0.0.1. A page of another site cannot use it: the address holds a random token, the Host header must be
this machine's (which ends DNS rebinding), and a question must come from the page itself. A request has few bytes, an
answer few tokens, and one answer is written at a time.
"""

import errno
import secrets
import socket
import threading
from collections.abc import Mapping
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any, Final

from dposcope.errors import DposcopeError, first_line
from dposcope.foreign_text import json_text
from dposcope.reading import parse_json
from dposcope.talk.web.answering import Answering, Question
from dposcope.talk.web.page import Sent, page_files

HOST: Final = "127.0.0.1"
_USUAL_PORT: Final = 80
"""Of an http address."""
MOST_BYTES: Final = 64 * 1024
"""Of a question."""
MOST_UNREAD: Final = 1 << 20
"""Bytes of a refused body that are thrown away."""
MOST_CONNECTIONS: Final = 32
"""At a time."""
PATIENCE: Final = 20.0
"""Seconds without a byte after which a connection is closed."""

BUSY: Final = "The model is writing another answer; ask again when it is done."

_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; "
    "img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Ended(Exception):
    """The server ends while an answer is written."""


class TalkServer(ThreadingHTTPServer):
    """Serves one page. The port is taken at once; nothing is answered before `open`."""

    allow_reuse_address = True

    def __init__(self, port: int) -> None:
        """Take the port.

        Args:
            port: 0 for any that is free.

        Raises:
            DposcopeError: it is taken, or not for everyone.
        """
        try:
            super().__init__((HOST, port), _Handler)
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise
            fault = "is taken" if error.errno == errno.EADDRINUSE else "is not allowed for this user"
            raise DposcopeError(
                f"port {port} {fault}; give another with --port, or --port 0 for any free one"
            ) from error
        self.token: Final = secrets.token_urlsafe(18)
        """What the address must hold."""
        self.answering: Answering | None = None
        self.files: Mapping[str, Sent] = {}
        self.writing: Final = threading.Lock()
        """Held while an answer is written."""
        self._ending = threading.Event()
        self._connections = threading.BoundedSemaphore(MOST_CONNECTIONS)
        self._open: dict[socket.socket, threading.Thread] = {}
        """Connections, and what serves them."""

    def server_bind(self) -> None:
        """Without the question to a name server that `HTTPServer` asks."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = HOST, self.port

    def open(self, answering: Answering) -> None:
        """Begin to answer."""
        self.answering, self.files = answering, page_files(answering)

    @property
    def port(self) -> int:
        """The one that was taken."""
        return int(self.server_address[1])

    @property
    def address(self) -> str:
        """Of the page."""
        return f"http://{HOST}:{self.port}/{self.token}/"

    @property
    def hosts(self) -> tuple[str, ...]:
        """What a browser may call this machine; it leaves out the port that is the usual one."""
        named = (f"{HOST}:{self.port}", f"localhost:{self.port}")
        return (*named, HOST, "localhost") if self.port == _USUAL_PORT else named

    def check_running(self) -> None:
        """Called for each token.

        Raises:
            Ended: the server is about to end.
        """
        if self._ending.is_set():
            raise Ended

    def end(self) -> None:
        """Break off the answer that is being written, close all connections, and wait for their threads.

        To be called when `serve_forever` has ended. A thread that were left behind could meet the end of the
        interpreter in its work, which can abort the program.
        """
        self._ending.set()
        served = dict(self._open)
        for request in served:
            with suppress(OSError):  # it is closed already
                request.shutdown(socket.SHUT_RDWR)
        self.server_close()
        for thread in served.values():
            thread.join()

    def process_request(self, request: Any, client_address: Any) -> None:
        """A thread for the connection, or a short refusal where there are too many."""
        if not self._connections.acquire(blocking=False):
            with suppress(OSError):
                request.sendall(b"HTTP/1.0 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            self.shutdown_request(request)
            return
        thread = threading.Thread(target=self.process_request_thread, args=(request, client_address))
        self._open[request] = thread
        try:
            thread.start()
        except BaseException:  # the system has no thread to give, or Ctrl-C
            self._forget(request)
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """The connection, in its thread."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._forget(request)

    def _forget(self, request: socket.socket) -> None:
        if self._open.pop(request, None) is not None:
            self._connections.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no error of ours."""


class _Handler(BaseHTTPRequestHandler):
    server: TalkServer  # pyright: ignore[reportIncompatibleVariableOverride]
    timeout = PATIENCE
    server_version, sys_version = "dposcope", ""
    _read = 0
    """Bytes of the body that were read."""

    def do_GET(self) -> None:
        name = self._name()
        if name is None:
            return
        sent = self.server.files.get(name)
        if sent is None:
            self._refuse(HTTPStatus.NOT_FOUND, "There is nothing of this name.")
            return
        self._begin(HTTPStatus.OK, sent.kind, length=len(sent.body))
        if self.command != "HEAD":
            self.wfile.write(sent.body)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        name = self._name()
        if name is None:
            return
        if name != "answer":
            self._refuse(HTTPStatus.METHOD_NOT_ALLOWED, "Only questions can be sent.")
            return
        question = self._question()
        if question is None:
            return
        if not self.server.writing.acquire(blocking=False):
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, BUSY)
            return
        try:
            self._answer(question)
        finally:
            self.server.writing.release()

    def _answer(self, question: Question) -> None:
        """One JSON object a line, as the answer is written."""
        answering = self.server.answering
        assert answering is not None
        self._begin(HTTPStatus.OK, "application/x-ndjson; charset=utf-8")
        try:
            answering.answer(question, self._tell)
        except (Ended, OSError):  # nobody listens
            return
        except DposcopeError as error:
            self._tell({"event": "error", "message": str(error)})
        except Exception as error:  # a fault of the program: the page says so, and the server goes on
            self._tell({"event": "error", "message": f"internal error: {type(error).__name__}: {first_line(error)}"})

    def _tell(self, event: Mapping[str, Any]) -> None:
        self.server.check_running()
        self.wfile.write(json_text(event, indent=None).encode() + b"\n")
        self.wfile.flush()

    def _name(self) -> str | None:
        """What is asked for, below the token; None: it was refused."""
        if self.headers.get("Host") not in self.server.hosts:
            self._refuse(HTTPStatus.MISDIRECTED_REQUEST, "This server answers to the name 127.0.0.1 only.")
            return None
        before, token, name = [*self.path.partition("?")[0].split("/", 2), "", ""][:3]
        right = secrets.compare_digest(token.encode("utf-8", "replace"), self.server.token.encode())
        if before or not right or self.path.count("/") < 2:
            self._refuse(HTTPStatus.NOT_FOUND, "Nothing is here; open the whole address that dposcope serve printed.")
            return None
        return name

    def _question(self) -> Question | None:
        """The question in the body; None: it was refused."""
        own = {f"http://{host}" for host in self.server.hosts}
        if self.headers.get("Origin", min(own)) not in own or self.headers.get("Sec-Fetch-Site", "same-origin") not in (
            "same-origin",
            "none",
        ):
            return self._refuse(HTTPStatus.FORBIDDEN, "Questions are taken from the page itself only.")
        if self.headers.get_content_type() != "application/json":
            return self._refuse(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "A question is JSON.")
        told = self.headers.get("Content-Length", "")
        if self.headers.get("Transfer-Encoding") or not (told.isascii() and told.isdecimal() and len(told) < 10):
            return self._refuse(HTTPStatus.LENGTH_REQUIRED, "A question says how long it is.")
        if int(told) > MOST_BYTES:
            return self._refuse(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"A question has at most {MOST_BYTES:,} bytes; shorten the prompt."
            )
        try:
            self._read = int(told)
            return parse_json(self.rfile.read(self._read).decode(), Question, source="the question", mend="mend it")
        except UnicodeDecodeError:
            return self._refuse(HTTPStatus.BAD_REQUEST, "the question is not UTF-8; mend it")
        except DposcopeError as error:
            return self._refuse(HTTPStatus.BAD_REQUEST, str(error))

    def _refuse(self, status: int, message: str) -> None:
        told = self.headers.get("Content-Length", "") if self.command == "POST" else ""
        if told.isascii() and told.isdecimal() and len(told) < 10:
            # What is left unread would reset the connection, and the refusal with it.
            self.rfile.read(min(int(told) - self._read, MOST_UNREAD))
        body = json_text({"error": message}, indent=None).encode()
        self._begin(status, "application/json; charset=utf-8", length=len(body))
        if self.command != "HEAD":
            self.wfile.write(body)

    def _begin(self, status: int, kind: str, *, length: int | None = None) -> None:
        self.send_response(status)
        for name, value in {**_HEADERS, "Content-Type": kind}.items():
            self.send_header(name, value)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.send_header("Connection", "close")
        self.end_headers()

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:  # noqa: ARG002
        """What the standard library refuses, in our form."""
        self._refuse(code, HTTPStatus(code).phrase)

    def log_message(self, format: str, *args: Any) -> None:
        """The terminal is the person's: no line for each request."""

    def address_string(self) -> str:
        """Without a question to a name server."""
        return self.client_address[0]
