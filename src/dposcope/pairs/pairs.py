"""Preference pairs: a prompt and two completions, of which one is preferred.

There is one value for every source; the columns of a file tell its format. A pair with two equal sides, or with a blank
side, is left out and counted, as nothing can be learned from it.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import takewhile
from pathlib import Path
from typing import Final, cast

import numpy as np

from dposcope.artefacts import text_digest, write_atomically
from dposcope.data.given.kinds import check_kind
from dposcope.data.given.numbers import seed_of, whole
from dposcope.data.short import short_repr
from dposcope.data.tables import RawTable, open_table
from dposcope.data.texts import listed
from dposcope.errors import DposcopeError, plural
from dposcope.files import check_is_path
from dposcope.model.chat.asking import Prompt, Turn, conversation_told
from dposcope.pairs.conversations import holds_messages, messages, of_labels, of_safety, sides


@dataclass(frozen=True)
class Pair:
    """One preference pair."""

    prompt: str
    """The text that both completions continue; may be empty."""
    preferred: str
    """The better completion, without the prompt, with its leading space."""
    dispreferred: str
    """The worse completion."""
    before: tuple[Turn, ...] = ()
    """What was said before the prompt, where that is the last message of a conversation."""

    @property
    def asked(self) -> Prompt:
        """The prompt with what was said before it."""
        return (*self.before, Turn("user", self.prompt)) if self.before else self.prompt

    @property
    def said(self) -> str:
        """The texts of that, to compare prompts."""
        return conversation_told([*self.before, Turn("user", self.prompt)])

    __repr__ = short_repr


@dataclass(frozen=True)
class PairFormat:
    """A set of column names for pairs."""

    name: str
    """Its name in messages and reports."""
    prompt: str | None
    """Column of the prompts; None: all prompts are empty."""
    preferred: str
    dispreferred: str
    splits: bool = False
    """Whether what both sides begin with, up to a whole word, becomes the prompt (HH-RLHF: a whole conversation)."""
    whole: bool = False
    """Whether its completions are whole answers, also where they are texts."""

    @property
    def columns(self) -> list[str]:
        """The columns that a table must have."""
        return [column for column in (self.prompt, self.preferred, self.dispreferred) if column is not None]


_SPACES: Final = re.compile(r"\s+")

PAIR_FORMATS: Final = (
    PairFormat("prompt_text", "prompt_text", "unpert_gen_text", "pert_gen_text"),
    PairFormat("trl", "prompt", "chosen", "rejected", whole=True),
    PairFormat("trl without prompts", None, "chosen", "rejected", splits=True),
    PairFormat("paradetox", None, "neutral", "toxic"),
    PairFormat("paradetox of the hub", None, "en_neutral_comment", "en_toxic_comment"),
)
"""The formats of `load_pairs`; the first that fits is used: Lee et al. 2024, TRL and UltraFeedback, ParaDetox."""

_RESHAPED: Final = {
    "safe-rlhf": (("prompt", "response_0", "response_1"), of_safety),
    "kto": (("prompt", "completion", "label"), of_labels),
}
"""Formats that are read as TRL's: name → columns, and how. They are tried after the others."""
_BEFORE: Final = "before"
"""Column of what was said before the prompts, in files of `write_pairs`."""
_SYSTEM: Final = "system"
"""Column of some sources, with a system prompt or with what wrote the texts: nothing tells which."""
_WHOLE: Final = "whole"
"""Column that says, in such files, that completions are whole answers."""


@dataclass(frozen=True)
class Dropped:
    """Rows of a source that give no pair."""

    blank: int = 0
    """A side is null or blank."""
    identical: int = 0
    """Both sides are equal, apart from spaces at their ends."""
    unpaired: int = 0
    """Nothing says which answer is better, or there is no worse one to the same prompt."""
    apart: int = 0
    """The sides are not two answers to one conversation."""

    @property
    def total(self) -> int:
        """Number of all these rows."""
        return self.blank + self.identical + self.unpaired + self.apart


@dataclass(frozen=True)
class PairSplit:
    """Two parts without a common prompt."""

    train: "Pairs"
    validation: "Pairs"

    __repr__ = short_repr


