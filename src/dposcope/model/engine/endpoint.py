"""The completions of an OpenAI-compatible server: vLLM, SGLang, llama.cpp, Ollama and others.

All that a server says is foreign: its size is bounded, its form is checked, and it reaches a message only masked.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from dposcope.errors import DposcopeError, plural
from dposcope.foreign_text import one_line
from dposcope.service import ENDPOINT_KEY, JsonService, Reply, checked_address

EXAMPLE: Final = "http://localhost:8000/v1"
"""An address, for messages."""
SECONDS: Final = 120.0
"""Without a byte from the server after which an attempt is over: a request may wait for others."""
ATTEMPTS: Final = 4
"""Times that a request is sent before it is given up."""

_LONGEST_TOKEN: Final = 256
"""Characters of one token; the longest of published vocabularies are runs of 128 spaces."""
_MOST_SHOWN: Final = 5
"""Names of models in a message."""
_FACTS: Final = ("root", "owned_by", "max_model_len")
"""What a server says of a model that does not change when it is started again (vLLM, SGLang)."""
_GGUF_FACTS: Final = ("n_params", "size", "n_vocab", "ftype")
"""The same of llama.cpp."""


@dataclass(frozen=True)
class ServedModel:
    """A model that a server names."""

    name: str
    facts: Mapping[str, str | int]
    """What the server says of it: where it was loaded from, its size. Empty where it says nothing."""


@dataclass(frozen=True)
class Completion:
    """What a server wrote after one prompt."""

    text: str
    ids: tuple[int, ...] | None
    """Its token ids, where the server tells them (vLLM)."""
    prompt_tokens: int | None
    """How many tokens of the prompt the server read, where it tells."""


class Refused(DposcopeError):
    """The server does not take a request of this form; another form may do."""


class CompletionsEndpoint:
    """Any `…/v1/completions`, with the model that it is asked for.

    429, 5xx, time-outs and broken connections are tried again after the time that `Retry-After` names, else after 1, 2,
    4 … seconds. Redirects are not followed. Set the variable DPOSCOPE_API_KEY where the server wants a key. Requests
    may be sent from several threads.
    """

    def __init__(
        self,
        url: str,
        *,
        model: str | None = None,
        attempts: int = ATTEMPTS,
        timeout: float = SECONDS,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Nothing is sent yet.

        Args:
            url: the base, such as `http://localhost:8000/v1`.
            model: as the server calls it; None: the only one that it has.
            attempts: times that a request is sent before it is given up.
            timeout: seconds without a byte from the server after which an attempt is over.
            sleep: waits for some seconds.

        Raises:
            DposcopeError: the address is none or holds a secret, or a number is out of range.
        """
        parts = checked_address(url, variable=ENDPOINT_KEY.variable, example=EXAMPLE)
        path = parts.path.rstrip("/").removesuffix("/completions") or "/v1"
        self.url: Final = f"{parts.scheme}://{parts.netloc}{path}"
        """The base."""
        if model is not None and (not model or not model.isprintable()):
            raise DposcopeError(f"model {model!r} is no name; give the one that {self.url} knows it by")
        self._model = model

        def service(part: str) -> JsonService:
            return JsonService(
                f"{self.url}/{part}",
                ENDPOINT_KEY,
                interval=0.0,
                attempts=attempts,
                timeout=timeout,
                mend="look at the server's log; if it is only slow, ask for fewer texts at a time with --concurrency",
                sleep=sleep,
            )

        self._models, self._completions = service("models"), service("completions")

    def served(self) -> ServedModel:
        """The model that is asked for, as the server names it.

        Raises:
            DposcopeError: the server cannot be reached, or has no such model, or several and none is named.
        """
        reply = self._models.get()
        if reply.status in {404, 405, 501}:  # a server may have completions alone
            if self._model is None:
                raise DposcopeError(f"{self.url} does not list its models; name one, as in {self.url}#NAME")
            return ServedModel(self._model, {})
        if not reply.is_answer:
            raise self._refusal(self._models, reply)
        listed = _listed(reply.body)
        if listed is None:
            raise DposcopeError(
                f"{self.url}/models is no list of models; check that this is the address of an OpenAI-compatible server"
            )
        names = [one.name for one in listed]
        if self._model is None:
            if len(listed) != 1:
                raise DposcopeError(f"{self.url} has {self._shown(names)}; name one, as in {self.url}#NAME")
            return listed[0]
        for one in listed:
            if one.name == self._model:
                return one
        raise DposcopeError(
            f"{self.url} has no model {self._model!r}, but {self._shown(names)}; name one that it has, after a #"
        )

    def complete(
        self,
        prompt: Sequence[int] | str,
        *,
        model: str,
        new_tokens: int,
        temperature: float,
        top_p: float,
        seed: int,
        further: Mapping[str, Any],
    ) -> Completion:
        """The continuation of one prompt.

        Args:
            prompt: token ids, or text.
            model: as the server calls it.
            new_tokens: most new tokens.
            temperature: divides the logits; 0: greedy.
            top_p: of the nucleus that is sampled from.
            seed: of the draws.
            further: fields that not every server takes.

        Raises:
            Refused: the server does not take such a request (400, 415, 422).
            DposcopeError: it cannot be reached, refuses, gives no answer in all attempts, or none that is a completion
                of such a request.
        """
        reply = self._completions.post(
            {
                "model": model,
                "prompt": prompt if isinstance(prompt, str) else list(prompt),
                "max_tokens": new_tokens,
                "temperature": temperature,
                "top_p": top_p,
                "seed": seed,
                "n": 1,
                "stream": False,
                **further,
            }
        )
        if not reply.is_answer:
            raise self._refusal(self._completions, reply)
        return self._read(reply.body, new_tokens)

    def _read(self, body: str, new_tokens: int) -> Completion:
        try:
            told: Any = json.loads(body)
        except (ValueError, RecursionError):
            raise self._unfit("it is not JSON, or too long") from None
        match told:
            case {"choices": [{"text": str(text)} as choice]}:
                pass
            case {"choices": [_, _, *_] as many}:
                raise self._unfit(f"{len(many)} texts for one prompt")
            case _:
                raise self._unfit("choices[0].text is not there, or is no text")
        usage = told.get("usage")
        usage = cast(dict[str, Any], usage) if isinstance(usage, dict) else {}
        written, read = (_count(usage.get(name)) for name in ("completion_tokens", "prompt_tokens"))
        if len(text) > _LONGEST_TOKEN * new_tokens or (written is not None and written > new_tokens + 1):
            raise self._unfit(f"it is longer than the {plural(new_tokens, 'token')} that were asked for")
        return Completion(_whole(text), self._ids(choice.get("token_ids"), new_tokens), read)

    def _ids(self, found: Any, new_tokens: int) -> tuple[int, ...] | None:
        if found is None:
            return None
        if not isinstance(found, list) or any(_count(one) is None for one in cast(list[Any], found)):
            raise self._unfit("choices[0].token_ids are no token ids")
        ids = cast(list[int], found)
        if len(ids) > new_tokens + 1:  # the end-of-text token may be among them
            raise self._unfit(f"it is longer than the {plural(new_tokens, 'token')} that were asked for")
        return tuple(ids)

    def _unfit(self, fault: str) -> DposcopeError:
        return DposcopeError(
            f"{self.url}/completions gives an answer that is no completion ({fault}); check that the server speaks "
            "the OpenAI API for completions"
        )

    def _shown(self, names: Sequence[str]) -> str:
        if not names:
            return "none"
        more = f" and {len(names) - _MOST_SHOWN:,} more" if len(names) > _MOST_SHOWN else ""
        return ", ".join(self._models.shown(name, length=80) for name in names[:_MOST_SHOWN]) + more

    def _refusal(self, service: JsonService, reply: Reply) -> DposcopeError:
        serves = "check that it serves completions of this model"
        if reply.status in {400, 415, 422}:
            return Refused(f"{service.url} refuses ({service.reason(reply)}); {serves}")
        return service.refusal(
            reply,
            owner="it",
            unknown=f"check the address, which is such as {EXAMPLE}, and the name of the model after a #",
            otherwise=serves,
        )


def _listed(body: str) -> list[ServedModel] | None:
    """The models of `/models`; None where it is no such list."""
    try:
        told: Any = json.loads(body)
    except (ValueError, RecursionError):
        return None
    match told:
        case {"data": [*entries]}:
            pass
        case _:
            return None
    found: list[ServedModel] = []
    for entry in entries:
        match entry:
            case {"id": str(name)} if name and len(name) <= 4096:
                found.append(ServedModel(_whole(name), _facts(cast(dict[str, Any], entry))))
            case _:
                return None
    return found


def _facts(entry: Mapping[str, Any]) -> dict[str, str | int]:
    meta = entry.get("meta")
    held = {name: entry.get(name) for name in _FACTS}
    if isinstance(meta, dict):
        held |= {name: cast(dict[str, Any], meta).get(name) for name in _GGUF_FACTS}
    texts = {name: one_line(_whole(value)) for name, value in held.items() if isinstance(value, str)}
    counts = {name: count for name, value in held.items() if (count := _count(value)) is not None}
    return texts | counts


def _count(value: Any) -> int | None:
    """A whole number from 0 on that fits in a file; true and false are none."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63 else None


def _whole(text: str) -> str:
    """The text with � for half characters, which JSON can spell and no tokenizer takes."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
