"""Asking a web service that speaks JSON, with patience and manners.

The key is read from the environment for each request and kept nowhere; what a server says
reaches a message only after the key is cut out of it.
"""

import errno
import http.client
import json
import math
import os
import re
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from email.message import Message
from email.utils import parsedate_to_datetime
from typing import Any, Final
from urllib.parse import SplitResult, quote, urlsplit

from dposcope.data.masking import mask_offensive
from dposcope.errors import DposcopeError, plural

_LONGEST_ANSWER: Final = 1 << 20  # bytes read of any answer
_LONGEST_WAIT: Final = 300.0  # seconds between attempts; a server that asks for more is not waited for
_NO_REPLY: Final = 0
# What may be over a moment later, wherever the server is.
_PASSING: Final = (
    TimeoutError,
    ConnectionResetError,
    ConnectionAbortedError,
    BrokenPipeError,
    ssl.SSLEOFError,
    http.client.HTTPException,
)
# What may be over a moment later, if the address is known to be right.
_UNREACHABLE: Final = (ConnectionRefusedError, socket.gaierror)
_NO_ROUTE: Final = frozenset({errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTUNREACH})


@dataclass(frozen=True)
class ServiceKey:
    """Where a service's key comes from, and how it is sent. The key itself is not kept."""

    variable: str
    """The environment variable that holds it."""
    header: str
    """The HTTP header that carries it."""
    scheme: str = ""
    """What stands before it in the header, such as "Bearer "."""

    def value(self) -> str:
        """The key, or an empty text.

        Raises:
            DposcopeError: the variable holds what no key is.
        """
        key = os.environ.get(self.variable, "").strip()
        # http.client would quote a key that no header can hold.
        if not re.fullmatch(r"[!-~]*", key):
            raise DposcopeError(f"{self.variable} holds characters that no key has; set it again")
        return key


ENDPOINT_KEY: Final = ServiceKey("DPOSCOPE_API_KEY", "Authorization", "Bearer ")
"""Of an OpenAI-compatible endpoint, where it wants one."""


@dataclass(frozen=True)
class Reply:
    """What came back."""

    status: int
    """Of HTTP; `_NO_REPLY` where the connection broke."""
    body: str
    """Or why there is none."""
    retry_after: float | None = None
    """Seconds that the server asks to wait."""

    @property
    def is_answer(self) -> bool:
        """Whether the server did what it was asked."""
        return 200 <= self.status < 300


def doubling(attempt: int) -> float:
    """Seconds to wait after an attempt, counted from 0: 1, 2, 4 … 256."""
    return 2.0 ** min(attempt, 8)