@dataclass(frozen=True)
class Pairs:
    """Preference pairs in file order."""

    prompts: tuple[str, ...]
    preferred: tuple[str, ...]
    dispreferred: tuple[str, ...]
    format: str = "prompt_text"
    """Name of their `PairFormat`."""
    dropped: Dropped = field(default_factory=Dropped)
    """Rows of the source that were left out."""
    before: tuple[tuple[Turn, ...], ...] = ()
    """What was said before each prompt; empty where no prompt is a part of a longer conversation."""
    whole: bool = False
    """Whether each completion is a whole answer, which a chat model learns to end, and not the beginning of a text."""
    notes: tuple[str, ...] = ()
    """What a person should know of the source: a column that may be meant and is not read."""

    __repr__ = short_repr

    def __post_init__(self) -> None:
        """Keep texts as tuples; refuse what is none, and columns of different lengths."""
        for column in ("prompts", "preferred", "dispreferred"):
            object.__setattr__(self, column, tuple(listed(column, getattr(self, column))))
        lengths = {len(self.prompts), len(self.preferred), len(self.dispreferred)}
        if self.before:
            lengths.add(len(self.before))
        if len(lengths) != 1:
            raise DposcopeError(
                f"prompts, preferred and dispreferred need one length, not {sorted(lengths)}; give one of each for "
                "every pair"
            )

    @classmethod
    def of(
        cls,
        pairs: Iterable[Pair],
        *,
        format: str = "prompt_text",
        dropped: Dropped = Dropped(),
        whole: bool = False,
    ) -> "Pairs":
        """From single pairs.

        Raises:
            DposcopeError: something else is among them.
        """
        rows = _listed(pairs)
        return cls(
            tuple(pair.prompt for pair in rows),
            tuple(pair.preferred for pair in rows),
            tuple(pair.dispreferred for pair in rows),
            format,
            dropped,
            tuple(pair.before for pair in rows) if any(pair.before for pair in rows) else (),
            whole,
        )

    def __len__(self) -> int:
        """How many pairs."""
        return len(self.prompts)

    def __iter__(self) -> Iterator[Pair]:
        """The pairs in order."""
        before = self.before or [()] * len(self)
        return (Pair(*row) for row in zip(self.prompts, self.preferred, self.dispreferred, before, strict=True))

    @property
    def asked(self) -> list[Prompt]:
        """The prompts, each with what was said before it."""
        return [pair.asked for pair in self]

    @property
    def said(self) -> list[str]:
        """The texts of that, to compare prompts and to count their tokens."""
        return [pair.said for pair in self]

    @property
    def digest(self) -> str:
        """A digest of all texts in order, and of whether they are whole answers."""
        turns = [f"{turn.role}: {turn.content}" for pair in self for turn in (*pair.before, Turn("user", ""))]
        texts = (text for pair in self for text in (pair.prompt, pair.preferred, pair.dispreferred))
        return text_digest(*texts, *(turns if self.before else ()), *((_WHOLE,) if self.whole else ()))

    def where(self, kept: Sequence[bool]) -> "Pairs":
        """The pairs whose flag is set, in order.

        Raises:
            DposcopeError: there is not one flag for each pair.
        """
        if len(kept) != len(self):
            raise DposcopeError(f"{len(kept)} flags for {plural(len(self), 'pair')}; give one for each")
        return self._take(row for row, keep in enumerate(kept) if keep)

    def first(self, n: int) -> "Pairs":
        """The first `n` pairs, or all if there are fewer."""
        return self._take(range(min(whole("n", n), len(self))))

    def split(self, validation: int, *, seed: int = 0) -> PairSplit:
        """Draw pairs for validation, so that no prompt is in both parts. Each part is in file order.

        Prompts are compared without regard to case and spaces. Pairs without a prompt stay together if they share a
        text. Groups of pairs are drawn in random order; a group that would exceed `validation` is skipped. The number
        is exact if enough pairs have their own prompt.

        Args:
            validation: how many pairs; at least 1, and fewer than there are.
            seed: seed of the draw.

        Raises:
            DposcopeError: there are too few pairs, or every group is larger than `validation`.
        """
        if not 1 <= whole("validation", validation) < len(self):
            raise DposcopeError(
                f"{validation} of {plural(len(self), 'pair')} cannot be held out for validation; "
                "give at least 1, and fewer than there are"
            )
        groups = self._groups()
        chosen: list[int] = []
        for index in np.random.default_rng(seed_of(seed)).permutation(len(groups)):
            group = groups[int(index)]
            if len(chosen) + len(group) <= validation:
                chosen += group
        if not chosen:
            raise DposcopeError(
                f"every prompt has more than {plural(validation, 'pair')}, and the pairs of a prompt must stay "
                f"together; "
                f"hold out at least {min(map(len, groups))} for validation"
            )
        kept = set(chosen)
        return PairSplit(
            train=self._take(row for row in range(len(self)) if row not in kept), validation=self._take(sorted(kept))
        )

    def _groups(self) -> list[list[int]]:
        """Groups of rows that must stay together, in the order of their first row."""
        parent = list(range(len(self)))

        def root(row: int) -> int:
            while parent[row] != row:
                parent[row] = parent[parent[row]]
                row = parent[row]
            return row

        seen: dict[str, int] = {}
        for row, pair in enumerate(self):
            for key in _shared_by(pair):
                a, b = sorted((root(seen.setdefault(key, row)), root(row)))
                parent[b] = a
        groups: dict[int, list[int]] = {}
        for row in range(len(self)):
            groups.setdefault(root(row), []).append(row)
        return list(groups.values())

    def _take(self, rows: Iterable[int]) -> "Pairs":
        order = list(rows)
        return Pairs(
            tuple(self.prompts[row] for row in order),
            tuple(self.preferred[row] for row in order),
            tuple(self.dispreferred[row] for row in order),
            self.format,
            before=tuple(self.before[row] for row in order) if self.before else (),
            whole=self.whole,
        )


