"""Asking a language model behind an OpenAI-compatible endpoint."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from dposcope.errors import DposcopeError
from dposcope.service import ENDPOINT_KEY, JsonService, Reply, checked_address

KEY_VARIABLE: Final = ENDPOINT_KEY.variable
"""The environment variable that holds the key, where the endpoint wants one."""


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
        if not requests_per_minute > 0:
            raise DposcopeError(f"requests_per_minute {requests_per_minute} is not above 0; give a number such as 60")
        self.model: Final = model
        """As the endpoint calls it."""
        self._temperature = temperature
        self._service = JsonService(
            self.url,
            ENDPOINT_KEY,
            interval=60.0 / requests_per_minute,
            attempts=attempts,
            timeout=timeout,
            sleep=sleep,
            clock=clock,
        )

    def ask(self, messages: Sequence[ChatMessage]) -> str | None:
        """The text of the model's answer; None where what came is no completion, or the model refused.

        Raises:
            DposcopeError: the endpoint cannot be reached, refuses, or gives no answer in all attempts.
        """
        conversation = [{"role": message.role, "content": message.content} for message in messages]
        request: dict[str, Any] = {"model": self.model, "messages": conversation}
        if self._temperature is not None:
            request["temperature"] = self._temperature
        reply = self._service.post(request)
        if not reply.is_answer:
            raise self._refusal(reply)
        return _content(reply.body)

    def shown(self, text: str, *, length: int = 160) -> str:
        """What a server said as a message may show it: one line, masked, without the key, `length` characters."""
        return self._service.shown(text, length=length)

    def _refusal(self, reply: Reply) -> DposcopeError:
        return self._service.refusal(
            reply,
            owner="this endpoint",
            unknown=f"check the address, and that it knows the model {self.model!r}",
            otherwise=f"check that it takes chat messages for the model {self.model!r}",
        )


def _completions(url: str) -> str:
    """The address that requests go to."""
    parts = checked_address(url, variable=KEY_VARIABLE, example="https://api.openai.com/v1")
    path = parts.path.rstrip("/") or "/v1"
    return f"{parts.scheme}://{parts.netloc}{path.removesuffix('/chat/completions')}/chat/completions"


def _content(body: str) -> str | None:
    try:
        content = json.loads(body)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    return content if isinstance(content, str) else None
