"""Log-perplexity over windows of neutral text. Logits of a whole window are never in memory."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from typing_extensions import TypedDict

from dposcope.data.given.numbers import whole
from dposcope.data.short import short_repr
from dposcope.data.texts import check_text
from dposcope.data.token_ids import TokenStream
from dposcope.errors import DposcopeError
from dposcope.model.checks.given import check_lm
from dposcope.model.checks.tokens import check_ids
from dposcope.model.generate import Progress
from dposcope.model.head.token_losses import token_losses
from dposcope.model.language_model import LanguageModel
from dposcope.processes.shared import counting, shared
from dposcope.protocols import Protocol, check_protocol


class StoredLosses(TypedDict):
    """`WindowLosses` in a file."""

    nll: list[float]
    tokens: list[int]


@dataclass(frozen=True, eq=False)
class WindowLosses:
    """Negative log-likelihood per window."""

    nll: np.ndarray
    """Summed over a window's predicted tokens, natural log, `[windows]`, float64."""
    tokens: np.ndarray
    """Number of tokens that each window's sum is divided by, `[windows]`."""

    __repr__ = short_repr

    @property
    def mean(self) -> float:
        """Log-perplexity: nats per token over all windows."""
        return float(self.nll.sum() / self.tokens.sum())

    def to_json(self) -> dict[str, list[float]]:
        """As plain data."""
        return {"nll": self.nll.tolist(), "tokens": self.tokens.tolist()}

    @classmethod
    def from_json(cls, stored: StoredLosses) -> "WindowLosses":
        """Read what `to_json` wrote."""
        return cls(np.array(stored["nll"], dtype=np.float64), np.array(stored["tokens"], dtype=np.int64))


@torch.inference_mode()
def window_losses(
    lm: LanguageModel,
    text: str,
    *,
    protocol: Protocol = "strict",
    window: int = 1024,
    skip_windows: int = 0,
    max_windows: int | None = None,
    spread: bool = False,
    chunk: int = 128,
    progress: Progress | None = None,
) -> WindowLosses:
    """Negative log-likelihood of `text` in non-overlapping windows.

    Strict: every window is whole and begins with the beginning-of-text token where the tokenizer has
    one; the sum is over predicted tokens. Reference: that token once at the very start, the last partial
    window kept, and the sum over predicted tokens divided by all tokens.

    Args:
        lm: the model; hooks of an intervention around this call apply.
        text: neutral text, tokenised once.
        protocol: "strict" or "reference".
        window: tokens per window, the beginning-of-text token counted; cut to the model's context.
        skip_windows: leave out the first windows.
        max_windows: read only the first so many windows.
        spread: read so many windows evenly over the text instead, since neighbouring windows are similar.
        chunk: see `token_losses`.
        progress: called after each window.

    Raises:
        DposcopeError: the text is too short for one window after those skipped, or a number is too small.
    """
    check_lm(lm)
    check_text("text", text)
    check_protocol(protocol)
    most = 1 if max_windows is None else max_windows
    for name, value, least in (
        *(("window", window, 2), ("chunk", chunk, 1)),
        *(("skip_windows", skip_windows, 0), ("max_windows", most, 1)),
    ):
        if whole(name, value) < least:
            raise DposcopeError(f"{name} {value} is below {least}")
    window = min(window, lm.context_length)
    windows = _chosen(lm, text, protocol, window, skip_windows, max_windows, spread)
    if not windows:
        raise _no_window(window, skip_windows)

    def read(ids: NDArray[np.int32]) -> float:
        row = torch.tensor(ids[None], dtype=torch.long, device=lm.device)
        hidden = lm.model.base_model(
            input_ids=row, attention_mask=torch.ones_like(row), use_cache=False
        ).last_hidden_state[0, :-1]
        return float(token_losses(lm, hidden, row[0, 1:], chunk).sum())

    nll = shared(windows, read, done=counting(progress, len(windows), lambda _: 1))
    tokens = [len(ids) - 1 if protocol == "strict" else len(ids) for ids in windows]
    return WindowLosses(np.array(nll, dtype=np.float64), np.array(tokens, dtype=np.int64))