def _listed(given: object) -> list[Pair]:
    rows = [*cast(Iterable[object], given)] if isinstance(given, Iterable) else [given]
    for one in rows:
        if not isinstance(one, Pair):
            raise DposcopeError(
                f"a {type(one).__name__} is no pair; give dposcope.Pair(prompt, preferred, dispreferred)"
            )
    return cast(list[Pair], rows)


def check_given(given: object, name: str = "pairs") -> None:
    """Refuse what is no `Pairs`, such as a list of `Pair`.

    Args:
        given: what was given for it.
        name: of the argument, for the message.

    Raises:
        DposcopeError: it is none.
    """
    check_kind(name, given, Pairs, "dposcope.load_pairs(…), or Pairs.of(…) of each Pair")


def normalised(text: str) -> str:
    """`text` in lower case with single spaces, to compare texts without regard to case and spaces."""
    # A list of the words of a long text would take ten times its memory.
    return _SPACES.sub(" ", text.casefold()).strip()


def load_pairs(source: str | Path) -> Pairs:
    """Read pairs from any table (`open_table`). The columns tell the format:

    `prompt_text`, `unpert_gen_text` (preferred), `pert_gen_text` (Lee et al. 2024, and `write_pairs`); `prompt`,
    `chosen`, `rejected` (TRL; without `prompt`, what both sides begin with is the prompt); `toxic`, `neutral`
    (ParaDetox; neutral is preferred, prompts are empty); `prompt`, `response_0`, `response_1` (PKU-SafeRLHF, see
    `of_safety`); `prompt`, `completion`, `label` (KTO, see `of_labels`). Other columns are ignored; of `system` a note
    says so.

    Cells of TRL's and KTO's columns may be lists of messages (TRL's conversations, UltraFeedback): the answers are then
    the last messages, the prompt is the user's message before them, and the turns before that stay beside it.

    Raises:
        DposcopeError: the source cannot be read, has other columns, or has no usable pair.
    """
    table = open_table(source)
    fits = [known for known in PAIR_FORMATS if set(known.columns) <= set(table.columns)]
    for name, (columns, reshape) in _RESHAPED.items():
        if not fits and set(columns) <= set(table.columns):
            made = reshape(table)
            known = PairFormat(name, "prompt", "chosen", "rejected", whole=True)
            return replace(_read(made.table, known, unpaired=made.unpaired), notes=_unread(table))
    if not fits:
        known = [format.columns for format in PAIR_FORMATS] + [columns for columns, _ in _RESHAPED.values()]
        accepted = "; ".join(map(", ".join, known))
        given = ", ".join(table.columns) or "none"
        raise DposcopeError(
            f"{table.source} has no columns of pairs, only {given}; rename them to one of these sets: {accepted}"
        )
    return replace(_read(table, fits[0]), notes=_unread(table))


def write_pairs(path: str | Path, pairs: Pairs, *, extra: Mapping[str, Sequence[str | float]] | None = None) -> None:
    """Write JSONL with the columns `prompt_text`, `unpert_gen_text`, `pert_gen_text`; where a prompt is the last
    message of a conversation, also `before`, the list of the messages before it; where completions are whole answers,
    also `whole`. The file is written whole or not at all.

    Args:
        path: the file.
        pairs: the pairs.
        extra: additional columns by name, one cell per pair, such as `method` or `preferred_score`.

    Raises:
        DposcopeError: these are no pairs, a column has another length, or a cell is no text and no finite number.
    """
    check_is_path(path)
    check_given(pairs)
    more = dict(extra or {})
    for name, cells in more.items():
        if len(cells) != len(pairs):
            raise DposcopeError(
                f"the column {name!r} has {len(cells)} cells for {plural(len(pairs), 'pair')}; give one each"
            )
    rows = zip(pairs, *more.values(), strict=True)
    objects = (
        {
            "prompt_text": pair.prompt,
            "unpert_gen_text": pair.preferred,
            "pert_gen_text": pair.dispreferred,
            **({_BEFORE: [asdict(turn) for turn in pair.before]} if pairs.before else {}),
            **({_WHOLE: True} if pairs.whole else {}),
            **dict(zip(more, cells, strict=True)),
        }
        for pair, *cells in rows
    )
    try:
        lines = [json.dumps(one, ensure_ascii=False, allow_nan=False) for one in objects]
    except (TypeError, ValueError) as error:
        raise DposcopeError(f"a cell of the pairs is not JSON ({error}); give texts and finite numbers") from error
    with write_atomically(path) as temporary:
        temporary.write_text("".join(line + "\n" for line in lines), encoding="utf-8")


