"""Examples to one batch of token ids, each prompt read once for both of its completions.

A pair is a prompt and two completions. Each completion sees the prompt and itself. One row holds several pairs, one
after another. A mask keeps them apart, and positions count from the start of each pair's own prompt. Only the end of a
row is padding. The last token of a completion predicts nothing, so it is not read.

A sliding window counts tokens of the row, not of the text. Where a text is longer than the window, each completion
therefore gets its own row, after a copy of its prompt: the same numbers, more work.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from dposcope.errors import DposcopeError
from dposcope.training.batches.examples import Example

ROW_TOKENS = 512
"""About how many tokens a row has. The cost of attention grows with the square of it."""


@dataclass(frozen=True, eq=False)
class PackedBatch:
    """R rows of T tokens, and the places in them that predict a token."""

    ids: Tensor
    """`[R, T]`, int64."""
    positions: Tensor
    """Place of each token in its own text, `[R, T]`; 0 for padding."""
    example: Tensor
    """Which example a token belongs to, `[R, T]`; −1 for padding."""
    completion: Tensor
    """0 in a prompt, 1 and 2 in its completions, `[R, T]`."""
    where: Tensor
    """Places that predict, as indices into `R·T`, `[N]`."""
    targets: Tensor
    """The token to predict at each, `[N]`."""
    sequence: Tensor
    """Number of the text that the target belongs to, `[N]`. With P pairs, the two completions of pair i have the
    numbers i and P + i; windows have the numbers from 2P on."""

    def to(self, device: torch.device) -> "PackedBatch":
        """On another device."""
        return PackedBatch(*(getattr(self, field.name).to(device) for field in fields(self)))

    def mask(self) -> Tensor:
        """Which token attends to which, `[R, 1, T, T]`, bool: to itself and to earlier ones of its own text."""
        places = torch.arange(self.ids.shape[1], device=self.ids.device)
        same = self.example.unsqueeze(2) == self.example.unsqueeze(1)
        line = (self.completion.unsqueeze(1) == 0) | (self.completion.unsqueeze(2) == self.completion.unsqueeze(1))
        real = (self.example >= 0).unsqueeze(1)
        allowed = same & line & real & (places.unsqueeze(1) >= places)
        return (allowed | torch.eye(len(places), dtype=torch.bool, device=places.device)).unsqueeze(1)


@dataclass
class _Piece:
    """Tokens that stand together in one row."""

    ids: list[int]
    positions: list[int]
    example: int
    completion: list[int]
    where: list[int]
    targets: list[int]
    sequence: list[int]


def pack(
    examples: Sequence[Example],
    *,
    pad_id: int,
    shared: bool = True,
    whole: bool = False,
    row_tokens: int = ROW_TOKENS,
) -> PackedBatch:
    """Pack examples, those with completions first, into one batch.

    Args:
        examples: pairs, then windows.
        pad_id: any id; padding is masked.
        shared: read each prompt once, with several examples in a row. Otherwise each completion has its own row, in the
            order pair 1 preferred, pair 1 dispreferred, pair 2 …
        whole: read the last token of each text too (the reference protocol counts it); only without `shared`.
        row_tokens: about how long a row may get; a longer example gets its own row.

    Raises:
        DposcopeError: there is no example, or a window stands before a pair.
    """
    if not examples:
        raise DposcopeError("no example to pack; give at least one")
    pairs = sum(bool(example.completions) for example in examples)
    if not all(example.completions for example in examples[:pairs]):
        raise DposcopeError("a window stands before a pair; put all pairs first")
    pieces = [
        piece
        for number, example in enumerate(examples)
        for piece in ([_shared(example, number, pairs)] if shared else _separate(example, number, pairs, whole))
    ]
    rows = _fill(pieces, row_tokens) if shared else [[piece] for piece in pieces]
    width = max(sum(len(piece.ids) for piece in row) for row in rows)
    shape = (len(rows), width)
    ids = torch.full(shape, pad_id, dtype=torch.long)
    positions, completion = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
    owner = torch.full(shape, -1, dtype=torch.long)
    where: list[tuple[int, int, int]] = []  # (sequence, place, target)
    for index, row in enumerate(rows):
        start = 0
        for piece in row:
            span = slice(start, start + len(piece.ids))
            ids[index, span] = torch.tensor(piece.ids)
            positions[index, span] = torch.tensor(piece.positions)
            completion[index, span] = torch.tensor(piece.completion)
            owner[index, span] = piece.example
            base = index * width + start
            where += [
                (number, base + place, target)
                for number, place, target in zip(piece.sequence, piece.where, piece.targets, strict=True)
            ]
            start += len(piece.ids)
    where.sort(key=lambda entry: entry[0])  # a stable sort: tokens of a sequence keep their order
    sequence, places, targets = (torch.tensor(column, dtype=torch.long) for column in zip(*where, strict=True))
    return PackedBatch(ids, positions, owner, completion, places, targets, sequence)


def _shared(example: Example, index: int, pairs: int) -> _Piece:
    """The prompt, then its completions."""
    prompt = example.prompt
    if not example.completions:
        return _window(example, index, pairs)
    piece = _Piece(list(prompt), list(range(len(prompt))), index, [0] * len(prompt), [], [], [])
    for side, ids in enumerate(example.completions):
        first = len(piece.ids)
        piece.ids += ids[:-1]
        piece.positions += range(len(prompt), len(prompt) + len(ids) - 1)
        piece.completion += [side + 1] * (len(ids) - 1)
        piece.where += [len(prompt) - 1, *range(first, first + len(ids) - 1)]
        piece.targets += ids
        piece.sequence += [side * pairs + index] * len(ids)
    return piece


def _separate(example: Example, index: int, pairs: int, whole: bool) -> list[_Piece]:
    """Each completion after a copy of its prompt."""
    if not example.completions:
        return [_window(example, index, pairs)]
    pieces: list[_Piece] = []
    for side, ids in enumerate(example.completions):
        line = [*example.prompt, *(ids if whole else ids[:-1])]
        first = len(example.prompt) - 1
        pieces.append(
            _Piece(
                line,
                list(range(len(line))),
                index,
                [0] * len(line),
                list(range(first, first + len(ids))),
                list(ids),
                [side * pairs + index] * len(ids),
            )
        )
    return pieces


def _window(example: Example, index: int, pairs: int) -> _Piece:
    read = list(example.prompt[:-1])
    places = list(range(len(read)))
    return _Piece(read, places, index, [0] * len(read), places, list(example.prompt[1:]), [pairs + index] * len(read))


def _fill(pieces: list[_Piece], row_tokens: int) -> list[list[_Piece]]:
    """First fit, longest first: rows of near-equal length."""
    longest = max(len(piece.ids) for piece in pieces)
    room = max(row_tokens, longest)
    total = sum(len(piece.ids) for piece in pieces)
    # Rows are as wide as the widest: filling each to the same share wastes least.
    room = min(room, max(-(-total // -(-total // room)), longest))
    rows: list[list[_Piece]] = []
    used: list[int] = []
    for piece in sorted(pieces, key=lambda piece: -len(piece.ids)):
        place = next((i for i, length in enumerate(used) if length + len(piece.ids) <= room), None)
        if place is None:
            rows.append([piece])
            used.append(len(piece.ids))
        else:
            rows[place].append(piece)
            used[place] += len(piece.ids)
    return rows
