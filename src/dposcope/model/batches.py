"""Texts to padded batches. Padding and masks are made here, so the tokenizer's own settings do not matter."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, groupby
from typing import Final, Literal, TypeVar

import torch
from torch import Tensor

from dposcope.data.given.numbers import whole
from dposcope.data.token_ids import agreed, check_whole, first_ids, is_short, settled, token_ids
from dposcope.errors import DposcopeError
from dposcope.model.checks.given import check_lm
from dposcope.model.checks.tokens import check_ids
from dposcope.model.language_model import LanguageModel
from dposcope.model.size import ModelSize, model_size
from dposcope.processes.shared import counting, shared
from dposcope.protocols import check_choice

T = TypeVar("T")

Progress = Callable[[int, int], None]
"""Called with (done, total) after each batch."""

READ: Final = 32
"""Texts that are read at a time unless a number is given."""
WRITTEN: Final = 128
"""Prompts that are continued at a time, at most, unless a number is given: every step reads all weights, however many
prompts there are."""
_ROOM: Final = 4 * 2**30
"""Bytes that so many prompts may take; they are never fewer than `READ`."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Padded rows of token ids."""

    ids: Tensor
    """`[B, T]`, int64."""
    mask: Tensor
    """`[B, T]`, 1 for a real token, 0 for padding."""
    rows: list[int]
    """Index of the text in each row."""

    def count(self) -> int:
        """Of rows."""
        return len(self.rows)

    @property
    def lengths(self) -> Tensor:
        """Real tokens per row, `[B]`."""
        return self.mask.sum(-1)


def encode(
    lm: LanguageModel,
    texts: Sequence[str],
    *,
    max_tokens: int | None = None,
    keep: Literal["start", "end"] = "end",
) -> list[list[int]]:
    """Token ids of each text, with the special tokens that the tokenizer adds.

    Args:
        lm: model and tokenizer.
        texts: any texts; a text that gives no token is an error.
        max_tokens: cut longer texts to so many tokens, special ones counted.
        keep: which side of a long text is kept. A special token at the start is always kept.

    Raises:
        DposcopeError: a text has no tokens; or it has so many characters that its tokens would not fit into memory, and
            which of them are used cannot be told from a part of it.
    """
    check_lm(lm)
    check_cut(max_tokens, keep)
    if not texts:
        return []
    if max_tokens is None:
        for row, text in enumerate(texts):
            check_whole(len(text), f"text {row + 1}")
    short = [max_tokens is None or is_short(text, max_tokens) for text in texts]
    special = lm.special_ids
    whole = iter(token_ids(lm.tokenizer, [text for text, one in zip(texts, short, strict=True) if one], special=True))
    cut = [
        _cut(next(whole), max_tokens, keep, special) if one else _of_long(lm, text, max_tokens or 1, keep, row, special)
        for row, (text, one) in enumerate(zip(texts, short, strict=True))
    ]
    for row, ids in enumerate(cut):
        if not ids:
            raise DposcopeError(f"text {row + 1} is empty, and this tokenizer adds no special token; remove that text")
    return cut


def check_cut(max_tokens: int | None, keep: str) -> None:
    """Refuse a limit below one token, and a side that is none.

    Raises:
        DposcopeError: it is so.
    """
    check_choice("keep", keep, ("start", "end"))
    if max_tokens is not None and whole("a limit of tokens:", max_tokens) < 1:
        raise DposcopeError(f"a limit of {max_tokens} tokens is below 1; give a positive number, or None")


def _of_long(lm: LanguageModel, text: str, max_tokens: int, keep: str, row: int, special: frozenset[int]) -> list[int]:
    """The same of a text of which only a part is read."""
    what = f"text {row + 1}"
    if keep == "start":
        return first_ids(lm.tokenizer, text, max_tokens, special=True, what=what)
    # A special token at the start may be the text's own.
    start = first_ids(lm.tokenizer, text, 1, special=True, what=what)

    def read(size: int) -> list[int] | None:
        if size >= len(text):
            return _cut(token_ids(lm.tokenizer, [text], special=True)[0], max_tokens, keep, special)
        ids = token_ids(lm.tokenizer, [text[-size:]], special=True)[0]
        return _cut(start + ids, max_tokens, keep, special) if settled(ids[:-max_tokens]) else None

    return agreed(read, length=len(text), tokens=max_tokens, what=what)


def _cut(ids: list[int], max_tokens: int | None, keep: str, special: frozenset[int]) -> list[int]:
    if max_tokens is None or len(ids) <= max_tokens:
        return ids
    if keep == "start":
        return ids[:max_tokens]
    head = ids[:1] if ids[0] in special else []
    room = max_tokens - len(head)
    return head + (ids[-room:] if room else [])