def check_window(lm: LanguageModel, text: str, *, protocol: Protocol = "strict", skip_windows: int = 0) -> None:
    """Refuse a text that gives `window_losses` nothing, before anything else is computed.

    Args:
        lm: gives the tokenizer.
        text: neutral text.
        protocol: "strict" or "reference".
        skip_windows: leave out the first windows.

    Raises:
        DposcopeError: the text is too short for one window after those skipped.
    """
    if count_windows(lm, text, protocol=protocol, most=skip_windows + 1) <= skip_windows:
        raise _no_window(min(1024, lm.context_length), skip_windows)


def window_of(plain: LanguageModel, other: LanguageModel, *, most: int = 1024) -> int:
    """Tokens per window that the plain model reads, and another one after it: windows are compared one by one.

    Args:
        plain: decides.
        other: must read as many; it may be the plain model.
        most: tokens, whatever the plain model can read.

    Raises:
        DposcopeError: the other model reads fewer.
    """
    window = min(most, plain.context_length)
    if other.context_length < window:
        raise DposcopeError(
            f"the config of {other.name} allows {other.context_length:,} tokens, and log-perplexity is compared on "
            f"windows of {window:,}; raise max_position_embeddings in its config.json to what the model can read"
        )
    return window


def _no_window(window: int, skip_windows: int) -> DposcopeError:
    after = f" after the first {skip_windows}" if skip_windows else ""
    return DposcopeError(f"the neutral text gives no window of {window:,} tokens{after}; give a longer text")


def longest_window(lm: LanguageModel, text: str, *, least: int) -> int:
    """The longest window of 1,024, 512, 256 or 128 tokens of which the text has at least `least`, to search with.

    Raises:
        DposcopeError: it has too few of the shortest.
    """
    for window in (1024, 512, 256, 128):
        if count_windows(lm, text, window=window, most=least) >= least:
            return window
    raise DposcopeError(
        f"the neutral text has {count_windows(lm, text, window=128)} windows of 128 tokens; give a longer one, with at "
        f"least {least}, so that the cost of an edit has an interval"
    )


def count_windows(
    lm: LanguageModel, text: str, *, protocol: Protocol = "strict", window: int = 1024, most: int | None = None
) -> int:
    """How many windows `window_losses` would read.

    Args:
        lm: gives the tokenizer.
        text: neutral text.
        protocol: "strict" or "reference".
        window: tokens per window; cut to the model's context.
        most: count no further; None: to the end of the text.
    """
    return sum(1 for _ in islice(_windows(lm, text, protocol, min(window, lm.context_length)), most))


_LAST: "WeakKeyDictionary[LanguageModel, tuple[tuple[object, ...], list[NDArray[np.int32]]]]" = WeakKeyDictionary()
"""Model → what windows it read last, and the windows: condition after condition is measured on the same text."""


def _chosen(
    lm: LanguageModel, text: str, protocol: Protocol, window: int, skip: int, most: int | None, spread: bool
) -> list[NDArray[np.int32]]:
    """The windows that `window_losses` reads; the text is made tokens of where they are not those of the last call."""
    asked = (text, protocol, window, skip, most, spread, lm.tokenizer, len(lm.tokenizer), lm.tokenizer.bos_token_id)
    last = _LAST.get(lm)
    if last is not None and last[0] == asked:
        return last[1]
    # Only as much of the text is read as is used.
    end = None if most is None or spread else skip + most
    windows = list(islice(_windows(lm, text, protocol, window), skip, end))
    if spread and most is not None and most < len(windows):
        step = len(windows) / most
        windows = [windows[int((index + 0.5) * step)] for index in range(most)]
    _LAST[lm] = asked, windows
    return windows


def _windows(lm: LanguageModel, text: str, protocol: Protocol, window: int) -> Iterator[NDArray[np.int32]]:
    begin = lm.tokenizer.bos_token_id
    head = np.array([begin] if isinstance(begin, int) else [], dtype=np.int32)
    check_ids(lm, head.tolist())
    left = head[:0] if protocol == "strict" else head
    head = head if protocol == "strict" else head[:0]
    room = window - len(head)
    if room < 1:
        return
    empty = True
    for part in TokenStream(lm.tokenizer, text):
        if len(part) == 0:
            continue
        check_ids(lm, part.tolist())
        empty, left = False, np.concatenate([left, part])
        while len(left) >= room:
            yield np.concatenate([head, left[:room]])
            left = left[room:]
    if protocol == "reference" and not empty and len(left):
        yield left
