"""The settings of `dposcope explain`."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal, cast

from cyclopts import Group, Parameter
from pydantic import Field, field_validator

from dposcope.jobs.numbers import MOST_STRENGTH, Count, LensTokens, PerMinute, Price, Refits, SignedStrength
from dposcope.jobs.settings import FITTED, MeasureSettings
from dposcope.options import EITHER, Only

_DIRECTION = Group("Direction", sort_key=2)
_NEURONS = Group("Neurons", sort_key=3)
_MEASURES = Group("Measures", sort_key=4)
_MACHINE = Group("Machine", sort_key=5)

Form = Literal["assign", "scale"]


@dataclass(frozen=True)
class Repeats:
    """What is computed again, to measure how stable groups of neurons are."""

    folds: int
    """Of the prompts; 0 for none."""
    seeds: tuple[int, ...]
    """Of the direction's refits."""
    bootstrap: bool
    """Whether each refit resamples the comments."""


@dataclass(frozen=True)
class Instruments:
    """What an explanation measures with, as it was named."""

    scorer: str
    token_judge: str
    neutral: str | None
    """Text for log-perplexity; None: the built-in text."""
    max_windows: int
    """Of that text."""


@dataclass(frozen=True)
class Strengths:
    """The strengths that the base is steered and edited at, and their controls."""

    steer: tuple[float, ...]
    """In mean norms of the residual stream."""
    steer_w: tuple[float, ...]
    """In multiples of W."""
    edits: Mapping[Form, list[tuple[float, float]]]
    """Form → (α, β) of its edits, in order."""
    controls: int | None
    """Seed of the controls: a random direction, and shuffled gains; None for no controls."""


