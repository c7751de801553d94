"""Token ids of texts of any length, in bounded memory.

A tokenizer takes 60 to 350 bytes for every character that it reads at once, so a line of 50 MB takes up to 17 GB. Where
only the first or the last tokens of a text are used, a part of the text is read (`agreed`); where all are, a text is
read in pieces that overlap (`TokenStream`). Both give the ids of the whole text: what a tokenizer makes of a place
depends on what is near it. Neither takes that on trust. `agreed` compares two parts of different lengths, and a stream
joins two pieces only where they agree on what lies between them.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from dposcope.errors import DposcopeError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

T = TypeVar("T")

AT_ONCE: Final = 1 << 20
"""Characters that a tokenizer reads at once, in one text or several: up to 350 MB of memory."""
LEAST: Final = 1 << 13
"""Characters of the shorter of two parts."""
PER_TOKEN: Final = 16
"""Characters for a token in the shorter of two parts; an ordinary text has 2 to 5."""
SPARE: Final = 32
"""Tokens that a part must have beyond those that are used, so that the cut through it is far away."""
DIFFERENT: Final = 8
"""Of these, so many must differ: how a long run of one character is divided may depend on its length."""
OVERLAP: Final = 1 << 13
"""Characters that a piece and the next have in common."""
SEAM: Final = 32
"""Tokens in a row on which they must agree."""


def check_tokenizer(given: object) -> None:
    """Refuse what is no tokenizer, such as the model that has one.

    Raises:
        DposcopeError: it is none.
    """
    if not callable(given) or not hasattr(given, "get_vocab"):
        raise DposcopeError(f"tokenizer is a {type(given).__name__}; give one, such as lm.tokenizer")


def token_ids(tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str], *, special: bool) -> list[list[int]]:
    """The ids of whole texts, some texts at a time.

    Args:
        tokenizer: gives the ids.
        texts: none too long to be read whole; see `check_whole`.
        special: whether with the tokens that the tokenizer adds to a text.
    """
    found: list[list[int]] = []
    for group in _groups(texts):
        try:
            ids: list[list[int]] = tokenizer(
                group, add_special_tokens=special, return_attention_mask=False, verbose=False
            )["input_ids"]  # pyright: ignore[reportAssignmentType]
        except TypeError:
            for text in group:
                _check_whole_characters(text)
            raise
        found += ids
    return found


def _check_whole_characters(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DposcopeError(
            f"a text has half of a character in it ({text[error.start]!a}), which no tokenizer reads; write it as "
            "text.encode(errors='replace').decode()"
        ) from None


def continued_texts(
    tokenizer: "PreTrainedTokenizerBase", written: Sequence[Sequence[int]], *, special: bool
) -> list[str]:
    """The text of each row of ids as it stands behind another text, with the space at its start if it has one.

    The tokenizers of Llama 2 and Mistral take the space from the first token that they decode. Of what was decoded
    alone, the first word would run into the text before it. So each row is decoded behind another token.

    Args:
        tokenizer: that of the ids.
        written: rows of ids.
        special: whether special tokens are shown.
    """
    if not written:
        return []
    anchor = tokenizer("a", add_special_tokens=False)["input_ids"]
    rows = [anchor, *([*anchor, *ids] for ids in written)]
    before, *behind = tokenizer.batch_decode(rows, skip_special_tokens=not special)
    alone = tokenizer.batch_decode([list(ids) for ids in written], skip_special_tokens=not special)
    return [
        text.removeprefix(before) if text.startswith(before) else own for text, own in zip(behind, alone, strict=True)
    ]


def continued_ids(tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str]) -> list[list[int]]:
    """The ids of each text as it stands behind another text, without special tokens: what `continued_texts` is of.

    Before a text that stands alone, the tokenizers of Llama 2 and Mistral put a space. So each is read behind a line
    break, with which no word becomes one token.
    """
    line = token_ids(tokenizer, ["\n"], special=False)[0]
    behind = token_ids(tokenizer, [f"\n{text}" for text in texts], special=False)
    return [
        ids[len(line) :] if ids[: len(line)] == line else token_ids(tokenizer, [text], special=False)[0]
        for ids, text in zip(behind, texts, strict=True)
    ]


def token_texts(tokenizer: "PreTrainedTokenizerBase", ids: Sequence[int]) -> list[str]:
    """The text of each token as it is within a text: joined they are the text, but for characters of which a token
    has only a part."""
    return continued_texts(tokenizer, [[one] for one in ids], special=True)


def _groups(texts: Sequence[str]) -> Iterator[list[str]]:
    group: list[str] = []
    size = 0
    for text in texts:
        if group and size + len(text) > AT_ONCE:
            yield group
            group, size = [], 0
        group.append(text)
        size += len(text)
    if group:
        yield group


def is_short(text: str, tokens: int) -> bool:
    """Whether a text is read whole although only some of its tokens are used: parts of it would take no less."""
    return len(text) <= 4 * _least(tokens)


def _least(tokens: int) -> int:
    return max(LEAST, PER_TOKEN * tokens)


def agreed(read: Callable[[int], T | None], *, length: int, tokens: int, what: str) -> T:
    """What `read` gives for a whole text, from a part of it.

    Parts are read, each twice as long as the one before, until two in a row give the same.

    Args:
        read: takes a number of characters, and gives what is wanted of a part of so many; None where it is not
            `settled`. Of all characters it always gives something.
        length: of the text, in characters.
        tokens: how many are wanted.
        what: the text is, for the message.

    Raises:
        DposcopeError: no two parts agree (a run of one character, or characters that give no tokens), and the text is
            too long to be read whole.
    """
    size, before = _least(tokens), None
    most = max(AT_ONCE, 4 * size)
    while size < min(length, most):
        found = read(size)
        if found is not None and found == before:
            return found
        size, before = 2 * size + 1, found
    check_whole(length, what, most=most)
    whole = read(length)
    assert whole is not None
    return whole


def settled(beyond: Sequence[int]) -> bool:
    """Whether the ids of a part between what is used of it and its cut are enough to keep the two apart."""
    return len(beyond) >= SPARE and len(set(beyond)) >= DIFFERENT


def check_whole(length: int, what: str, *, most: int | None = None) -> None:
    """Refuse a text that would take too much memory.

    Args:
        length: of the text, in characters.
        what: it is, for the message.
        most: characters that are read at once; None: `AT_ONCE`.

    Raises:
        DposcopeError: it has more.
    """
    most = AT_ONCE if most is None else most
    if length > most:
        raise DposcopeError(
            f"{what} has {length:,} characters, too many to be made tokens of at once; shorten it to {most:,}"
        )


def first_ids(tokenizer: "PreTrainedTokenizerBase", text: str, count: int, *, special: bool, what: str) -> list[int]:
    """The first ids of a text, all of them where it has fewer.

    Args:
        tokenizer: gives the ids.
        text: of any length.
        count: how many.
        special: whether with the tokens that the tokenizer adds to a text.
        what: the text is, for messages.

    Raises:
        DposcopeError: see `agreed`.
    """

    def read(size: int) -> list[int] | None:
        ids = token_ids(tokenizer, [text[:size]], special=special)[0]
        return ids[:count] if size >= len(text) or settled(ids[count:]) else None

    return read(len(text)) or [] if is_short(text, count) else agreed(read, length=len(text), tokens=count, what=what)


@dataclass(frozen=True)
class TokenStream:
    """The ids of one text, without the tokens that a tokenizer adds, piece by piece."""

    tokenizer: "PreTrainedTokenizerBase"
    text: str

    def __iter__(self) -> Iterator[NDArray[np.int32]]:
        """Ids of one piece after the other.

        Raises:
            DposcopeError: two pieces agree nowhere, or the tokenizer cannot tell where in a text its tokens are.
        """
        length = len(self.text)
        if length <= AT_ONCE:
            yield np.array(token_ids(self.tokenizer, [self.text], special=False)[0], dtype=np.int32)
            return
        if not self.tokenizer.is_fast:
            check_whole(length, "the text")
        piece = self._read(0, AT_ONCE // 2)
        while piece.end < length:
            overlap = OVERLAP
            following = self._read(piece.end - overlap, piece.end - overlap + AT_ONCE // 2)
            while (seam := _seam(piece, following)) is None:
                overlap *= 4
                if overlap > AT_ONCE // 4:
                    check_whole(length, "the text")
                following = self._read(piece.end - overlap, piece.end - overlap + AT_ONCE // 2)
            yield piece.ids[: seam.last]
            piece = following.after(seam.first)
        yield piece.ids

    def whole(self) -> NDArray[np.int32]:
        """All ids."""
        return np.concatenate([*self])

    def _read(self, start: int, end: int) -> "_Piece":
        end = min(end, len(self.text))
        found: Any = self.tokenizer(
            self.text[start:end],
            add_special_tokens=False,
            return_attention_mask=False,
            return_offsets_mapping=True,
            verbose=False,
        )
        starts = np.array([place for place, _ in found["offset_mapping"]], dtype=np.int64)
        return _Piece(np.array(found["input_ids"], dtype=np.int32), starts + start, start, end)


@dataclass(frozen=True, eq=False)
class _Piece:
    ids: NDArray[np.int32]
    starts: NDArray[np.int64]
    """Where in the text each token begins."""
    start: int
    end: int

    def after(self, first: int) -> "_Piece":
        return _Piece(self.ids[first:], self.starts[first:], self.start, self.end)


@dataclass(frozen=True)
class _Seam:
    """Where two pieces are joined."""

    last: int
    """Of the earlier piece so many tokens are taken."""
    first: int
    """The later one begins with this token."""


def _seam(piece: _Piece, following: _Piece) -> _Seam | None:
    """The first run of tokens on which both agree, well within what they have in common; None: there is none."""
    common = piece.end - following.start
    first, last = following.start + common // 4, piece.end - common // 4
    ours = np.flatnonzero((piece.starts >= first) & (piece.starts < last))
    for at in ours[: max(0, len(ours) - SEAM + 1)]:
        run = slice(at, at + SEAM)
        same = (np.searchsorted(following.starts, piece.starts[at], side) for side in ("left", "right"))
        for other in range(*same):  # several tokens may begin at one character
            theirs = slice(other, other + SEAM)
            if np.array_equal(piece.ids[run], following.ids[theirs]) and np.array_equal(
                piece.starts[run], following.starts[theirs]
            ):
                return _Seam(int(at), other)
    return None


def token_counts(tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str]) -> NDArray[np.int64]:
    """How many ids each text has, without the tokens that a tokenizer adds, `[n]`."""
    short = iter(token_ids(tokenizer, [text for text in texts if len(text) <= AT_ONCE], special=False))
    counts = [
        len(next(short)) if len(text) <= AT_ONCE else sum(map(len, TokenStream(tokenizer, text))) for text in texts
    ]
    return np.array(counts, dtype=np.int64)
