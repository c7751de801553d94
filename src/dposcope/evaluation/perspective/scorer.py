"""The Perspective API (Jigsaw and Google), which most published numbers of toxicity come from.

The service ends after 2026. So every answer is kept on disk for good, and kept answers are read without a key.
Request and answer: https://developers.perspectiveapi.com/s/about-the-api-methods. The key goes in a header, which
every Google API takes (https://cloud.google.com/apis/docs/system-parameters), so no address holds it.
"""

import json
import os
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from dposcope.artefacts import text_digest
from dposcope.cache import cache_folder
from dposcope.errors import DposcopeError, plural
from dposcope.evaluation.perspective.answers import KeptAnswers, Question, is_score
from dposcope.evaluation.scorer import Scorer
from dposcope.processes.shared import once
from dposcope.service import JsonService, Reply, ServiceKey, checked_address, doubling

KEY_VARIABLE: Final = "PERSPECTIVE_API_KEY"
"""The environment variable that holds the key."""
RATE_VARIABLE: Final = "PERSPECTIVE_QUERIES_PER_SECOND"
"""The environment variable that holds the most queries a second."""
ADDRESS: Final = "https://commentanalyzer.googleapis.com"
MOST_BYTES: Final = 20 * 1024
"""Of a text's UTF-8, as the service takes it."""

_KEY: Final = ServiceKey(KEY_VARIABLE, "X-Goog-Api-Key")
_VERSION: Final = "v1alpha1"
_ATTRIBUTE: Final = "TOXICITY"
_LANGUAGES: Final = ("en",)
_ASKED: Final = 3  # times that one text is asked about before answers that are none are given up
_OWN_MACHINE: Final = frozenset({"localhost", "127.0.0.1", "::1"})


def perspective_scorer(
    *,
    queries_per_second: float | None = None,
    answers: str | Path | None = None,
    address: str = ADDRESS,
    attempts: int = 8,
    timeout: float = 30.0,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
    jitter: Callable[[], float] = random.random,
) -> Scorer:
    """The Perspective API's score for the attribute TOXICITY, in English.

    Texts without a kept answer are sent to Google, one at a time, with the request not to store them. The key is
    read from the environment variable PERSPECTIVE_API_KEY. Without a key, kept answers are all there is. The file
    holds the SHA-256 of a text, its score and the day; it may be copied to another machine.

    A blank text scores 0 and is not sent. Of a text of more than 20 KB (20,480 bytes of UTF-8) the beginning is
    scored, cut between two characters. 429, 5xx, time-outs and connections that fail are tried again, after the
    time that `Retry-After` names, else after 1, 2, 4 … seconds, less a random part of up to a half.

    Args:
        queries_per_second: most queries a second of this scorer, repeated ones among them, evenly spaced. None: the
            environment variable PERSPECTIVE_QUERIES_PER_SECOND, or 1, the quota of a new key.
        answers: the file of kept answers. None: `scorers/perspective.jsonl` in the cache folder.
        address: of the service, https. http is for a server on this machine.
        attempts: times that a query is sent before it is given up.
        timeout: seconds without a byte from the service after which an attempt is over.
        sleep: waits for some seconds.
        clock: seconds from any start.
        jitter: a random number in [0, 1).

    Raises:
        DposcopeError: there is neither a key nor a kept answer; a number is out of range; the address is not https.
            When it scores: an answer is missing and there is no key; the service refuses a text, cannot be reached
            or gives no score; an answer cannot be kept.
    """
    rate = _rate(queries_per_second)
    service = JsonService(
        f"{_checked(address)}/{_VERSION}/comments:analyze",
        _KEY,
        interval=1.0 / rate,
        attempts=attempts,
        timeout=timeout,
        backoff=lambda attempt: doubling(attempt) * (1.0 - jitter() / 2),
        unreachable_passes=True,
        sleep=sleep,
        clock=clock,
    )
    kept = KeptAnswers(answers or cache_folder() / "scorers" / "perspective.jsonl")
    if not len(kept) and not _KEY.value():
        raise DposcopeError(
            f"the scorer perspective has no key, and {kept.path} holds no answer; set {KEY_VARIABLE} to a key of the "
            "Perspective API, or copy a file of answers there"
        )
    return Scorer("perspective", text_digest("perspective", _VERSION, _ATTRIBUTE, *_LANGUAGES), _Asking(service, kept))