class ExplainSettings(MeasureSettings):
    """Settings of `dposcope explain`."""

    ONLY = (
        Only(
            ("token_price", "requests_per_minute"), lambda s: s.token_judge != "words", "an endpoint as --token-judge"
        ),
        Only(("bootstrap",), lambda s: s.seeds > 0, "--seeds above 0"),
        Only(("bootstrap",), lambda s: s.direction in FITTED, "--direction probe or mean-difference", EITHER),
        Only(
            (
                *("patching", "interchange", "claim_directions", "edits", "edit_forms", "edit_grid", "steer"),
                *("steer_w", "controls"),
            ),
            lambda s: not s.neurons_only,
            "a whole explanation",
            "leave --neurons-only or {option} out",
        ),
        Only(("interchange",), lambda s: s.protocol == "strict", "--protocol strict"),
        Only(
            ("claim_directions",),
            lambda s: s.patching,
            "patches",
            "leave --no-patching or {option} out",
        ),
        Only(("edit_forms", "edit_grid"), lambda s: s.edits, "edits", "leave --no-edits or {option} out"),
        Only(
            ("edit_grid",),
            lambda s: all(own in (None, *s.edit_forms) for own, _, _ in map(_cell, s.edit_grid)),
            "edits of --edit-forms, and a cell is of another form",
            "add its form, or leave the cell out",
        ),
    )

    direction: Annotated[str, Parameter(group=_DIRECTION)] = Field(
        default="probe",
        description="probe (the paper's logistic regression), mean-difference (clearest on small models), "
        "token-contrast (no comments needed; paper 6.2), or the path of a saved direction. Claims are judged along all "
        "of them.",
    )
    toxic_neurons: Annotated[list[Count], Parameter(group=_NEURONS, negative_iterable=())] = Field(
        default=[128, 256],
        description="How many neurons with the highest cosine are called toxic (paper: 256; earlier work: 128). May "
        "be given several times.",
    )
    lens_tokens: Annotated[LensTokens, Parameter(group=_NEURONS)] = Field(
        default=10, description="Number of lens tokens per value vector (paper: 10). The report has at most 50."
    )
    token_judge: Annotated[str, Parameter(group=_NEURONS)] = Field(
        default="words",
        description="Judge of toxic tokens: words (a built-in list; for another --concept, its scorer), or the https "
        "address of an OpenAI-compatible endpoint (paper: GPT-4o).",
    )
    token_price: Annotated[tuple[Price, Price] | None, Parameter(group=_NEURONS, negative_iterable=())] = Field(
        default=None,
        description="Price of that endpoint per million tokens, input and output (for example 2.5 10). The estimate "
        "before the first request then includes the cost. Default: none.",
    )
    requests_per_minute: Annotated[PerMinute, Parameter(group=_NEURONS)] = Field(
        default=60.0, description="Most requests per minute to that endpoint."
    )
    folds: Annotated[Refits, Parameter(group=_NEURONS)] = Field(
        default=2,
        description="Disjoint parts of the prompts for neuron means, to measure how often a neuron keeps its group in "
        "another part. They need no further generation. 0: no parts, and no intervals of shares and correlations.",
    )
    seeds: Annotated[Refits, Parameter(group=_NEURONS)] = Field(
        default=5,
        description="Number of refits of the direction, to compare their groups of neurons: on resampled comments "
        "and, for a probe, with other held-out comments; and the three kinds of direction are compared. 0: no refits.",
    )
    bootstrap: Annotated[bool, Parameter(group=_NEURONS)] = Field(
        default=True, description="Resample the comments (with replacement, within each class) for each of --seeds."
    )
    neurons_only: Annotated[bool, Parameter(group=_MEASURES)] = Field(
        default=False,
        description="A quick look: measure only the base and the tuned model, without patching, steering and edits.",
    )
    patching: Annotated[bool, Parameter(group=_MEASURES)] = Field(
        default=True, description="Measure the base with groups of neurons patched to their means after tuning."
    )
    interchange: Annotated[bool, Parameter(group=_MEASURES)] = Field(
        default=True,
        description="Measure the base with parts that take the tuned model's values on the same tokens: groups of "
        "neurons, neurons ranked by attribution patching, all MLPs, all attention. Strict protocol only.",
    )
    claim_directions: Annotated[bool, Parameter(group=_MEASURES)] = Field(
        default=True,
        description="Judge the claims about neurons and patches along other directions too: the probe with three seeds "
        "and on balanced comments, the difference of means, the contrast of seed words, three random directions.",
    )
    edits: Annotated[bool, Parameter(group=_MEASURES)] = Field(
        default=True, description="Also measure the paper's edits: (α, β) by probe and probe-free, two rankings."
    )
    edit_forms: Annotated[list[Form], Parameter(group=_MEASURES, negative_iterable=())] = Field(
        default=["assign", "scale"],
        description="Forms of the edits: assign (neurons are set to shifted means, as in the paper's code) and scale "
        "(gains, as in its equations). May be given several times.",
    )
    edit_grid: Annotated[list[str], Parameter(group=_MEASURES, negative_iterable=())] = Field(
        default=["0.01:0.8", "0.01:0.6", "0.01:0.55", "0.05:0.5"],
        description="α:β of the edits (default: the paper's; for gains, 1 % has almost no effect), or FORM:α:β for "
        "one form only, for example scale:0.3:0.55. May be given several times.",
    )
    steer: Annotated[list[SignedStrength], Parameter(group=_MEASURES, negative_iterable=())] = Field(
        default=[0.001, 0.003, 0.01, 0.03, 0.1],
        description="Strengths of steering, in mean norms of the residual stream; with a token-contrast direction, "
        "multiples of W. May be given several times.",
    )
    steer_w: Annotated[list[SignedStrength], Parameter(group=_MEASURES, negative_iterable=())] = Field(
        default=[],
        description="Additional strengths of steering, as multiples of W as in the paper: 30 GPT-2, 2 Llama, 3 Gemma, "
        "5 Mistral, for a probe of the reference protocol. May be given several times.",
    )
    controls: Annotated[bool, Parameter(group=_MEASURES)] = Field(
        default=True,
        description="Also measure controls: as many random neurons patched, anywhere and in each block; steering "
        "along a random direction; each edit with as many neurons drawn at random from its groups; an edit's gains "
        "shuffled among the neurons of each block.",
    )

    stream: Annotated[bool, Parameter(group=_MACHINE, negative=())] = Field(
        default=False,
        description="Keep the blocks of the tuned model in a file in DIR and read each when it runs, so that the "
        "memory of one model is enough. On the CPU the base, too. It is slower, with the same results.",
    )

    @field_validator("edit_grid")
    @classmethod
    def _cells(cls, grid: list[str]) -> list[str]:
        for cell in grid:
            _cell(cell)
        return grid

    @property
    def repeats(self) -> Repeats:
        """What is computed again. The run's own seed comes before those of its refits."""
        return Repeats(self.folds, tuple(self.seed + number for number in range(1, self.seeds + 1)), self.bootstrap)

    @property
    def fits_direction(self) -> bool:
        """Whether a direction is made from comments: the run's own, or those that it is compared with."""
        return super().fits_direction or self.seeds > 0 or self.judges_along

    @property
    def judges_along(self) -> bool:
        """Whether claims are judged along other directions, too."""
        return self.patching and self.claim_directions and not self.neurons_only

    @property
    def interchanges(self) -> bool:
        """Whether any interchange is measured: with --neurons-only none, and none by the reference protocol."""
        return self.interchange and not self.neurons_only and self.protocol == "strict"

    @property
    def instruments(self) -> Instruments:
        """What is measured with."""
        return Instruments(self.scorer, self.token_judge, self.neutral, self.max_windows)

    @property
    def strengths(self) -> Strengths:
        """The strengths of steering and edits; none with --neurons-only."""
        controls = self.seed if self.controls else None
        if self.neurons_only:
            return Strengths((), (), {}, controls)
        edits: dict[Form, list[tuple[float, float]]] = {}
        if self.edits:
            edits = {form: self.edits_of(form) for form in self.edit_forms}
        return Strengths(tuple(self.steer), tuple(self.steer_w), edits, controls)

    def edits_of(self, form: Form) -> list[tuple[float, float]]:
        """(α, β) of the edits of a form, in order."""
        cells = dict.fromkeys(_cell(cell) for cell in self.edit_grid)
        return [(alpha, beta) for own, alpha, beta in cells if form in self.edit_forms and own in (None, form)]


def _cell(text: str) -> tuple[Form | None, float, float]:
    """Parse `α:β` or `FORM:α:β`."""
    *form, alpha, beta = text.split(":") if text.count(":") in (1, 2) else ("", "", "")
    try:
        numbers = float(alpha), float(beta)
    except ValueError:
        numbers = math.nan, math.nan
    if form not in ([], ["assign"], ["scale"]) or not (0 <= numbers[0] <= MOST_STRENGTH and 0 <= numbers[1] <= 1):
        raise ValueError(
            f"{text!r} is not an edit; give α:β, with α from 0 to {MOST_STRENGTH:,.0f} and β from 0 to 1, or scale:α:β "
            "or assign:α:β"
        )
    return (cast(Form, form[0]) if form else None), *numbers
