"""All that is measured to explain a tuned model, in the order of the paper's Tables 2, 12 and 19."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import Tensor

from dposcope.artefacts import tensor_fingerprint
from dposcope.directions.direction import Direction
from dposcope.interventions.gains import Gains
from dposcope.interventions.group_gains import gains_of, group_assign
from dposcope.interventions.steer import Steer
from dposcope.jobs.explain.patches import Patch
from dposcope.jobs.explain.settings import ExplainSettings, Form
from dposcope.jobs.explain.tuned_side import TunedSide
from dposcope.jobs.ingredients import Ingredients
from dposcope.model.hooks import Intervention
from dposcope.neurons.contributions import Contributions
from dposcope.neurons.groups import Ranking, cosines, select_fraction
from dposcope.protocols import Protocol

TUNED = "tuned"
"""The condition of the tuned model itself."""

GRID = ((0.01, 0.8), (0.01, 0.6), (0.01, 0.55), (0.05, 0.5))
"""(α, β) of the paper's edits (Tables 2 and 19)."""

FORMS: dict[Form, str] = {"assign": "set to shifted means", "scale": "gains"}
"""The paper's edit in both readings: as the authors' code does it, and as the equations of section 6.1 say."""

RANKINGS: dict[Protocol, dict[Ranking, str]] = {
    "strict": {"cosine": "by cosine", "activation": "by activation"},
    "reference": {"reference": "by cosine as the code does", "activation": "by activation"},
}
"""How edits choose neurons within a group, by protocol (paper 6.1; docs/paper-versus-code.md, c)."""

TRIM = 80.0
"""For GPT-2 the published code leaves out neurons above this percentile of mean activations (there, d)."""

Role = Literal["steer", "tuned", "patch", "edit", "control"]
EditDirection = Literal["probe", "free"]
"""free: of token contrast, which no comments are needed for (paper 6.2); probe: the run's own, whatever its kind."""


@dataclass(frozen=True)
class Steering:
    """How far a condition steers."""

    alpha: float
    unit: str
    """What α counts: `W`, or mean norms of the stream."""
    length: float
    """Of what is subtracted, |αW|, whatever α counts."""


@dataclass(frozen=True)
class EditSetting:
    """Which of the paper's edits a condition is (paper 6.1 and 6.2)."""

    form: Form
    direction: EditDirection
    ranking: Ranking
    alpha: float
    beta: float

    @property
    def name(self) -> str:
        """Of the condition."""
        return f"{self.form}-{self.direction}-{self.ranking}-{self.alpha:g}-{self.beta:g}"


@dataclass(frozen=True, eq=False)
class ExplainCondition:
    """One row of Tables 2, 12 or 19."""

    name: str
    """Of its file and in every table's `condition` column."""
    label: str
    """For people."""
    role: Role
    section: str
    """The part of the paper's table that it belongs to."""
    build: Callable[[], Intervention]
    about: Mapping[str, Any]
    """What decides the condition beside the model and the data."""
    steering: Steering | None = None
    """Of those that steer, along the direction or a random one."""
    edit: EditSetting | None = None
    """Of edits, and of the control of one."""
    trim: float | None = None
    """Percentile of mean activations above which an edit leaves neurons out."""

    @property
    def length(self) -> float:
        """Of what steering subtracts; 0 where nothing is."""
        return 0.0 if self.steering is None else self.steering.length


def edit_among(conditions: Iterable[ExplainCondition], setting: EditSetting) -> ExplainCondition | None:
    """The edit of this setting; None where it was not measured."""
    return next((row for row in conditions if row.role == "edit" and row.edit == setting), None)


def explain_conditions(
    made: Ingredients,
    free: Direction | None,
    tuned: TunedSide,
    contributions: Contributions,
    patches: list[Patch],
    settings: ExplainSettings,
) -> list[ExplainCondition]:
    """The rows, but for the plain model.

    Args:
        made: base model, direction and means.
        free: the direction of token contrast, for probe-free edits (paper 6.2); None without edits.
        tuned: what the base is compared with.
        contributions: of both models.
        patches: see `patches.py`.
        settings: which of them.
    """
    after = {"tuned": contributions.about["tuned_fingerprint"]}
    itself = ExplainCondition(TUNED, tuned.label, "tuned", "Baselines", tuned.intervention, after)
    if settings.neurons_only:
        return [itself]
    rows = [*_steering(made, settings), itself]
    if settings.patching:
        rows += [_patch(patch, contributions) for patch in patches]
    if settings.edits:
        rows += _edits(made, "probe", made.direction, f"Activation editing, {_by(made.direction)}", settings)
        if free is not None:
            rows += _edits(made, "free", free, "Activation editing, probe-free", settings)
    return rows


