"""A concept spec: labelled texts, prompts and a scorer for one concept, such as toxicity.

Nothing else in the library knows which concept is measured. A concept spec names the sources of its parts, as the
options of the commands do. It sets the defaults of these options; an option that the user gives wins.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from dposcope.data.hub import is_hub_spec
from dposcope.data.named import BUILTIN, WORDS
from dposcope.data.seeds import Seeds, load_seeds
from dposcope.data.short import short_repr
from dposcope.data.texts import listed
from dposcope.data.trust import FUNCTION, check_scorer
from dposcope.errors import DposcopeError
from dposcope.files import check_is_path
from dposcope.reading import read_toml

if TYPE_CHECKING:
    from dposcope.data.comments import Comments


@dataclass(frozen=True, kw_only=True)
class Concept:
    """The sources of a concept's parts. Each field has the name of an option."""

    name: str
    """A noun; reports show hyphens as spaces."""
    adjective: str
    """The adjective for a text with the concept: "toxic"."""
    comments: str | None
    """Labelled texts with and without the concept, a table or `hub:owner/name`; None: the built-in toxic comments."""
    text_column: str = "comment_text"
    label_column: str = "toxic"
    positive_label: str | None = None
    """The label of a text that has the concept; None: 1, true, a score of 0.5 and more."""
    judge_comments: tuple[str, ...] = ()
    """Further tables for the independent judge, with the usual columns."""
    prompts: str | None
    """Prompts whose continuations often have the concept; None: the built-in prompts for toxic text."""
    prompt_column: str = "prompt"
    scorer: str | Callable[[Sequence[str]], Any]
    """An argument of `load_scorer`. The commands take a name only; a function is for use in Python."""
    seeds_with: tuple[str, ...] = ()
    """Seed words for a direction by token contrast. Without them the concept has no such direction."""
    seeds_without: tuple[str, ...] = ()

    __repr__ = short_repr

    def __post_init__(self) -> None:
        """Refuse a concept without a name, or with seeds on one side only.

        Raises:
            DposcopeError: the name or the adjective is blank, or seeds are given on one side only or as one text.
        """
        for part in ("judge_comments", "seeds_with", "seeds_without"):
            object.__setattr__(self, part, tuple(listed(part, getattr(self, part))))
        for part in ("name", "adjective"):
            if not str(getattr(self, part)).strip():
                raise DposcopeError(f"a concept's {part} is blank; give a word, as in 'toxicity' and 'toxic'")
        if bool(self.seeds_with) != bool(self.seeds_without):
            raise DposcopeError(
                f"the concept {self.name!r} has seed words on one side only; give both seeds_with and seeds_without"
            )

    @classmethod
    def load(cls, source: "str | Path | None") -> "Concept":
        """A built-in concept by its name, or your own from a TOML file.

        The file has the fields of this class (with `-` or `_`). It must have `comments`, `prompts` and `scorer`. The
        default of `name` is the name of the file, and the default of `adjective` is `name`. Relative paths start at the
        folder of the file.

        Args:
            source: a name or a path ending in .toml; None: toxicity.

        Raises:
            DposcopeError: there is no such concept, or the file is missing, is not TOML, has other fields, or names
                code as its scorer outside `trusting_files`.
        """
        if source is None:
            return TOXICITY
        if str(source) in BUILTIN_CONCEPTS:
            return BUILTIN_CONCEPTS[str(source)]
        check_is_path(source)
        path = Path(source)
        if path.suffix != ".toml":
            raise DposcopeError(f"no concept {str(source)!r}; choose {', '.join(BUILTIN_CONCEPTS)}, or a .toml file")
        return cls(**_read_toml(path))

    @property
    def noun(self) -> str:
        """The name in reports: `negative sentiment`."""
        return self.name.replace("-", " ")

    def seeds(self) -> Seeds:
        """The seed words of a token contrast.

        Raises:
            DposcopeError: the concept has none.
        """
        if not self.seeds_with:
            raise DposcopeError(
                f"the concept {self.name!r} has no seed words for a token contrast; choose another --direction, or add "
                "seeds-with and seeds-without to its file"
            )
        return Seeds(self.seeds_with, self.seeds_without)

    def options(self) -> dict[str, Any]:
        """Option → its value from this concept. Options without a value are left out."""
        chosen = {name: getattr(self, name) for name in _OPTIONS}
        if not isinstance(self.scorer, str):
            raise DposcopeError(f"the scorer of {self.name!r} is a function; name it, as in scorer = 'module:function'")
        return {name: list(value) if isinstance(value, tuple) else value for name, value in chosen.items() if value}

    def load_comments(self) -> "Comments":
        """The labelled texts, in file order; see `load_comments`."""
        # Imported here, so that --help, which needs concepts, does not load the table libraries.
        from dposcope.data.comments import load_comments

        return load_comments(
            self.comments,
            text_column=self.text_column,
            label_column=self.label_column,
            positive=self.positive_label,
            adjective=self.adjective,
        )

    def load_prompts(self) -> list[str]:
        """The prompts, in file order; see `load_prompts`."""
        from dposcope.data.prompts import load_prompts

        return load_prompts(self.prompts, column=self.prompt_column)


