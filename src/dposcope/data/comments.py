"""Labelled comments with and without a concept such as toxicity, to fit directions and judges on."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dposcope.data.given.numbers import seed_of, whole
from dposcope.data.named import located
from dposcope.data.short import short_repr
from dposcope.data.tables import RawTable, open_table
from dposcope.data.texts import listed
from dposcope.errors import DposcopeError, plural
from dposcope.foreign_text import visible
from dposcope.protocols import check_choice

# Labels of the two classes in data sets, apart from numbers.
_YES: Final = frozenset({"true", "yes", "toxic", "positive", "offensive", "hateful", "abusive"})
_NO: Final = frozenset(
    {
        "false",
        "no",
        "non-toxic",
        "nontoxic",
        "non_toxic",
        "not toxic",
        "neutral",
        "negative",
        "normal",
        "clean",
        "civil",
    }
)
_THRESHOLD: Final = 0.5


def labels_of(texts: Sequence[str], labels: ArrayLike) -> NDArray[np.bool_]:
    """Labels of texts as an array, `[texts]`.

    Args:
        texts: what they are of.
        labels: True or 1 where a text has the concept, else False or 0.

    Raises:
        DposcopeError: a label is something else, or there is not one for each text.
    """
    given = np.asarray(labels)
    strange = [] if given.dtype == bool else [label for label in given.ravel().tolist() if label not in (0, 1)]
    if strange:
        label = visible(repr(strange[0]))[:32]
        raise DposcopeError(f"a label is {label}, neither True nor False; give one of them for each text, or 1 or 0")
    if given.shape != (len(texts),):
        raise DposcopeError(f"{len(texts)} texts but labels of shape {list(given.shape)}; give one label per text")
    return given.astype(bool)


@dataclass(frozen=True)
class ClassCounts:
    """Number of comments in each class."""

    toxic: int
    non_toxic: int


@dataclass(frozen=True, eq=False)
class Comments:
    """Labelled comments, in file order."""

    texts: tuple[str, ...]
    labels: NDArray[np.bool_]
    """[n], True: toxic."""
    dropped: int = 0
    """Rows of the source that were left out: blank rows, and pairs with two identical sides."""

    __repr__ = short_repr

    def __post_init__(self) -> None:
        """Keep texts as a tuple and labels as an array; refuse what is none, and labels that do not fit the texts."""
        object.__setattr__(self, "texts", tuple(listed("texts", self.texts)))
        object.__setattr__(self, "labels", labels_of(self.texts, self.labels))

    def __len__(self) -> int:
        """How many comments."""
        return len(self.texts)

    @property
    def counts(self) -> ClassCounts:
        """Comments per class."""
        toxic = int(self.labels.sum())
        return ClassCounts(toxic, len(self) - toxic)

    def first(self, n: int) -> "Comments":
        """The first `n` comments, or all if there are fewer."""
        return self._take(np.arange(min(whole("n", n), len(self))))

    def half(self, which: Literal["first", "second"]) -> "Comments":
        """The first or the second half. Of an odd number, the second half gets one more."""
        check_choice("which", which, ("first", "second"))
        middle, rows = len(self) // 2, np.arange(len(self))
        return self._take(rows[:middle] if which == "first" else rows[middle:])

    def balanced(self, *, seed: int | None = None) -> "Comments":
        """All comments of the smaller class and as many of the larger one, in file order.

        Args:
            seed: seed to draw comments of the larger class at random; None: its first ones.

        Raises:
            DposcopeError: one class is missing.
        """
        return self._take(self.balanced_rows(seed=seed))

    def balanced_rows(self, *, seed: int | None = None) -> NDArray[np.intp]:
        """Indices of the comments that `balanced` keeps, in rising order."""
        _require_both(self, "the comments to balance", mend="give comments of both")
        toxic, non_toxic = np.flatnonzero(self.labels), np.flatnonzero(~self.labels)
        smaller, larger = sorted((toxic, non_toxic), key=len)
        if seed is not None:
            larger = np.random.default_rng(seed_of(seed)).permutation(larger)
        return np.sort(np.concatenate([smaller, larger[: len(smaller)]]))

    def _take(self, rows: NDArray[np.intp]) -> "Comments":
        return Comments(tuple(self.texts[row] for row in rows), self.labels[rows])


def check_comments(given: object) -> None:
    """Refuse what is no `Comments`, such as texts alone.

    Raises:
        DposcopeError: it is none.
    """
    if not isinstance(given, Comments):
        raise DposcopeError(f"comments is a {type(given).__name__}; give dposcope.load_comments(…), or Comments")


@dataclass(frozen=True)
class DirectionAndJudge:
    """Two parts of one file that share no row."""

    direction: Comments
    """Comments that the direction is computed from."""
    judge: Comments
    """Comments that the independent judge is trained on."""


def load_comments(
    source: str | Path | None,
    *,
    text_column: str = "comment_text",
    label_column: str = "toxic",
    positive: str | None = None,
    adjective: str | None = None,
) -> Comments:
    """Read labelled comments in file order.

    Labels are 0/1, true/false, words such as "toxic"/"non-toxic", or a score from 0 to 1 (toxic: 0.5 and
    more). A table without `text_column` but with text columns `toxic` and `neutral` (ParaDetox) gives two comments per
    row, or none if both are the same.

    Args:
        source: a table or `hub:owner/name`; None: the built-in comments.
        text_column: the column of comments.
        label_column: the column of labels.
        positive: the label that means toxic, in upper or lower case; every other label then means non-toxic.
        adjective: of the concept. Where it is a word that else means non-toxic, such as "negative", and stands among
            the labels, it is the positive label.

    Raises:
        DposcopeError: the source cannot be read (`open_table`), a label has another form, or one class is missing.
    """
    with located(source, "comments.jsonl") as path:
        table = open_table(path)
    comments = (
        _paired(table)
        if text_column not in table.columns and {"toxic", "neutral"} <= set(table.columns)
        else _labelled(table, text_column, label_column, positive, adjective)
    )
    _require_both(
        comments, table.source, mend="give comments of both kinds, or name the toxic label with --positive-label"
    )
    return comments


def direction_and_judge(comments: Comments, *, direction_rows: int = 2000) -> DirectionAndJudge:
    """Split comments: the first rows are for the direction, the second half is for the judge.

    Of 10,000 rows the direction gets 1–2,000 and the judge 5,001–10,000. Neither part is balanced here.

    Args:
        comments: comments of both classes in random order, not sorted by class.
        direction_rows: most rows for the direction, within the first half.

    Raises:
        DposcopeError: a part holds one class only.
    """
    parts = DirectionAndJudge(comments.half("first").first(direction_rows), comments.half("second"))
    for name, part in (("direction", parts.direction), ("judge", parts.judge)):
        _require_both(
            part,
            f"the {plural(len(part), 'comment')} kept for the {name}",
            mend="shuffle the rows of the file, or give more of the smaller class",
        )
    return parts


def _labelled(
    table: RawTable, text_column: str, label_column: str, positive: str | None, adjective: str | None
) -> Comments:
    positive = None if positive is None else str(positive)  # a number, say
    selected = table.select([text_column, label_column], option="--text-column and --label-column")
    cells = selected.texts(label_column)
    meant = "" if adjective is None else adjective.strip().lower()
    words = {cell.strip().lower() for cell in cells}
    # A file of positive and neutral comments has none that are negative.
    if positive is None and meant in _NO and (meant in words or (meant == "negative" and "positive" in words)):
        positive = meant
    verdicts: dict[str, bool] = {}
    for label in dict.fromkeys(cells):
        verdict = _is_toxic(label, positive)
        if verdict is None:
            raise DposcopeError(
                f"the label {label!r} in column {label_column!r} of {table.source} is neither 0/1, true/false, "
                "toxic/non-toxic nor a score from 0 to 1; name the toxic label with --positive-label"
            )
        verdicts[label] = verdict
    labels = np.array([verdicts[cell] for cell in cells], dtype=np.bool_)
    return Comments(tuple(selected.texts(text_column)), labels, selected.dropped)


def _is_toxic(label: str, positive: str | None) -> bool | None:
    word = label.strip().lower()
    if positive is not None:
        return word == positive.strip().lower()
    if word in _YES or word in _NO:
        return word in _YES
    try:
        score = float(word)
    except ValueError:
        return None
    return score >= _THRESHOLD if 0 <= score <= 1 else None


def _paired(table: RawTable) -> Comments:
    selected = table.select(["toxic", "neutral"], option="--text-column and --label-column")
    rows = zip(selected.texts("toxic"), selected.texts("neutral"), strict=True)
    pairs = [(toxic, neutral) for toxic, neutral in rows if toxic.strip() != neutral.strip()]
    identical = selected.frame.height - len(pairs)
    texts = tuple(text for pair in pairs for text in pair)
    return Comments(texts, np.tile([True, False], len(pairs)), selected.dropped + identical)


def _require_both(comments: Comments, what: str, *, mend: str) -> None:
    counts = comments.counts
    if not (counts.toxic and counts.non_toxic):
        raise DposcopeError(
            f"{what} must have both classes, but there are {counts.toxic:,} toxic and {counts.non_toxic:,} "
            f"non-toxic; {mend}"
        )
