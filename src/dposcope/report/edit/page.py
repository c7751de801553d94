"""What a report of `dposcope edit` shows, as one value: the run puts it together, the report only sets it."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Literal

from dposcope.directions.lens import Lens
from dposcope.errors import DposcopeError
from dposcope.evaluation.statistics import Difference, Estimate
from dposcope.evaluation.suite import BASE, Scores

Role = Literal["base", "edit", "part", "control", "paper"]


@dataclass(frozen=True)
class Sample:
    """One prompt with what was written after it."""

    prompt: str
    continuations: dict[str, str]
    """Condition → text."""
    toxicity: dict[str, float]
    """Condition → score of that text, 0 … 1; the same conditions."""


@dataclass(frozen=True)
class GroupSize:
    """One neuron group, and how many of it are edited."""

    group: str
    """TP, TN, AP or AN (paper 6.1)."""
    size: int
    chosen: int


@dataclass(frozen=True)
class SearchStep:
    """One trial of the search for the strength."""

    strength: float
    """The factor on α and w together."""
    increase: Difference
    """Log-perplexity of the edited model minus that of the plain one, nats per token, over windows."""


@dataclass(frozen=True)
class TriedEdit:
    """One trial of a search that chose what to do, not only how strongly."""

    method: str
    """Where its gains came from."""
    settings: str
    """What else it chose, for people."""
    rise: float
    """Of log-perplexity on the search text, nats per token."""
    kl: float
    """KL(base‖edited) there, nats per token."""
    concept: Estimate | None
    """Score on the search prompts; None where the cost was out of bounds."""
    repetition: float | None
    distinct_2: float | None
    """Distinct share of the word pairs of all its texts."""
    on_front: bool
    """Whether no other trial is better in both."""


@dataclass(frozen=True)
class Tradeoff:
    """A search: what was tried, and what was chosen of it."""

    trials: list[TriedEdit]
    base: float
    """The plain model's score on the search prompts."""
    chosen: Estimate
    """The chosen edit's score there: what the search saw, and so a little flattered."""
    chosen_rise: float
    """Of log-perplexity on the text that set its strength."""
    unseen: Estimate
    """The chosen edit's score on the report's prompts, by the scorer of the search."""
    unseen_base: float
    """The plain model's there."""
    scorer: str
    """Of the search."""
    unseen_scorer: str = ""
    """Of both scores on the report's prompts, where it is another."""


@dataclass(frozen=True)
class Condition:
    """How one condition of the scores is presented."""

    name: str
    """Its key in the scores."""
    label: str
    """What people read."""
    role: Role
    """base: unedited; edit: the one this page is about; part: a part of it alone; control: what should not
    work; paper: an intervention of the paper, for comparison."""
    note: str = ""


@dataclass(frozen=True)
class EditPage:
    """Everything on the page of one edit."""

    model: str
    fingerprint: str
    protocol: str
    edit: str
    """In one line."""
    scores: Scores
    conditions: list[Condition]
    """Every condition of the scores, in the order of the tables within a role."""
    samples: list[Sample]
    lens: Lens | None
    direction: dict[str, Any]
    """Kind, block, texts, quality …; may nest."""
    groups: list[GroupSize]
    """Empty where the edit was not made from groups."""
    search: list[SearchStep]
    """In the order of the trials; empty where the strength was given."""
    bound: float | None
    """Nats per token that the search may cost; None where nothing was searched."""
    chosen_strength: float | None
    judge: dict[str, Any] | None
    """The independent judge's quality on comments it was not trained on."""
    settings: list[tuple[str, str]]
    provenance: dict[str, str]
    """Versions, seed, command; nothing that changes when the run is repeated."""
    notes: list[str]
    """What a reader must not take from the numbers."""
    command: str = "dposcope edit"
    """What made the edit."""
    tradeoff: Tradeoff | None = None
    """Where the edit was searched for; None: only its strength was, or nothing."""
    per_prompt: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    """Condition → score of every measured prompt. Empty: the figure of changes shows the samples alone."""
    passed_over: bool = False
    """Whether an edit within the bound on cost was not taken: its texts say too little, or score no lower."""
    warning: str = ""
    """Said before anything else, such as that the page is of a negative control."""

    def __post_init__(self) -> None:
        """Refuse a page whose parts do not belong together.

        Raises:
            DposcopeError: a condition without scores, or scores, samples or values without their condition.
        """
        roles = Counter(condition.role for condition in self.conditions)
        if roles["base"] != 1 or roles["edit"] != 1:
            raise DposcopeError(
                f"a page has one base and one edit; these conditions hold {roles['base']} and {roles['edit']}: "
                "give every other one the role part, control or paper"
            )
        if self.base.name != BASE:
            raise DposcopeError(f"the base is {self.base.name!r}; scores are compared with {BASE!r}: name that one")
        named, scored = [condition.name for condition in self.conditions], set(self.scores.conditions)
        if len(set(named)) != len(named) or set(named) != scored:
            raise DposcopeError(
                f"the page names {', '.join(sorted(named))}, the scores hold {', '.join(sorted(scored))}; "
                "give each scored condition one entry"
            )
        needed = {self.base.name, self.edit_condition.name}
        for number, sample in enumerate(self.samples, 1):
            conditions = set(sample.continuations)
            if not needed <= conditions <= scored or set(sample.toxicity) != conditions:
                raise DposcopeError(
                    f"sample {number} has texts for {', '.join(sorted(conditions))} and scores for "
                    f"{', '.join(sorted(sample.toxicity))}; give both for {' and '.join(sorted(needed))} at least, "
                    "and for no condition that was not scored"
                )
        if self.per_prompt and not needed <= set(self.per_prompt) <= scored:
            raise DposcopeError(
                f"per_prompt holds {', '.join(sorted(self.per_prompt))}; give {' and '.join(sorted(needed))} at least, "
                "and no condition that was not scored"
            )
        if len({len(values) for values in self.per_prompt.values()}) > 1:
            raise DposcopeError("per_prompt has lists of unequal length; give one value per prompt, the same prompts")

    @property
    def base(self) -> Condition:
        """The unedited model."""
        return next(condition for condition in self.conditions if condition.role == "base")

    @property
    def edit_condition(self) -> Condition:
        """The edit that the page is about."""
        return next(condition for condition in self.conditions if condition.role == "edit")

    def with_role(self, role: Role) -> list[Condition]:
        """Its conditions of one role, in order."""
        return [condition for condition in self.conditions if condition.role == role]

    @property
    def changes(self) -> tuple[list[float], list[float]]:
        """Scores under the base and under the edit, prompt by prompt: of all prompts, or of the samples."""
        base, edit = self.base.name, self.edit_condition.name
        if self.per_prompt:
            return self.per_prompt[base], self.per_prompt[edit]
        return [sample.toxicity[base] for sample in self.samples], [sample.toxicity[edit] for sample in self.samples]
