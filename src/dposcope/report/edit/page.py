"""The content of an edit's report as one value: the run fills it, `render.py` makes the page."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Literal

from dposcope.directions.lens import Lens
from dposcope.errors import DposcopeError
from dposcope.evaluation.conditions.scores import BASE, Scores
from dposcope.evaluation.statistics.intervals import Difference, Estimate

Role = Literal["base", "edit", "part", "control", "paper", "limit"]


@dataclass(frozen=True)
class Sample:
    """One prompt with its continuations."""

    prompt: str
    continuations: dict[str, str]
    """Condition → text."""
    toxicity: dict[str, float]
    """Condition → score of that text, 0 … 1; the same conditions."""


@dataclass(frozen=True)
class GroupSize:
    """Size of a neuron group, and how many of its neurons are edited."""

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
    """One trial of the search of `dposcope tune`."""

    method: str
    """Source of its gains."""
    settings: str
    """Its other settings, as text."""
    rise: float
    """Rise of log-perplexity on the search text, nats per token."""
    kl: float
    """KL(base‖edited) there, nats per token."""
    concept: Estimate | None
    """Score on the search prompts; None if the cost was out of bounds."""
    repetition: float | None
    distinct_2: float | None
    """Distinct share of the word pairs of all its texts."""
    on_front: bool
    """Whether it is on the Pareto front: no other trial is better in both score and cost."""


@dataclass(frozen=True)
class Tradeoff:
    """A search: its trials, and the chosen edit."""

    trials: list[TriedEdit]
    base: float
    """The plain model's score on the search prompts."""
    chosen: Estimate
    """The chosen edit's score there. It is optimistic, since the edit was selected by it."""
    chosen_rise: float
    """Its rise of log-perplexity on the text that set its strength."""
    unseen: Estimate
    """The chosen edit's score on the report's prompts, by the scorer of the search."""
    unseen_base: float
    """The plain model's score on the report's prompts."""
    scorer: str
    """The scorer of the search."""
    unseen_scorer: str = ""
    """The scorer of both scores on the report's prompts, if it is another one."""


@dataclass(frozen=True)
class Condition:
    """Label and role of one condition of the scores."""

    name: str
    """Its key in the scores."""
    label: str
    """Its name on the page."""
    role: Role
    """base: the plain model; edit: the edit of this page; part: only a part of it; control: an edit that should have
    no effect; paper: an intervention of the paper, for comparison; limit: the ideal, which no edit can be better
    than."""
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
    """Facts such as kind, block, texts, quality; may be nested."""
    groups: list[GroupSize]
    """Empty if the edit was not made from groups."""
    search: list[SearchStep]
    """Trials of the strength, in order; empty if the strength was given."""
    bound: float | None
    """Bound of the search on log-perplexity, nats per token; None without a search."""
    chosen_strength: float | None
    judge: dict[str, Any] | None
    """The independent judge's quality on comments it was not trained on."""
    settings: list[tuple[str, str]]
    provenance: dict[str, str]
    """Versions, seed, command; nothing that changes when the run is repeated."""
    notes: list[str]
    """Warnings about how to read the numbers."""
    command: str = "dposcope edit"
    """The command that made the edit."""
    tradeoff: Tradeoff | None = None
    """The search of `dposcope tune`; None if only the strength was searched, or nothing."""
    per_prompt: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    """Condition → score of every measured prompt. Empty: the figure of changes shows the samples alone."""
    passed_over: bool = False
    """Whether an edit within the bound on cost was rejected, for repetitive texts or for a score that is no lower."""
    warning: str = ""
    """A sentence at the top of the page, for example that this is a negative control."""

    def __post_init__(self) -> None:
        """Check that the parts fit together.

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
        named = [condition.name for condition in self.conditions]
        scored = set(self.scores.conditions)
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
        """The plain model."""
        return next(condition for condition in self.conditions if condition.role == "base")

    @property
    def edit_condition(self) -> Condition:
        """The edit that the page is about."""
        return next(condition for condition in self.conditions if condition.role == "edit")

    def with_role(self, role: Role) -> list[Condition]:
        """Its conditions of one role, in order."""
        return [condition for condition in self.conditions if condition.role == role]

    @property
    def unchanged(self) -> bool:
        """Whether a search found no edit, so that the model is as it was."""
        return self.bound is not None and not self.chosen_strength

    @property
    def changes(self) -> tuple[list[float], list[float]]:
        """Scores under the base and under the edit, prompt by prompt: of all prompts, or of the samples."""
        base, edit = self.base.name, self.edit_condition.name
        if self.per_prompt:
            return self.per_prompt[base], self.per_prompt[edit]
        return [sample.toxicity[base] for sample in self.samples], [sample.toxicity[edit] for sample in self.samples]