class JsonService:
    """One address that takes JSON by POST, or gives it by GET.

    408, 429, 5xx, time-outs and broken connections are tried again after the time that `Retry-After` names, else
    after a time that grows. Redirects are not followed: they would carry the key to another host.
    """

    def __init__(
        self,
        url: str,
        key: ServiceKey,
        *,
        interval: float,
        attempts: int,
        timeout: float,
        backoff: Callable[[int], float] = doubling,
        unreachable_passes: bool = False,
        mend: str = "try again later",
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Nothing is sent yet.

        Args:
            url: where requests go; see `checked_address`.
            key: sent with each request, where there is one.
            interval: least seconds between two requests; repeated ones count too.
            attempts: times that a request is sent before it is given up.
            timeout: seconds without a byte from the server after which an attempt is over; `math.inf` for no limit.
            backoff: seconds to wait after an attempt, counted from 0, where the server names no time.
            unreachable_passes: an unknown host, a closed port or a missing network is tried again, too.
            mend: what to do where no attempt gave an answer, for the message.
            sleep: waits for some seconds.
            clock: seconds from any start.

        Raises:
            DposcopeError: a number is out of range.
        """
        if attempts < 1:
            raise DposcopeError(f"attempts {attempts} is below 1; a request must be sent once")
        if not timeout > 0:
            raise DposcopeError(f"timeout {timeout} is not above 0; give a number such as 60")
        self.url: Final = url
        """Where requests go."""
        self._key = key
        self._interval = interval
        self._attempts = attempts
        self._timeout = timeout if math.isfinite(timeout) else None
        self._backoff = backoff
        self._unreachable_passes = unreachable_passes
        self._mend = mend
        self._sleep = sleep
        self._clock = clock
        self._next_turn = -math.inf
        self._opener = urllib.request.build_opener(_StatusesAsTheyAre)

    def post(self, request: Any) -> Reply:
        """The server's answer, or its refusal of a kind that asking again would not mend.

        Raises:
            DposcopeError: the server cannot be reached, asks to wait for long, or gives neither in all attempts.
        """
        return self._ask(json.dumps(request).encode())

    def get(self) -> Reply:
        """What the address holds; see `post`.

        Raises:
            DposcopeError: see `post`.
        """
        return self._ask(None)

    def _ask(self, payload: bytes | None) -> Reply:
        reason = ""
        for attempt in range(self._attempts):
            self._take_turn()
            reply = self._send(payload)
            if not (reply.status in {_NO_REPLY, 408, 429} or reply.status >= 500):
                return reply
            reason = self.reason(reply)
            wait = self._backoff(attempt) if reply.retry_after is None else reply.retry_after
            if wait > _LONGEST_WAIT:
                raise DposcopeError(f"{self.url} asks to wait {wait:,.0f} seconds ({reason}); run again after that")
            if attempt + 1 < self._attempts:
                self._sleep(wait)
        raise DposcopeError(
            f"{self.url} gave no answer in {plural(self._attempts, 'attempt')} (last: {reason}); {self._mend}"
        )

    def reason(self, reply: Reply) -> str:
        """Status and the server's own words, as a message may show them."""
        if reply.status == _NO_REPLY:
            return reply.body
        said = _server_message(reply.body)
        phrase = http.client.responses.get(reply.status, "unknown status")
        return f"{reply.status} {phrase}{': ' + self.shown(said) if said else ''}"

    def refusal(self, reply: Reply, *, owner: str, unknown: str, otherwise: str) -> DposcopeError:
        """Why a request was refused, with the mend.

        Args:
            reply: that is no answer.
            owner: whose key is wanted, such as "this endpoint".
            unknown: what to check where nothing is found (404).
            otherwise: what to check for any other reason.
        """
        reason = self.reason(reply)
        if reply.status == 401:
            fault = "does not accept the key" if self._key.value() else "wants a key"
            return DposcopeError(f"{self.url} {fault} (401); set {self._key.variable} to a valid key of {owner}")
        if 300 <= reply.status < 400:
            return DposcopeError(f"{self.url} redirects ({reason}), which is not followed; give the final address")
        allowed = f"check what the key in {self._key.variable} allows"
        mend = {404: unknown, 403: allowed}.get(reply.status, otherwise)
        return DposcopeError(f"{self.url} refuses ({reason}); {mend}")

    def shown(self, text: str, *, length: int = 160) -> str:
        """What a server said as a message may show it: one line, masked, without the key, `length` characters."""
        key = self._key.value()
        for form in (key, quote(key, safe="")) if key else ():
            text = text.replace(form, "***")
        line = " ".join("".join(char if char.isprintable() else " " for char in text).split())
        return mask_offensive(line if len(line) <= length else line[: length - 1] + "…")

    def _take_turn(self) -> None:
        wait = self._next_turn - self._clock()
        if wait > 0:
            self._sleep(wait)
        self._next_turn = max(self._clock(), self._next_turn) + self._interval

    def _send(self, payload: bytes | None) -> Reply:
        key = self._key.value()
        headers = {"Accept": "application/json", "User-Agent": "dposcope"}
        if payload is not None:
            headers["Content-Type"] = "application/json"
        if key:
            headers[self._key.header] = self._key.scheme + key
        request = urllib.request.Request(self.url, payload, headers, method="GET" if payload is None else "POST")
        try:
            with self._opener.open(request, timeout=self._timeout) as response:
                body = response.read(_LONGEST_ANSWER)
                if response.length and len(body) < _LONGEST_ANSWER:
                    raise http.client.IncompleteRead(body, response.length)  # a bounded read ends without a word
                return Reply(response.status, body.decode("utf-8", "replace"), _retry_after(response.headers))
        except (OSError, http.client.HTTPException, UnicodeError) as error:
            cause = error.reason if isinstance(error, urllib.error.URLError) else error
            told = "timed out" if isinstance(cause, TimeoutError) else self.shown(str(cause) or type(cause).__name__)
            if not self._passes(cause):
                raise DposcopeError(
                    f"cannot reach {self.url} ({told}); check the address, and that its server runs"
                ) from None  # the chain would show what the server said before the key is cut out of it
        return Reply(_NO_REPLY, told)

    def _passes(self, cause: BaseException | str) -> bool:
        if isinstance(cause, _PASSING):
            return True
        gone = isinstance(cause, _UNREACHABLE) or (isinstance(cause, OSError) and cause.errno in _NO_ROUTE)
        return gone and self._unreachable_passes


class _StatusesAsTheyAre(urllib.request.HTTPErrorProcessor):
    """Every status is an answer to be read, so none is raised and no redirect followed."""

    def http_response(self, request: urllib.request.Request, response: Any) -> Any:  # noqa: ARG002
        """The response untouched."""
        return response

    https_response = http_response


def checked_address(url: str, *, variable: str, example: str) -> SplitResult:
    """The parts of an http or https address without a user, password, query or fragment.

    Args:
        url: the address.
        variable: where a key belongs instead, for messages.
        example: an address, for messages.

    Raises:
        DposcopeError: it is no such address.
    """
    # Looked for in the text, as a key with a slash in it parses as something else; and kept out of the message.
    if "@" in url or "?" in url:
        raise DposcopeError(f"the endpoint's address holds a user, password or query; put the key in {variable}")
    try:
        parts = urlsplit(url)
        plain = url.isascii() and url.isprintable() and " " not in url and (parts.port is None or parts.port > 0)
    except ValueError:
        raise DposcopeError(f"the endpoint is no address; give one such as {example}") from None
    if parts.scheme not in {"http", "https"} or not parts.hostname or not plain or parts.fragment:
        raise DposcopeError(f"the endpoint {url!r} is no http or https address; give one such as {example}")
    return parts


def _server_message(body: str) -> str | None:
    """The sentence in an error's body, where the known servers put it."""
    try:
        told = json.loads(body)
    except (ValueError, RecursionError):
        return None
    for name in ("error", "message", "detail"):
        if isinstance(told, dict) and name in told:
            told = told[name]
    return told if isinstance(told, str) else None


def _retry_after(headers: Message) -> float | None:
    """Seconds that `Retry-After` names, as a number or as a date beside the server's own."""
    value = str(headers.get("Retry-After", "")).strip()
    if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", value, flags=re.ASCII):
        return float(value)
    try:
        until, now = (parsedate_to_datetime(date) for date in (value, str(headers.get("Date", ""))))
        return max(0.0, (until - now).total_seconds())
    except (TypeError, ValueError):
        return None