def _split(pair: Pair) -> Pair:
    """The same texts, with what both begin with as the prompt, up to the space before the first word that differs.

    It cancels in the loss; but completions are cut to their first tokens, which would be these alone.
    """
    alike = takewhile(lambda both: both[0] == both[1], zip(pair.preferred, pair.dispreferred, strict=False))
    start = max((place for place, (letter, _) in enumerate(alike) if letter.isspace()), default=0)
    return Pair(pair.preferred[:start], pair.preferred[start:], pair.dispreferred[start:])


def _shared_by(pair: Pair) -> list[str]:
    """Keys that keep pairs together: the prompt, or without a prompt the two texts."""
    prompt = normalised(pair.said)
    return [f"prompt {prompt}"] if prompt else [f"text {normalised(t)}" for t in (pair.preferred, pair.dispreferred)]


def _read(table: RawTable, known: PairFormat, *, unpaired: int = 0) -> Pairs:
    rows = _rows(table, known)
    found = [pair for pair in rows if pair is not None]
    if known.splits and not _conversational(table, known):
        found = [_split(pair) for pair in found]
    whole = [pair for pair in found if pair.preferred.strip() and pair.dispreferred.strip()]
    pairs = [pair for pair in whole if pair.preferred.strip() != pair.dispreferred.strip()]
    dropped = Dropped(len(found) - len(whole), len(whole) - len(pairs), unpaired, len(rows) - len(found))
    if not pairs:
        beyond = {
            "give no pair of a better and a worse answer": unpaired,
            "have sides that are not two answers to one conversation": dropped.apart,
        }
        also = "".join(f", {count:,} {what}" for what, count in beyond.items() if count)
        raise DposcopeError(
            f"{table.source} holds no usable pair: of {plural(len(rows) + unpaired, 'row')} {dropped.blank:,} have a "
            f"blank side and {dropped.identical:,} have two equal sides{also}; give pairs that differ"
        )
    return Pairs.of(pairs, format=known.name, dropped=dropped, whole=_whole(table, known))


def _unread(table: RawTable) -> tuple[str, ...]:
    """A note on system prompts that stand beside the prompts, where there may be some."""
    if not any(isinstance(cell, str) and cell.strip() for cell in table.columns.get(_SYSTEM, ())):
        return ()
    return (
        f"the column {_SYSTEM!r} of {table.source} is not read; if it holds system prompts, give one for all with "
        '--system, or write prompts as messages: [{"role": "system", …}, {"role": "user", …}]',
    )


def _rows(table: RawTable, known: PairFormat) -> list[Pair | None]:
    """The pairs of a table; None where the sides are not two answers to one conversation."""
    columns = table.columns
    if _conversational(table, known):
        prompts = [None] * len(columns[known.preferred]) if known.prompt is None else columns[known.prompt]
        cells = zip(prompts, columns[known.preferred], columns[known.dispreferred], strict=True)
        read = [sides(*row, f"row {number} of {table.source}") for number, row in enumerate(cells, start=1)]
        return [None if one is None else Pair(one.prompt, one.preferred, one.dispreferred, one.before) for one in read]
    if not len(columns[known.preferred]):  # reshaped, and nothing was left
        return []
    selected = table.select(known.columns, option="other names in the file", keep_blank=True)
    better, worse = selected.texts(known.preferred), selected.texts(known.dispreferred)
    prompts = [""] * len(better) if known.prompt is None else selected.texts(known.prompt)
    before: Sequence[tuple[Turn, ...]] = [()] * len(better)
    if known == PAIR_FORMATS[0] and _BEFORE in columns:
        before = [
            messages(cell, f"{_BEFORE!r} in row {number} of {table.source}")
            for number, cell in enumerate(columns[_BEFORE], start=1)
        ]
    return [Pair(*row) for row in zip(prompts, better, worse, before, strict=True)]


def _whole(table: RawTable, known: PairFormat) -> bool:
    """Whether completions are whole answers: messages are, and what a file of ours says is."""
    said = table.columns.get(_WHOLE, ()) if known == PAIR_FORMATS[0] else ()
    return known.whole or _conversational(table, known) or (len(said) > 0 and all(cell is True for cell in said))


def _conversational(table: RawTable, known: PairFormat) -> bool:
    return any(holds_messages(table.columns[column]) for column in known.columns)
