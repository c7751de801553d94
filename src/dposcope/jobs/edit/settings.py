"""Settings of `dposcope edit`."""

from dataclasses import dataclass
from typing import Annotated, Literal

from cyclopts import Group, Parameter
from pydantic import Field

from dposcope.jobs.numbers import Nats, Share, Strength
from dposcope.jobs.settings import MeasureSettings
from dposcope.options import Only

_EDIT = Group("Edit", sort_key=3)
_MEASURES = Group("Measures", sort_key=4)

Parts = Literal["both", "gains", "ablation"]
"""Parts of the default edit."""


@dataclass(frozen=True)
class EditSpec:
    """The parts of the default edit, and its strength."""

    parts: Parts
    alpha: float | None
    """Shift of the gains, if it is given."""
    ablate: float | None
    """Weight of the ablation, if it is given."""
    bound: float
    """On the rise of log-perplexity, nats per token, for a strength that is searched."""
    reported: int
    """Windows of neutral text that the report reads; a search reads the next ones."""

    @property
    def given(self) -> bool:
        """Whether the strength is given."""
        return self.alpha is not None or self.ablate is not None

    @property
    def has_gains(self) -> bool:
        """Whether neurons get gains."""
        return self.alpha is not None if self.given else self.parts != "ablation"


class EditSettings(MeasureSettings):
    """Settings of `dposcope edit`."""

    ONLY = (
        Only(
            ("parts", "logppl_budget"),
            lambda s: not s.edit_spec.given,
            "the searched edit",
            "leave it out with --alpha or --ablate",
        ),
        Only(
            ("beta", "ranking"),
            lambda s: s.edit_spec.has_gains,
            "an edit with gains",
            "give --alpha or another --parts, or leave {option} out",
        ),
    )

    alpha: Annotated[Strength | None, Parameter(group=_EDIT)] = Field(
        default=None,
        description="Shift of the gains: chosen neurons get a gain of 1−α or 1+α. With --alpha or --ablate "
        "there is no search for the strength. Default: searched.",
    )
    beta: Annotated[Share, Parameter(group=_EDIT)] = Field(
        default=0.55, description="Fraction of each neuron group that is edited (paper: 0.55)."
    )
    ablate: Annotated[Strength | None, Parameter(group=_EDIT)] = Field(
        default=None,
        description="Share w of the direction that is removed from what attention and MLP of every block write; 1 "
        "removes it, 2 reverses it. Default: searched.",
    )
    ranking: Annotated[Literal["cosine", "signed", "activation", "reference"], Parameter(group=_EDIT)] = Field(
        default="cosine",
        description="Ranking of the neurons of a group: by |cosine|, signed cosine, smallest |mean|, or "
        "as in the authors' code.",
    )
    parts: Annotated[Parts, Parameter(group=_EDIT)] = Field(
        default="both", description="Parts of the searched edit: gains, an ablation, or both."
    )
    logppl_budget: Annotated[Nats, Parameter(group=_EDIT)] = Field(
        default=0.2,
        description="What the edit may cost: its strength is increased until log-perplexity on neutral text rises by "
        "this many nats per token (0.2: about 22 per cent in perplexity).",
    )
    controls: Annotated[bool, Parameter(group=_MEASURES)] = Field(
        default=True,
        description="Also measure a control: the same gains shuffled in each block, and a random direction ablated.",
    )
    learned: Annotated[bool, Parameter(group=_MEASURES)] = Field(
        default=True,
        description="If dposcope has a learned edit for the model, also measure it.",
    )

    @property
    def edit_spec(self) -> EditSpec:
        """The parts of the edit, and its strength."""
        return EditSpec(self.parts, self.alpha, self.ablate, self.logppl_budget, self.max_windows)
