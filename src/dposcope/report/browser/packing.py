"""Data for the neuron browser's script as JSON: numbers as packed arrays, tokens as one table.

Numbers in the table of neurons are float32. Numbers that only an opened neuron shows are smaller: logits in half
precision, activations on tokens in 8 bits. Texts pass through `ShownText`: they are masked and have no invisible
characters, and the masked words are in a separate list that only the page's switch reads.
"""

import base64
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from dposcope.directions.lens import Lens
from dposcope.report.browser.kept import Kept
from dposcope.report.browser.neurons import ABSENT, NeuronBrowser, TokenActivations
from dposcope.report.masked_text import ShownText

_CERTAIN = 8
"""Bit of a neuron's flags above its group's code."""


BYTES_OF_NEURON = (1 + 4 * 4) * 4 / 3
"""What a neuron takes in the page: its flags and four columns of float32, in base64."""
BYTES_OF_KEPT = (1 + 4 * 4 + 3 * 4) * 4 / 3
"""The same where the page does not hold all: with its number and two ranks."""


def packed_parts(value: NeuronBrowser, shown: ShownText, kept: Kept | None = None) -> dict[str, Any]:
    """The data for the page's script, part by part. A neuron is called by its row in the columns.

    Precision: columns are float32; logits x have an error of at most 2⁻¹¹|x| or 2⁻²⁵ of the largest |x|, whichever is
    larger; activations on tokens have an error of at most 1/254 of the neuron's largest.

    Args:
        value: the neurons.
        shown: of the page; it collects the words that are masked here.
        kept: the neurons that have a row; None: all have one.
    """
    tokens = _Tokens(shown)
    blocks, width = value.shape
    flags = value.group.astype(np.uint8) | np.where(value.certain, _CERTAIN, 0).astype(np.uint8)
    if value.here is not None:
        flags = np.where(value.here, flags, ABSENT).astype(np.uint8)
    columns = {
        "cosine": value.cosine,
        "before": value.mean_before,
        "after": value.mean_after,
        "contribution": value.contribution,
    }

    def rows(column: NDArray[Any]) -> NDArray[Any]:
        return column.ravel() if kept is None else column.ravel()[kept.neurons]

    return {
        "shape": [blocks, width],
        "experts": value.experts or 0,
        "columns": {
            "flags": _packed(rows(flags)),
            **{name: _packed(rows(column).astype(np.float32)) for name, column in columns.items()},
        },
        "kept": None if kept is None else _kept(kept),
        "digits": {
            "contribution": _digits(value.contribution),
            "mean": min(_digits(value.mean_before), _digits(value.mean_after)),
        },
        "lenses": _lenses(value.lenses, tokens, kept),
        "texts": [
            {"tokens": _packed(_indices(tokens.of_text(text.tokens))), "prompt": text.prompt_tokens}
            for text in value.texts
        ],
        "activations": _activations(value.activations, kept),
        # Last, since making the other parts fills it.
        "tokens": tokens.entries,
    }


def _kept(kept: Kept) -> dict[str, Any]:
    columns = {"neurons": kept.neurons, "ranks": kept.ranks, "peerRanks": kept.peer_ranks}
    packed = {name: _packed(column.astype(np.uint32)) for name, column in columns.items()}
    return {**packed, "peers": kept.peers, "total": kept.total}


def _rows(neurons: NDArray[np.integer[Any]], kept: Kept | None) -> dict[str, Any]:
    return _packed((neurons if kept is None else kept.rows(neurons)).astype(np.uint32))


def _lenses(lenses: Mapping[int, Lens], tokens: "_Tokens", kept: Kept | None) -> dict[str, Any]:
    """Neurons `[n]` in ascending order, and for each the tokens of its top, then of its bottom, `[n, 2k]`."""
    ordered = sorted(lenses)
    values = [lenses[neuron] for neuron in ordered]
    logits = np.array([[*one.top_logits, *one.bottom_logits] for one in values], np.float64)
    return {
        "neurons": _rows(np.array(ordered, np.int64), kept),
        "tokens": _packed(_indices([tokens.alone(token) for one in values for token in (*one.top, *one.bottom)])),
        "logits": _halves(logits),
    }


def _activations(made: TokenActivations, kept: Kept | None) -> dict[str, Any]:
    """Activations in 8 bits, with one scale per neuron for both models, so that colours can be compared."""
    largest = np.maximum(
        np.abs(made.before).max(axis=1, initial=0.0),
        np.abs(made.after).max(axis=1, initial=0.0),
    )
    scales = (largest / 127).astype(np.float32)
    steps = np.where(scales > 0, scales, 1).astype(np.float64)[:, None]
    before, after = (
        np.clip(np.rint(values.astype(np.float64) / steps), -127, 127).astype(np.int8)
        for values in (made.before, made.after)
    )
    return {
        "neurons": _rows(made.neurons, kept),
        "scales": _packed(scales),
        "before": _packed(before),
        "after": _packed(after),
    }


