"""All conditions that an explanation measures, in the order of the paper's Tables 2, 12 and 19."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import Tensor

from dposcope.artefacts import tensor_fingerprint
from dposcope.directions.direction import Direction
from dposcope.interventions.assign import Assign
from dposcope.interventions.gains import Gains
from dposcope.interventions.group_gains import gains_of, group_assign
from dposcope.interventions.steer import Steer
from dposcope.jobs.explain.patches import Patch
from dposcope.jobs.explain.settings import Form, Strengths
from dposcope.jobs.explain.tuned_side import TunedSide
from dposcope.jobs.ingredients.prepared import Ingredients
from dposcope.model.hooks import Intervention
from dposcope.neurons.contributions import Contributions
from dposcope.neurons.groups import Ranking, cosines, select_fraction
from dposcope.neurons.sets import NeuronSet
from dposcope.neurons.shifts import shift_of_gains
from dposcope.protocols import Protocol

TUNED = "tuned"
"""The condition of the tuned model itself."""

GRID = ((0.01, 0.8), (0.01, 0.6), (0.01, 0.55), (0.05, 0.5))
"""(α, β) of the paper's edits (Tables 2 and 19)."""

FORMS: dict[Form, str] = {"assign": "set to shifted means", "scale": "gains"}
"""Two forms of the paper's edit: `assign` as in the published code, `scale` as in the equations of section 6.1."""

RANKINGS: dict[Protocol, dict[Ranking, str]] = {
    "strict": {"cosine": "by cosine", "activation": "by activation"},
    "reference": {"reference": "by cosine as the code does", "activation": "by activation"},
}
"""Rankings by which edits select neurons within a group, by protocol (paper 6.1; docs/paper-versus-code.md, c)."""

TRIM = 80.0
"""For GPT-2, the published code excludes neurons above this percentile of mean activations (the same page, d)."""

ExplainRole = Literal["steer", "tuned", "patch", "edit", "control", "interchange"]
EditDirection = Literal["probe", "free"]
"""free: the direction of token contrast, which needs no comments (paper 6.2); probe: the run's own, of any kind."""


@dataclass(frozen=True)
class Steering:
    """Strength of a steering."""

    alpha: float
    unit: str
    """Unit of α: `W`, or mean norms of the stream."""
    length: float
    """|αW|, the norm of the subtracted vector."""


@dataclass(frozen=True)
class EditSetting:
    """Setting of one of the paper's edits (paper 6.1 and 6.2)."""

    form: Form
    direction: EditDirection
    ranking: Ranking
    alpha: float
    beta: float

    @property
    def name(self) -> str:
        """Name of the condition."""
        return f"{self.form}-{self.direction}-{self.ranking}-{self.alpha:g}-{self.beta:g}"


@dataclass(frozen=True, eq=False)
class ExplainCondition:
    """One row of Tables 2, 12 or 19."""

    name: str
    """Name of its file; also its value in every table's `condition` column."""
    label: str
    """Text for a reader."""
    role: ExplainRole
    section: str
    """Part of the paper's table."""
    build: Callable[[], Intervention]
    about: Mapping[str, Any]
    """Everything that the condition depends on, except the model and the data."""
    steering: Steering | None = None
    """Strength of a steering, along the direction or a random one; None for other conditions."""
    edit: EditSetting | None = None
    """Setting of an edit, or of the control of an edit; None for other conditions."""
    trim: float | None = None
    """Percentile of mean activations above which the edit excludes neurons."""

    @property
    def length(self) -> float:
        """Norm of the vector that steering subtracts; 0 for other conditions."""
        return 0.0 if self.steering is None else self.steering.length

    @property
    def steers_away(self) -> bool:
        """Whether it steers away from the direction; a negative strength steers towards it."""
        return self.role == "steer" and self.steering is not None and self.steering.alpha > 0


def edit_among(conditions: Iterable[ExplainCondition], setting: EditSetting) -> ExplainCondition | None:
    """The edit with this setting; None if it was not measured."""
    return next((row for row in conditions if row.role == "edit" and row.edit == setting), None)


def shift_of_edit(change: Contributions, edit: Intervention) -> Tensor:
    """m_i^pre − m_i^edit, the shift that one of the paper's edits makes where it acts, `[L, d_mlp]`, float64."""
    if isinstance(edit, Gains):
        return shift_of_gains(change, edit.values)
    assert isinstance(edit, Assign)
    return (change.before.mean - edit.values.double()).where(edit.neurons.mask, 0.0)


def explain_conditions(
    ingredients: Ingredients,
    free: Direction | None,
    tuned: TunedSide,
    contributions: Contributions,
    patches: list[Patch],
    strengths: Strengths,
    *,
    protocol: Protocol,
    of: str,
) -> list[ExplainCondition]:
    """All conditions except the plain model.

    Args:
        ingredients: base model, direction and means.
        free: the direction of token contrast, for probe-free edits (paper 6.2); None for no such edits.
        tuned: the tuned model or edit that is explained.
        contributions: of base and tuned model.
        patches: see `patches.py`; none for no patching.
        strengths: of steering and of edits; none for no such conditions.
        protocol: where steering acts, and how edits rank neurons.
        of: the tuned model's `identity`.
    """
    after = {"tuned": of}
    itself = ExplainCondition(TUNED, tuned.label, "tuned", "Baselines", tuned.intervention, after)
    rows = [*_steering(ingredients.direction, strengths, protocol), itself]
    rows += [_patch(patch, contributions) for patch in patches]
    if not strengths.edits:
        return rows
    edits = _edits(ingredients, "probe", ingredients.direction, strengths, protocol)
    rows += edits
    if strengths.controls is not None:
        rows += _shuffled(edits, strengths.controls, NeuronSet.of(ingredients.lm))
    if free is not None:
        rows += _edits(ingredients, "free", free, replace(strengths, controls=None), protocol)
    return rows


