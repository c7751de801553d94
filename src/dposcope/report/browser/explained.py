"""What the page of an explanation says besides its neurons: the finding, the texts, the claims."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from dposcope.report.edit.verdict import Finding
from dposcope.report.section import SectionFigure


@dataclass(frozen=True)
class TextPair:
    """One prompt and what both models write after it."""

    prompt: str
    before: str
    after: str
    before_score: float
    after_score: float

    @property
    def shared(self) -> str:
        """The words that both continuations begin with."""
        pairs = enumerate(zip(self.before, self.after, strict=False))
        shortest = min(len(self.before), len(self.after))
        same = self.before[: next((place for place, (one, other) in pairs if one != other), shortest)]
        if same in (self.before, self.after):
            return same
        # A word that only begins alike is no shared word.
        return same[: max(same.rfind(" "), same.rfind("\n"), -1) + 1]

    @property
    def own_before(self) -> str:
        """What the base model goes on with."""
        return self.before[len(self.shared) :]

    @property
    def own_after(self) -> str:
        """What the tuned model goes on with."""
        return self.after[len(self.shared) :]

    @property
    def change(self) -> float:
        """Score after minus score before."""
        return self.after_score - self.before_score


@dataclass(frozen=True)
class TextList:
    """Texts under one heading."""

    anchor: str
    title: str
    says: str
    """How they were chosen."""
    pairs: Sequence[TextPair]


@dataclass(frozen=True)
class ClaimView:
    """One claim of the paper with its verdict."""

    section: str
    says: str
    verdict: str
    here: str
    paper: str
    rule: str
    along: Sequence[str] = ()
    """The verdict along each direction of `Explained.directions`; empty where it was not tested along it."""


@dataclass(frozen=True)
class Explained:
    """The parts beside the neurons."""

    headline: str
    """Effect, price and what carries it, in one or two sentences."""
    before_label: str
    after_label: str
    concept: str
    findings: Sequence[Finding]
    chart: SectionFigure
    changed: Sequence[TextPair]
    """The few texts of the first screen."""
    texts: Sequence[TextList]
    claims: Sequence[ClaimView]
    claims_note: str
    directions: Sequence[str] = field(default_factory=tuple)
    """Names of the directions that claims were tested along."""
    remarks: Sequence[str] = field(default_factory=tuple)
    """Further sentences below the headline."""