class _Tokens:
    """A table of distinct tokens, as the page may show them; other parts hold indices into it.

    An entry is a string, in which a space is one, or a list of pieces: such a string; `[mark]` in place of what
    cannot be seen; `[starred, w]`, the masked word w; `[starred, w, start, end]`, these letters of it.
    """

    def __init__(self, shown: ShownText) -> None:
        """Empty."""
        self.entries: list[Any] = []
        self._shown = shown
        self._alone: dict[str, int] = {}
        self._known: dict[str, int] = {}

    def alone(self, token: str) -> int:
        """Where a token that stands by itself is."""
        if token not in self._alone:
            # Spaces of a token are shown as marks, so here a plain space can mean such a mark.
            pieces = [
                _Piece(" ") if piece.mark and piece.shown == _SPACE else piece
                for piece in _taken_apart(self._shown.token(token))
            ]
            self._alone[token] = self._entry(pieces)
        return self._alone[token]

    def of_text(self, tokens: list[str]) -> list[int]:
        """Where the tokens of a running text are: masked as the text is, words across tokens too."""
        pieces = _taken_apart(self._shown.text("".join(tokens)))
        return [self._entry(cut) for cut in _cut(pieces, [len(token) for token in tokens])]

    def _entry(self, pieces: list["_Piece"]) -> int:
        parts: list[Any] = []
        for piece in pieces:
            if piece.plain and parts and isinstance(parts[-1], str):
                parts[-1] += piece.shown
            else:
                parts.append(piece.shown if piece.plain else piece.packed)
        entry = "".join(parts) if all(isinstance(part, str) for part in parts) else parts
        key = json.dumps(entry)
        if key not in self._known:
            self._known[key] = len(self.entries)
            self.entries.append(entry)
        return self._known[key]


@dataclass(frozen=True)
class _Piece:
    """A stretch of shown text of one kind."""

    shown: str
    mark: bool = False
    """It stands for one character that cannot be seen."""
    word: int | None = None
    """Which masked word it is, or is a part of."""
    start: int = 0
    """Its first letter in the word."""
    part: bool = False

    @property
    def plain(self) -> bool:
        return not self.mark and self.word is None

    @property
    def length(self) -> int:
        """In characters of the text."""
        return 1 if self.mark else len(self.shown)

    @property
    def packed(self) -> list[Any]:
        if self.mark:
            return [self.shown]
        return [self.shown, self.word, *([self.start, self.start + len(self.shown)] if self.part else [])]

    def between(self, start: int, end: int) -> "_Piece":
        if self.mark or (start, end) == (0, self.length):
            return self
        return _Piece(self.shown[start:end], word=self.word, start=self.start + start, part=True)


_SPACE = "␣"
# The only tags in the markup of `ShownText`.
_SPAN = re.compile(r'<span class="(?:c|w" data-w="(\d+))">(.*?)</span>', re.DOTALL)


def _taken_apart(markup: Markup) -> list[_Piece]:
    pieces: list[_Piece] = []
    position = 0
    for span in _SPAN.finditer(markup):
        pieces.append(_Piece(Markup(markup[position : span.start()]).unescape()))
        shown, word = Markup(span[2]).unescape(), span[1]
        pieces.append(_Piece(shown, mark=True) if word is None else _Piece(shown, word=int(word)))
        position = span.end()
    pieces.append(_Piece(Markup(markup[position:]).unescape()))
    return [piece for piece in pieces if piece.shown]


def _cut(pieces: list[_Piece], lengths: list[int]) -> list[list[_Piece]]:
    """The pieces of a text dealt out to tokens of these lengths, cut where a token ends inside one."""
    dealt: list[list[_Piece]] = []
    which, offset = 0, 0
    for length in lengths:
        taken: list[_Piece] = []
        wanted = length
        while wanted:
            piece = pieces[which]
            end = min(piece.length, offset + wanted)
            taken.append(piece.between(offset, end))
            wanted -= end - offset
            which, offset = (which + 1, 0) if end == piece.length else (which, end)
        dealt.append(taken)
    return dealt


def _packed(array: NDArray[Any]) -> dict[str, Any]:
    """An array as base64 of its little-endian bytes, with NumPy's letters for its type."""
    little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    return {"type": array.dtype.str[1:], "data": base64.b64encode(little.tobytes()).decode()}


def _halves(array: NDArray[np.floating[Any]]) -> dict[str, Any]:
    """x / scale in half precision, scale = max|x|."""
    scale = float(np.abs(array).max(initial=0.0)) or 1.0
    return {**_packed((array.astype(np.float64) / scale).astype(np.float16)), "scale": scale}


def _indices(numbers: list[int]) -> NDArray[Any]:
    narrow = max(numbers, default=0) < 2**16
    return np.array(numbers, np.uint16 if narrow else np.uint32)


def _digits(array: NDArray[np.floating[Any]]) -> int:
    """Decimals with which the largest value has five significant digits; 6 at most."""
    largest = float(np.abs(array).max())
    return 3 if largest == 0 else min(6, max(0, 4 - math.floor(math.log10(largest))))


def in_script(parts: dict[str, Any]) -> Markup:
    """JSON that may stand in a script element: no "</script>" or "<!--" can be read in it."""
    text = json.dumps(parts, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Markup(re.sub("[<>&]", lambda match: f"\\u{ord(match.group()):04x}", text))