_BY = {
    "probe": "probe-based",
    "mean_difference": "along the difference of means",
    "token_contrast": "along the contrast of seed words",
}


def _by(direction: Direction) -> str:
    """How a section calls edits along the run's direction; names of conditions say `probe` whichever it is."""
    return _BY.get(direction.kind, f"along a saved direction ({direction.kind.replace('_', ' ')})")


def steering_vector(direction: Direction) -> Tensor:
    """What α is a multiple of: the unit direction times the mean norm of the stream it lives in, or W itself.

    A direction of token contrast has no stream it was read from, so W keeps its own norm.
    """
    norm = direction.about.get("residual_norm")
    return direction.vector if norm is None else direction.unit * float(norm)


def _steering(made: Ingredients, settings: ExplainSettings) -> list[ExplainCondition]:
    direction, vector = made.direction, steering_vector(made.direction)
    # What the reference protocol reads has passed the final norm, which changes its length.
    read = "mean norms" if settings.protocol == "strict" else "mean norms after the final norm"
    norms = read if "residual_norm" in direction.about else "W"
    # The published code adds at the MLP's output, before a post-norm (SPEC section 4).
    site = "residual" if settings.protocol == "strict" else "mlp"

    def row(
        alpha: float, along: Direction, name: str, label: str, role: Role, *, unit: str = norms
    ) -> ExplainCondition:
        norm = (direction.vector if unit == "W" else vector).norm()

        def build() -> Steer:
            return Steer(along.unit * norm, alpha, direction.block, site)

        about = {
            "alpha": alpha,
            "unit": unit,
            "site": site,
            "vector": tensor_fingerprint({"W": along.vector}),
            "block": direction.block,
        }
        said = f"{label}, α = {alpha:g} {unit}"
        steering = Steering(alpha, unit, abs(alpha) * float(norm))
        return ExplainCondition(f"{name}-{alpha:g}", said, role, "Baselines", build, about, steering)

    rows = [row(alpha, direction, "steer", "Steering", "steer") for alpha in settings.steer]
    rows += [row(alpha, direction, "steer-w", "Steering", "steer", unit="W") for alpha in settings.steer_w]
    if settings.controls and settings.steer:
        other = direction.random_like(settings.seed)
        rows.append(row(max(settings.steer), other, "steer-random", "Steering, random direction", "control"))
    return rows


def _patch(patch: Patch, contributions: Contributions) -> ExplainCondition:
    about = {
        "neurons": tensor_fingerprint({"mask": patch.neurons.mask}),
        "values": tensor_fingerprint({"after": contributions.after.mean}),
    }
    role: Role = "control" if patch.kind == "control" else "patch"
    return ExplainCondition(
        patch.name, patch.label, role, "Activation patching", lambda: patch.assign(contributions), about
    )


def _edits(
    made: Ingredients, kind: EditDirection, direction: Direction, section: str, settings: ExplainSettings
) -> list[ExplainCondition]:
    cosine = cosines(made.lm, direction.vector)
    rankings = RANKINGS[settings.protocol]
    trim = TRIM if settings.protocol == "reference" and made.lm.model.config.model_type == "gpt2" else None
    facts = {
        "direction": tensor_fingerprint({"W": direction.vector}),
        "means": tensor_fingerprint({"mean": made.means.mean}),
        **({} if trim is None else {"trim": trim}),
    }

    def row(form: Form, ranking: Ranking, alpha: float, beta: float) -> ExplainCondition:
        def build() -> Intervention:
            selection = select_fraction(cosine, made.means.mean, beta=beta, ranking=ranking, trim_percentile=trim)
            if form == "scale":
                return gains_of(selection, alpha=alpha)
            return group_assign(made.means, selection, alpha=alpha)

        setting = EditSetting(form, kind, ranking, alpha, beta)
        label = f"α = {alpha:g}, β = {beta:g}, {rankings[ranking]}, {FORMS[form]}"
        return ExplainCondition(setting.name, label, "edit", section, build, facts, edit=setting, trim=trim)

    rows = [row(form, ranking, *cell) for form in FORMS for ranking in rankings for cell in settings.edits_of(form)]
    if settings.controls and kind == "probe" and (cells := settings.edits_of("scale")):
        strongest = row("scale", next(iter(rankings)), *max(cells))
        rows.append(_shuffled(strongest, settings.seed))
    return rows


def _shuffled(edit: ExplainCondition, seed: int) -> ExplainCondition:
    """The control of SPEC section 5: the same gains, given to other neurons of their block."""

    def build() -> Intervention:
        gains = edit.build()
        assert isinstance(gains, Gains)
        return gains.shuffled(seed)

    return replace(
        edit,
        name=f"shuffled-{edit.name}",
        label=f"{edit.label}, shuffled",
        role="control",
        build=build,
        about={**edit.about, "shuffled": seed},
    )