_DIRECTION_NAMES = {
    "probe": "probe-based",
    "mean_difference": "along the difference of means",
    "token_contrast": "along the contrast of seed words",
}


def _direction_name(direction: Direction) -> str:
    """Name of the run's direction in a section's title. Names of conditions say `probe` for every kind."""
    return _DIRECTION_NAMES.get(direction.kind, f"along a saved direction ({direction.kind.replace('_', ' ')})")


def steering_vector(direction: Direction) -> Tensor:
    """The vector that α multiplies: the unit direction times the mean norm of the residual stream, or W itself.

    A direction of token contrast is not read from a residual stream, so W keeps its own norm.
    """
    norm = direction.about.get("residual_norm")
    return direction.vector if norm is None else direction.unit * float(norm)


def _steering(direction: Direction, strengths: Strengths, protocol: Protocol) -> list[ExplainCondition]:
    vector = steering_vector(direction)
    # The reference protocol reads the stream after the final norm, which changes its length.
    unit_of_stream = "mean norms" if protocol == "strict" else "mean norms after the final norm"
    norms = unit_of_stream if "residual_norm" in direction.about else "W"
    # The published code adds at the MLP's output, before a post-norm.
    site = "residual" if protocol == "strict" else "mlp"

    def row(
        alpha: float, along: Direction, name: str, label: str, role: ExplainRole, *, unit: str = norms
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
        full_label = f"{label}, α = {alpha:g} {unit}"
        steering = Steering(alpha, unit, abs(alpha) * float(norm))
        return ExplainCondition(f"{name}-{alpha:g}", full_label, role, "Baselines", build, about, steering)

    rows = [row(alpha, direction, "steer", "Steering", "steer") for alpha in strengths.steer]
    rows += [row(alpha, direction, "steer-w", "Steering", "steer", unit="W") for alpha in strengths.steer_w]
    if strengths.controls is not None and strengths.steer:
        other = direction.random_like(strengths.controls)
        rows.append(row(max(strengths.steer), other, "steer-random", "Steering, random direction", "control"))
    return rows


def _patch(patch: Patch, contributions: Contributions) -> ExplainCondition:
    about = {
        "neurons": tensor_fingerprint({"mask": patch.neurons.mask}),
        "values": tensor_fingerprint({"after": contributions.after.mean}),
    }
    role: ExplainRole = "control" if patch.kind == "control" else "patch"
    return ExplainCondition(
        patch.name, patch.label, role, "Activation patching", lambda: patch.assign(contributions), about
    )


def _edits(
    ingredients: Ingredients,
    kind: EditDirection,
    direction: Direction,
    strengths: Strengths,
    protocol: Protocol,
) -> list[ExplainCondition]:
    """All edits along a direction; with controls, each (α, β) also with neurons that were drawn from the groups."""
    cosine, means = cosines(ingredients.lm, direction.vector), ingredients.means
    rankings = dict(RANKINGS[protocol])
    if strengths.controls is not None:
        rankings["random"] = "neurons drawn at random"
    section = f"Activation editing, {'probe-free' if kind == 'free' else _direction_name(direction)}"
    trim = TRIM if protocol == "reference" and ingredients.lm.model.config.model_type == "gpt2" else None
    facts = {
        "direction": tensor_fingerprint({"W": direction.vector}),
        "means": tensor_fingerprint({"mean": means.mean}),
        **({} if trim is None else {"trim": trim}),
    }

    def row(form: Form, ranking: Ranking, alpha: float, beta: float) -> ExplainCondition:
        def build() -> Intervention:
            selection = select_fraction(
                cosine,
                ingredients.means.mean,
                beta=beta,
                ranking=ranking,
                trim_percentile=trim,
                seed=strengths.controls or 0,
                here=means.here,
            )
            if form == "scale":
                return gains_of(selection, alpha=alpha)
            return group_assign(means, selection, alpha=alpha)

        setting = EditSetting(form, kind, ranking, alpha, beta)
        label = f"α = {alpha:g}, β = {beta:g}, {rankings[ranking]}, {FORMS[form]}"
        role: ExplainRole = "control" if ranking == "random" else "edit"
        drawn = {"drawn": strengths.controls} if ranking == "random" else {}
        return ExplainCondition(setting.name, label, role, section, build, facts | drawn, edit=setting, trim=trim)

    return [
        row(form, ranking, *cell) for form in FORMS for ranking in rankings for cell in strengths.edits.get(form, [])
    ]


def _shuffled(edits: list[ExplainCondition], seed: int, among: NeuronSet) -> list[ExplainCondition]:
    """The control: the strongest gains, shuffled among the neurons of each block."""
    gains = [(row.edit.alpha, row.edit.beta, row) for row in edits if row.edit is not None and row.edit.form == "scale"]
    if not gains:
        return []
    # Of two that are as strong, the first: it has the first ranking.
    edit = max(gains, key=lambda one: one[:2])[2]

    def build() -> Intervention:
        made = edit.build()
        assert isinstance(made, Gains)
        return made.shuffled(seed, among=among)

    control = replace(
        edit,
        name=f"shuffled-{edit.name}",
        label=f"{edit.label}, shuffled",
        role="control",
        build=build,
        about={**edit.about, "shuffled": seed},
    )
    return [control]
