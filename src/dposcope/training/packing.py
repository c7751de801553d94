"""Examples to one batch of token ids, each prompt read once for both of its completions.

A pair is a tree: a trunk (the prompt) and two branches that each see the trunk and themselves. Several trees stand in
one row behind one another; a mask keeps them apart and positions count from each tree's own root. Nothing is padding
but a row's end, and the last token of a branch, from which nothing is predicted, is not read at all.

A sliding window that some text outgrows counts tokens of the row, not of the text, so then each branch gets a row of
its own behind a copy of its trunk: the same numbers, more work.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from transformers import PreTrainedModel

from dposcope.errors import DposcopeError
from dposcope.model.layout import attention_kind
from dposcope.training.examples import Example

ROW_TOKENS = 512
"""Trees are packed into rows of about so many tokens; attention within a row grows with its square."""


@dataclass(frozen=True, eq=False)
class PackedBatch:
    """R rows of T tokens and where to look."""

    ids: Tensor
    """`[R, T]`, int64."""
    positions: Tensor
    """Place of each token in its own text, `[R, T]`; 0 for padding."""
    tree: Tensor
    """Which example a token belongs to, `[R, T]`; −1 for padding."""
    branch: Tensor
    """0 for a trunk, 1 and 2 for its branches, `[R, T]`."""
    where: Tensor
    """Places that predict, as indices into `R·T`, `[N]`."""
    targets: Tensor
    """The token to predict at each, `[N]`."""
    sequence: Tensor
    """Whose token that is, `[N]`: of P examples with branches, i and P + i for the two branches of pair i; a window
    without branches has the numbers from 2P on."""

    def to(self, device: torch.device) -> "PackedBatch":
        """On another device."""
        return PackedBatch(*(getattr(self, field.name).to(device) for field in fields(self)))

    def mask(self) -> Tensor:
        """Which token may look at which, `[R, 1, T, T]`, bool: itself, and earlier ones of its trunk and branch."""
        places = torch.arange(self.ids.shape[1], device=self.ids.device)
        same = self.tree.unsqueeze(2) == self.tree.unsqueeze(1)
        line = (self.branch.unsqueeze(1) == 0) | (self.branch.unsqueeze(2) == self.branch.unsqueeze(1))
        real = (self.tree >= 0).unsqueeze(1)
        allowed = same & line & real & (places.unsqueeze(1) >= places)
        return (allowed | torch.eye(len(places), dtype=torch.bool, device=places.device)).unsqueeze(1)


@dataclass
class _Piece:
    """A run of tokens that goes into one row."""

    ids: list[int]
    positions: list[int]
    tree: int
    branch: list[int]
    where: list[int]
    targets: list[int]
    sequence: list[int]


def fits_one_row(model: PreTrainedModel, examples: Sequence[Example]) -> bool:
    """Whether sharing is exact: no sliding window is shorter than a text, and the attention takes a mask of ours."""
    config = model.config.get_text_config()
    if attention_kind(model) not in ("sdpa", "eager"):
        return False
    window = config.to_dict().get("sliding_window")
    return window is None or max(map(_longest, examples), default=0) <= window


def _longest(example: Example) -> int:
    return len(example.trunk) + max((len(branch) - 1 for branch in example.branches), default=0)


def pack(
    examples: Sequence[Example],
    *,
    pad_id: int,
    shared: bool = True,
    whole: bool = False,
    row_tokens: int = ROW_TOKENS,
) -> PackedBatch:
    """Pack examples, those with branches first, into one batch.

    Args:
        examples: pairs, then windows.
        pad_id: any id; padding is masked.
        shared: read each trunk once, several trees a row; else one row per branch, in the order pair 1 preferred,
            pair 1 dispreferred, pair 2 …
        whole: without sharing, read the last token of each text too (the reference protocol counts it).
        row_tokens: about how long a row may get; a longer tree gets a row of its own.

    Raises:
        DposcopeError: there is no example, or one with branches stands behind one without.
    """
    if not examples:
        raise DposcopeError("no example to pack; give at least one")
    pairs = sum(bool(example.branches) for example in examples)
    if not all(example.branches for example in examples[:pairs]):
        raise DposcopeError("an example without branches stands before one with; put those with branches first")
    pieces = [
        piece
        for tree, example in enumerate(examples)
        for piece in ([_tree(example, tree, pairs)] if shared else _lines(example, tree, pairs, whole))
    ]
    rows = _fill(pieces, row_tokens) if shared else [[piece] for piece in pieces]
    width = max(sum(len(piece.ids) for piece in row) for row in rows)
    shape = (len(rows), width)
    ids = torch.full(shape, pad_id, dtype=torch.long)
    positions, branch = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
    tree = torch.full(shape, -1, dtype=torch.long)
    where: list[tuple[int, int, int]] = []  # (sequence, place, target), to be put in the order of sequences
    for index, row in enumerate(rows):
        start = 0
        for piece in row:
            span = slice(start, start + len(piece.ids))
            ids[index, span] = torch.tensor(piece.ids)
            positions[index, span] = torch.tensor(piece.positions)
            branch[index, span] = torch.tensor(piece.branch)
            tree[index, span] = piece.tree
            base = index * width + start
            where += [
                (number, base + place, target)
                for number, place, target in zip(piece.sequence, piece.where, piece.targets, strict=True)
            ]
            start += len(piece.ids)
    where.sort(key=lambda found: found[0])  # stable: tokens of a sequence stay in their order
    sequence, places, targets = (torch.tensor(column, dtype=torch.long) for column in zip(*where, strict=True))
    return PackedBatch(ids, positions, tree, branch, places, targets, sequence)


def _tree(example: Example, tree: int, pairs: int) -> _Piece:
    """Trunk and branches behind one another."""
    trunk = example.trunk
    if not example.branches:
        return _window(example, tree, pairs)
    piece = _Piece(list(trunk), list(range(len(trunk))), tree, [0] * len(trunk), [], [], [])
    for number, ids in enumerate(example.branches):
        first = len(piece.ids)
        piece.ids += ids[:-1]
        piece.positions += range(len(trunk), len(trunk) + len(ids) - 1)
        piece.branch += [number + 1] * (len(ids) - 1)
        piece.where += [len(trunk) - 1, *range(first, first + len(ids) - 1)]
        piece.targets += ids
        piece.sequence += [number * pairs + tree] * len(ids)
    return piece


def _lines(example: Example, tree: int, pairs: int, whole: bool) -> list[_Piece]:
    """Each branch behind a copy of its trunk."""
    if not example.branches:
        return [_window(example, tree, pairs)]
    pieces: list[_Piece] = []
    for number, ids in enumerate(example.branches):
        line = [*example.trunk, *(ids if whole else ids[:-1])]
        first = len(example.trunk) - 1
        pieces.append(
            _Piece(
                line,
                list(range(len(line))),
                tree,
                [0] * len(line),
                list(range(first, first + len(ids))),
                list(ids),
                [number * pairs + tree] * len(ids),
            )
        )
    return pieces


def _window(example: Example, tree: int, pairs: int) -> _Piece:
    read = list(example.trunk[:-1])
    places = list(range(len(read)))
    return _Piece(read, places, tree, [0] * len(read), places, list(example.trunk[1:]), [pairs + tree] * len(read))


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
