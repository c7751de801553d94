"""Asking a language model behind an OpenAI-compatible endpoint: one request at a time, with patience and manners.

The key is read from the environment for each request and kept nowhere; what a server says
reaches a message only after the key is cut out of it.
"""

import http.client
import json
import math
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from email.message import Message
from email.utils import parsedate_to_datetime
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from dposcope.data.masking import mask_offensive
from dposcope.errors import DposcopeError, plural

KEY_VARIABLE: Final = "DPOSCOPE_API_KEY"
"""The environment variable that holds the key, where the endpoint wants one."""

_LONGEST_ANSWER: Final = 1 << 20  # bytes read of any answer
_LONGEST_WAIT: Final = 300.0  # seconds between attempts; a server that asks for more is not waited for
_NO_REPLY: Final = 0
# What may be over a moment later, unlike an unknown host or a closed port.
_PASSING: Final = (
    TimeoutError,
    ConnectionResetError,
    ConnectionAbortedError,
    BrokenPipeError,
    http.client.HTTPException,
)


@dataclass(frozen=True)
class ChatMessage:
    """One message of a conversation."""

    role: Literal["system", "user"]
    content: str


class ChatEndpoint:
    """Any `…/v1/chat/completions`.

    429, 5xx, time-outs and broken connections are tried again after the time that `Retry-After` names, else
    after 1, 2, 4 … seconds. Redirects are not followed: they would carry the key to another host. Set the
    variable DPOSCOPE_API_KEY where the endpoint wants a key.
    """

    def __init__(
        self,
        url: str,
        *,
        model: str = "gpt-4o",
        requests_per_minute: float = 60.0,
        attempts: int = 6,
        timeout: float = 60.0,
        temperature: float | None = 0.0,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Nothing is sent yet.

        Args:
            url: the base, such as `https://api.openai.com/v1`, or the whole `…/chat/completions`.
            model: as the endpoint calls it (paper: GPT-4o).
            requests_per_minute: repeated ones count too; `math.inf` for no limit.
            attempts: times that a request is sent before it is given up.
            timeout: seconds without a byte from the server after which an attempt is over.
            temperature: of the answer; None leaves it out, for models that take none.
            sleep: waits for some seconds.
            clock: seconds from any start.

        Raises:
            DposcopeError: the address is none or holds a secret, or a number is out of range.
        """
        self.url: Final = _completions(url)
        """Where requests go."""
        if not model or not model.isprintable():
            raise DposcopeError(f"model {model!r} is no name; give the one that the endpoint knows, such as gpt-4o")
        if attempts < 1:
            raise DposcopeError(f"attempts {attempts} is below 1; a request must be sent once")
        for name, number in (("requests_per_minute", requests_per_minute), ("timeout", timeout)):
            if not number > 0:
                raise DposcopeError(f"{name} {number} is not above 0; give a number such as 60")
        self.model: Final = model
        """As the endpoint calls it."""
        self._interval = 60.0 / requests_per_minute
        self._attempts = attempts
        self._timeout = timeout if math.isfinite(timeout) else None
        self._temperature = temperature
        self._sleep = sleep
        self._clock = clock
        self._next_turn = -math.inf
        self._opener = urllib.request.build_opener(_StatusesAsTheyAre)

    def ask(self, messages: Sequence[ChatMessage]) -> str | None:
        """The text of the model's answer; None where what came is no completion, or the model refused.

        Raises:
            DposcopeError: the endpoint cannot be reached, refuses, or gives no answer in all attempts.
        """
        conversation = [{"role": message.role, "content": message.content} for message in messages]
        request: dict[str, Any] = {"model": self.model, "messages": conversation}
        if self._temperature is not None:
            request["temperature"] = self._temperature
        return _content(self._answer(json.dumps(request).encode()))

    def shown(self, text: str, *, length: int = 160) -> str:
        """What a server said as a message may show it: one line, masked, without the key, `length` characters."""
        key = _key()
        clean = text.replace(key, "***") if key else text
        line = " ".join("".join(char if char.isprintable() else " " for char in clean).split())
        return mask_offensive(line if len(line) <= length else line[: length - 1] + "…")

    def _answer(self, payload: bytes) -> str:
        reason = ""
        for attempt in range(self._attempts):
            self._take_turn()
            reply = self._send(payload)
            if 200 <= reply.status < 300:
                return reply.body
            reason = self._reason(reply)
            if not (reply.status in {_NO_REPLY, 408, 429} or reply.status >= 500):
                raise self._refusal(reply.status, reason)
            wait = 2.0 ** min(attempt, 8) if reply.retry_after is None else reply.retry_after
            if wait > _LONGEST_WAIT:
                raise DposcopeError(f"{self.url} asks to wait {wait:,.0f} seconds ({reason}); run again after that")
            if attempt + 1 < self._attempts:
                self._sleep(wait)
        raise DposcopeError(
            f"{self.url} gave no answer in {plural(self._attempts, 'attempt')} (last: {reason}); try again later"
        )

    def _take_turn(self) -> None:
        wait = self._next_turn - self._clock()
        if wait > 0:
            self._sleep(wait)
        self._next_turn = max(self._clock(), self._next_turn) + self._interval

    def _send(self, payload: bytes) -> "_Reply":
        key = _key()
        headers = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "dposcope"}
        if key:
            headers["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(self.url, payload, headers, method="POST")
        try:
            with self._opener.open(request, timeout=self._timeout) as response:
                body = response.read(_LONGEST_ANSWER)
                if response.length and len(body) < _LONGEST_ANSWER:
                    raise http.client.IncompleteRead(body, response.length)  # a bounded read ends without a word
                return _Reply(response.status, body.decode("utf-8", "replace"), _retry_after(response.headers))
        except (OSError, http.client.HTTPException, UnicodeError) as error:
            cause = error.reason if isinstance(error, urllib.error.URLError) else error
            told = "timed out" if isinstance(cause, TimeoutError) else self.shown(str(cause) or type(cause).__name__)
            if not isinstance(cause, _PASSING):
                raise DposcopeError(
                    f"cannot reach {self.url} ({told}); check the address, and that its server runs"
                ) from None  # the chain would show what the server said before the key is cut out of it
        return _Reply(_NO_REPLY, told, None)

    def _reason(self, reply: "_Reply") -> str:
        if reply.status == _NO_REPLY:
            return reply.body
        said = _server_message(reply.body)
        phrase = http.client.responses.get(reply.status, "unknown status")
        return f"{reply.status} {phrase}{': ' + self.shown(said) if said else ''}"

    def _refusal(self, status: int, reason: str) -> DposcopeError:
        if status == 401:
            fault = "does not accept the key" if _key() else "wants a key"
            return DposcopeError(f"{self.url} {fault} (401); set {KEY_VARIABLE} to a valid key of this endpoint")
        if 300 <= status < 400:
            return DposcopeError(f"{self.url} redirects ({reason}), which is not followed; give the final address")
        if status == 404:
            mend = f"check the address, and that it knows the model {self.model!r}"
        elif status == 403:
            mend = f"check what the key in {KEY_VARIABLE} allows"
        else:
            mend = f"check that it takes chat messages for the model {self.model!r}"
        return DposcopeError(f"{self.url} refuses ({reason}); {mend}")


@dataclass(frozen=True)
class _Reply:
    """What came back."""

    status: int
    """Of HTTP; `_NO_REPLY` where the connection broke."""
    body: str
    """Or why there is none."""
    retry_after: float | None
    """Seconds that the server asks to wait."""


class _StatusesAsTheyAre(urllib.request.HTTPErrorProcessor):
    """Every status is an answer to be read, so none is raised and no redirect followed."""

    def http_response(self, request: urllib.request.Request, response: Any) -> Any:  # noqa: ARG002
        """The response untouched."""
        return response

    https_response = http_response


def _completions(url: str) -> str:
    """The address that requests go to."""
    example = "give one such as https://api.openai.com/v1"
    # Looked for in the text, as a key with a slash in it parses as something else; and kept out of the message.
    if "@" in url or "?" in url:
        raise DposcopeError(f"the endpoint's address holds a user, password or query; put the key in {KEY_VARIABLE}")
    try:
        parts = urlsplit(url)
        plain = url.isascii() and url.isprintable() and " " not in url and (parts.port is None or parts.port > 0)
    except ValueError:
        raise DposcopeError(f"the endpoint is no address; {example}") from None
    if parts.scheme not in {"http", "https"} or not parts.hostname or not plain or parts.fragment:
        raise DposcopeError(f"the endpoint {url!r} is no http or https address; {example}")
    path = parts.path.rstrip("/") or "/v1"
    return f"{parts.scheme}://{parts.netloc}{path.removesuffix('/chat/completions')}/chat/completions"


def _key() -> str:
    key = os.environ.get(KEY_VARIABLE, "").strip()
    # http.client would quote a key that no header can hold.
    if not re.fullmatch(r"[!-~]*", key):
        raise DposcopeError(f"{KEY_VARIABLE} holds characters that no key has; set it again")
    return key


def _content(body: str) -> str | None:
    try:
        content = json.loads(body)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    return content if isinstance(content, str) else None


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