class _Asking:
    """Looks an answer up, or asks for it and keeps it."""

    def __init__(self, service: JsonService, kept: KeptAnswers) -> None:
        self._service = service
        self._kept = kept

    def __call__(self, texts: Sequence[str]) -> list[float]:
        """A score per text, in order; equal texts are asked about once.

        Messages name a text by its place here, which is its place among those that a `Scorer` has not yet scored.

        Raises:
            DposcopeError: see `perspective_scorer`.
        """
        return once(lambda: self._all([cut(text) for text in texts]))

    def _all(self, sent: Sequence[str]) -> list[float]:
        self._kept.refresh()
        if not _KEY.value():
            self._check_complete(sent)
        return [self._score(text, f"new text {place:,} of {len(sent):,}") for place, text in enumerate(sent, start=1)]

    def _check_complete(self, sent: Sequence[str]) -> None:
        missing = {text for text in sent if text.strip() and self._kept.get(_question(text)) is None}
        if missing:
            damage = f" ({plural(self._kept.unreadable, 'line')} of it cannot be read)" if self._kept.unreadable else ""
            raise DposcopeError(
                f"{self._kept.path} lacks the answer for {plural(len(missing), 'text')} of {len(sent):,}{damage}; set "
                f"{KEY_VARIABLE} to a key of the Perspective API to ask for what is missing"
            )

    def _score(self, text: str, place: str) -> float:
        if not text.strip():
            return 0.0
        question = _question(text)
        score = self._kept.get(question)
        return self._kept.keep(question, self._ask(text, place)) if score is None else score

    def _ask(self, text: str, place: str) -> float:
        request = {
            "comment": {"text": text, "type": "PLAIN_TEXT"},
            "languages": list(_LANGUAGES),
            "requestedAttributes": {_ATTRIBUTE: {}},
            "doNotStore": True,
        }
        said = ""
        for _ in range(_ASKED):
            reply = self._service.post(request)
            faults = _faults(reply.body)
            if "COMMENT_EMPTY" in faults:  # such as characters without a width
                return 0.0
            if not reply.is_answer:
                raise self._refusal(reply, faults, place)
            score = _summary_score(reply.body)
            if score is not None:
                return score
            said = self._service.shown(reply.body, length=60)
        raise DposcopeError(
            f"{self._service.url} answers {said!r} instead of a score, {_ASKED} times; check what stands between here "
            "and the service, or try again later"
        )

    def _refusal(self, reply: Reply, faults: set[str], place: str) -> DposcopeError:
        if faults & {"LANGUAGE_NOT_SUPPORTED_BY_ATTRIBUTE", "LANGUAGE_DETECTION_FAILED"}:
            return DposcopeError(
                f"the Perspective API does not read the language of {place}; leave that text out, or use another scorer"
            )
        reason = self._service.reason(reply)
        if "API_KEY_INVALID" in faults or reply.status == 401:
            fault, mend = "does not accept the key", f"set {KEY_VARIABLE} to a valid key"
        elif reply.status == 403:
            fault, mend = "refuses", f"check that the project of the key in {KEY_VARIABLE} may use the Perspective API"
        elif reply.status in {404, 410}:
            fault, mend = "is not there", "the service ends after 2026; answers that were kept are still read"
        elif 300 <= reply.status < 400:
            fault, mend = "redirects, which is not followed", "check what stands between here and the service"
        else:
            fault, mend = f"refuses {place}", "leave that text out, or use another scorer"
        return DposcopeError(f"{self._service.url} {fault} ({reason}); {mend}")


def cut(text: str) -> str:
    """What is sent of a text: what fits in `MOST_BYTES` of UTF-8, with `?` for halves of characters."""
    return text.encode("utf-8", "replace")[:MOST_BYTES].decode("utf-8", "ignore")


def _question(text: str) -> Question:
    return Question.about(text, _ATTRIBUTE, _LANGUAGES)


def _summary_score(body: str) -> float | None:
    """The score of the whole text, where `body` holds one."""
    try:
        value = json.loads(body)["attributeScores"][_ATTRIBUTE]["summaryScore"]["value"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    return float(value) if is_score(value) else None


def _faults(body: str) -> set[str]:
    """What the service calls the faults, in an error's body: its own `errorType`, and Google's `reason`."""
    try:
        details: Any = json.loads(body)["error"]["details"]
        named = [detail.get(name) for detail in details for name in ("errorType", "reason")]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return set()
    return {name for name in named if isinstance(name, str)}


def _rate(given: float | None) -> float:
    """Queries a second.

    Raises:
        DposcopeError: the number is not above 0, or the variable holds none.
    """
    name = "queries_per_second" if given is not None else RATE_VARIABLE
    value = given if given is not None else os.environ.get(RATE_VARIABLE, "").strip() or 1.0
    try:
        rate = float(value)
    except ValueError:
        rate = 0.0
    if not rate > 0:
        raise DposcopeError(f"{name} {value!r} is no number above 0; give one such as 1")
    return rate


def _checked(address: str) -> str:
    """The address without a last slash.

    Raises:
        DposcopeError: a key would go through a network in the clear.
    """
    parts = checked_address(address, variable=KEY_VARIABLE, example=ADDRESS)
    if parts.scheme != "https" and parts.hostname not in _OWN_MACHINE:
        raise DposcopeError(f"the address {address} is not https, which would show the key; give one such as {ADDRESS}")
    return address.rstrip("/")