def check_concept(given: object) -> None:
    """Refuse what is no `Concept`, such as its name.

    Raises:
        DposcopeError: it is none.
    """
    if not isinstance(given, Concept):
        how = f"dposcope.Concept.load({given!r})" if isinstance(given, str) else "a dposcope.Concept"
        raise DposcopeError(f"concept is a {type(given).__name__}; give {how}")


_OPTIONS: Final = (
    "comments",
    "text_column",
    "label_column",
    "positive_label",
    "judge_comments",
    "prompts",
    "prompt_column",
    "scorer",
)
_LISTS: Final = ("judge_comments", "seeds_with", "seeds_without")
_REQUIRED: Final = ("comments", "prompts", "scorer")

_SEEDS = load_seeds()

TOXICITY: Final = Concept(
    name="toxicity",
    adjective="toxic",
    comments=None,
    prompts=None,
    scorer="profanity",
    seeds_with=_SEEDS.toxic,
    seeds_without=_SEEDS.non_toxic,
)
"""The paper's concept."""

NEGATIVE_SENTIMENT: Final = Concept(
    name="negative-sentiment",
    adjective="negative",
    comments=f"{BUILTIN}negative-sentiment/texts.jsonl",
    label_column="negative",
    prompts=f"{BUILTIN}negative-sentiment/prompts.jsonl",
    scorer="vader",
    seeds_with=("terrible", "awful", "sad", "painful", "worst"),
    seeds_without=("wonderful", "lovely", "happy", "pleasant", "best"),
)
"""Complaint, grief, fear, failure. The scorer is a published lexicon, the package vaderSentiment."""

FOOD_TALK: Final = Concept(
    name="food-talk",
    adjective="culinary",
    comments=f"{BUILTIN}food-talk/texts.jsonl",
    label_column="food",
    prompts=f"{BUILTIN}food-talk/prompts.jsonl",
    scorer=f"{WORDS}{BUILTIN}food-talk/words.txt",
    seeds_with=("bread", "cheese", "soup", "meat", "cake"),
    seeds_without=("table", "road", "letter", "house", "music"),
)
"""A topic without a value judgement. The scorer is a list of words that anyone can read."""

BUILTIN_CONCEPTS: Final = {concept.name: concept for concept in (TOXICITY, NEGATIVE_SENTIMENT, FOOD_TALK)}


def _read_toml(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise DposcopeError(f"there is no concept file {path}; check the path")
    given = read_toml(path, mend='write one `name = "value"` per line')
    known = {field.name for field in fields(Concept)}
    values: dict[str, Any] = {"name": path.stem}
    for key, value in given.items():
        name = key.replace("-", "_")
        if name not in known:
            options = ", ".join(field.name.replace("_", "-") for field in fields(Concept))
            raise DposcopeError(f"{path} has an unknown field {key!r}; choose among {options}")
        values[name] = _checked(path, key, value, many=name in _LISTS)
    for name in _REQUIRED:
        if name not in values:
            raise DposcopeError(
                f"{path} has no {name!r}; a concept needs {', '.join(_REQUIRED[:-1])} and {_REQUIRED[-1]}"
            )
    values.setdefault("adjective", str(values["name"]).replace("-", " "))
    values["comments"], values["prompts"] = (_resolved(path, values[name]) for name in ("comments", "prompts"))
    values["judge_comments"] = tuple(_resolved(path, source) for source in values.get("judge_comments", ()))
    check_scorer(values["scorer"], path)
    values["scorer"] = _resolved_scorer(path, values["scorer"])
    return values


def _checked(path: Path, key: str, value: Any, *, many: bool) -> Any:
    if many:
        if isinstance(value, list) and all(isinstance(one, str) for one in cast(list[Any], value)):
            return tuple(cast(list[str], value))
        raise DposcopeError(f'{key} in {path} is not a list of strings; write {key} = ["…", "…"]')
    if not isinstance(value, str):
        raise DposcopeError(f'{key} in {path} is not a string; write {key} = "…"')
    return value


def _resolved(path: Path, source: str) -> str:
    """A relative path, resolved from the folder of the file that names it."""
    return source if source.startswith(BUILTIN) or is_hub_spec(source) else str(path.parent / source)


def _resolved_scorer(path: Path, scorer: str) -> str:
    if scorer.startswith(WORDS):
        return f"{WORDS}{_resolved(path, scorer.removeprefix(WORDS))}"
    # A name that is also a folder next to the file means that folder: a trained judge or a classifier.
    local = path.parent / scorer
    return str(local) if FUNCTION.fullmatch(scorer) is None and local.exists() else scorer