def rows_to_read(batch_size: int | None) -> int:
    """Texts that are read at a time.

    Args:
        batch_size: what is asked for; None: `READ`.

    Raises:
        DposcopeError: `batch_size` is below 1.
    """
    if batch_size is None:
        return READ
    if whole("batch_size", batch_size) < 1:
        raise DposcopeError(f"batch size {batch_size} is below 1; give a positive number")
    return batch_size


def rows_to_write(lm: LanguageModel, prompts: Sequence[Sequence[int]], new_tokens: int, batch_size: int | None) -> int:
    """Prompts that are continued at a time. It depends on the model and the prompts alone, not on the machine: the same
    command gives the same batches everywhere.

    Args:
        lm: the model.
        prompts: token ids.
        new_tokens: most new tokens of each.
        batch_size: what is asked for; None: see `rows_with_room`.

    Raises:
        DposcopeError: `batch_size` is below 1.
    """
    if batch_size is not None or len(prompts) <= READ:
        return rows_to_read(batch_size)
    longest = max(map(len, prompts))
    return rows_with_room(model_size(lm.model), lm.dtype.itemsize, len(prompts), longest, new_tokens)


def rows_with_room(size: ModelSize, itemsize: int, prompts: int, longest: int, new_tokens: int) -> int:
    """As many prompts at a time as their keys, values and activations have room in 4 GiB, from `READ` to `WRITTEN`, and
    in batches of about the same size.

    Args:
        size: of the model.
        itemsize: bytes of a weight.
        prompts: how many there are.
        longest: tokens of the longest.
        new_tokens: most new tokens of each.
    """
    room = int(_ROOM // max(size.row_bytes(longest, new_tokens, itemsize), 1))
    most = max(READ, min(WRITTEN, room))
    return max(1, math.ceil(prompts / math.ceil(max(prompts, 1) / most)))


def batches(
    lm: LanguageModel, encoded: Sequence[Sequence[int]], *, batch_size: int | None, side: Literal["left", "right"]
) -> Iterator[Batch]:
    """Batches of texts of similar length, longest first: there is little padding, and memory peaks in the first batch.

    Where a model would read padding on the left (`reads_padding`), there is none: texts of a batch have one length, and
    a later batch may have more of them.

    Args:
        lm: gives device and padding id.
        encoded: token ids per text.
        batch_size: rows at a time; None: `READ`.
        side: where padding goes: left to generate, right to read.

    Raises:
        DposcopeError: `batch_size` is below 1, or the model has no embedding for a token.
    """
    size = rows_to_read(batch_size)
    check_ids(lm, chain.from_iterable(encoded))
    order = sorted(range(len(encoded)), key=lambda row: (-len(encoded[row]), row))
    alike = [list(one) for _, one in groupby(order, lambda row: len(encoded[row]))]
    groups = alike if side == "left" and len(alike) > 1 and lm.reads_padding else [order]
    for rows in (group[start : start + size] for group in groups for start in range(0, len(group), size)):
        width = len(encoded[rows[0]])
        ids = torch.full((len(rows), width), lm.pad_id, dtype=torch.long)
        mask = torch.zeros((len(rows), width), dtype=torch.long)
        for place, row in enumerate(rows):
            length = len(encoded[row])
            where = slice(width - length, width) if side == "left" else slice(0, length)
            ids[place, where] = torch.tensor(encoded[row], dtype=torch.long)
            mask[place, where] = 1
        yield Batch(ids.to(lm.device), mask.to(lm.device), rows)


def by_row(
    lm: LanguageModel,
    encoded: Sequence[Sequence[int]],
    work: Callable[[Batch], Sequence[T]],
    *,
    batch_size: int | None,
    side: Literal["left", "right"],
    progress: Progress | None = None,
) -> list[T]:
    """What `work` makes of each text, in the order of the texts; batches as by `batches`, shared by the processes of a
    job.

    Args:
        lm: gives device and padding id.
        encoded: token ids per text.
        work: on one batch: a result for each of its rows. See `dposcope.processes.shared`.
        batch_size: rows at a time; None: `READ`.
        side: where padding goes: left to generate, right to read.
        progress: called after each batch, with the number of texts.

    Raises:
        DposcopeError: as `batches`.
    """
    planned = batches(lm, encoded, batch_size=batch_size, side=side)
    done = counting(progress, len(encoded), Batch.count)
    made = shared(planned, lambda batch: (batch.rows, work(batch)), done=done)
    by_place = {row: one for rows, results in made for row, one in zip(rows, results, strict=True)}
    return [by_place[row] for row in range(len(encoded))]
