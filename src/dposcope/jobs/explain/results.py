"""All tables and figures of `dposcope explain`, in the paper's order."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property

import polars as pl

from dposcope.directions.direction import Direction
from dposcope.evaluation.conditions.outcome import Outcome
from dposcope.evaluation.conditions.scores import BASE, Scores
from dposcope.evaluation.statistics.intervals import Share
from dposcope.jobs.dpo.training_record import TrainingRecord
from dposcope.jobs.explain.claims.claim import SECTIONS, Claim, claims_table
from dposcope.jobs.explain.claims.editing import editing_claims, shift_claims
from dposcope.jobs.explain.claims.neurons import neuron_claims
from dposcope.jobs.explain.claims.over_directions import ClaimAlong, directions_of_claims_table, over_directions
from dposcope.jobs.explain.claims.patching import patching_claims
from dposcope.jobs.explain.conditions import TUNED, ExplainCondition, shift_of_edit
from dposcope.jobs.explain.directions import name_of
from dposcope.jobs.explain.explanation import Explanation
from dposcope.jobs.explain.figures import (
    cumulative_curves,
    density_curve,
    group_layers,
    group_proportions,
    layer_balance,
    range_shifts,
    share_dots,
    stability_dots,
    toxic_activations,
)
from dposcope.jobs.explain.interchange.tables import (
    Interchanged,
    against_frozen,
    carriers_curve,
    interchange_frame,
    interchange_table,
    mediation_table,
)
from dposcope.jobs.explain.measured import Measured
from dposcope.jobs.explain.patches import FOUR_GROUPS, INCREASING, toxic_patch
from dposcope.jobs.explain.settings import Instruments
from dposcope.jobs.explain.tables.intervention import (
    best_edit,
    interventions_table,
    shares_of_reduction,
    steering_table,
    strongest_steering,
    toxic_table,
)
from dposcope.jobs.explain.tables.lens import (
    anti_toxic_examples_table,
    anti_toxic_vectors_table,
    conflicts_table,
    direction_table,
    stability_table,
    subspace_table,
    toxic_vectors_table,
)
from dposcope.jobs.explain.tables.neuron import (
    change_table,
    correlations_table,
    directions_table,
    groups_table,
    model_table,
    negative_table,
)
from dposcope.jobs.explain.tables.setup import agreement_table, probe_table, training_table
from dposcope.jobs.explain.tables.stability import group_stability_table, rank_stability_table
from dposcope.model.language_model import LanguageModel
from dposcope.neurons.shifts import EditAgreement, edit_agreement
from dposcope.neurons.stability import NeuronStability
from dposcope.report.figures import Picture, Row, interval_dots
from dposcope.report.table import Table

_NOTHING_REPEATED = NeuronStability(())
_NOTHING_INTERCHANGED = Interchanged((), None)

FIRST_BLOCKS = 10 / 32
"""Share of the blocks that the paper's Figure 1 leaves out: the first ten of Llama's 32."""


@dataclass(frozen=True, eq=False)
class Results:
    """All values that tables and figures are made from."""

    lm: LanguageModel
    """The base model."""
    explanation: Explanation
    conditions: Sequence[ExplainCondition]
    """All measured conditions except the plain model, in the order of the tables."""
    outcomes: Mapping[str, Outcome]
    scores: Scores
    sizes: Mapping[str, int]
    """Patch → number of its neurons."""
    training: TrainingRecord | None
    """Record of the tuned model's training; None if there is none."""
    instruments: Instruments
    notes: Sequence[str] = ()
    """Changes to the tuned model at loading; see `LanguageModel.notes`."""
    stability: NeuronStability = _NOTHING_REPEATED
    """How often neurons keep their group when prompts, comments or the direction change."""
    probe: Direction | None = None
    """A probe to compare with, if the direction is of another kind."""
    interchanged: Interchanged = _NOTHING_INTERCHANGED
    """What was measured by live interchange."""
    along: Sequence[ClaimAlong] = ()
    """Claims about neurons and patches, along every direction and by every scorer; empty where not asked for."""

    @cached_property
    def shares(self) -> dict[str, Share | None]:
        """Condition → share of the tuned model's reduction of toxicity."""
        return shares_of_reduction(self.outcomes)

    @cached_property
    def judged(self) -> dict[str, Share | None]:
        """The same by the independent judge."""
        return shares_of_reduction(self.outcomes, "judge")

    @property
    def patches(self) -> list[ExplainCondition]:
        """Patches with mean activations, and their controls."""
        return [
            row
            for row in self.conditions
            if row.role in ("patch", "control") and row.edit is None and row.steering is None
        ]

    @cached_property
    def claims(self) -> list[Claim]:
        """The paper's claims, in its order; where a verdict turns with the direction, that is the verdict."""
        return over_directions(self._own_claims, self.along)

    @cached_property
    def _own_claims(self) -> list[Claim]:
        """The claims along the run's own direction."""
        measured = Measured(self.outcomes, self.scores, self.conditions, self.shares)
        claims = [*neuron_claims(self.explanation), *patching_claims(measured), *editing_claims(measured)]
        claims += shift_claims(measured, self.explanation.contributions)
        return sorted(claims, key=lambda claim: SECTIONS.index(claim.section))

    @cached_property
    def interchange(self) -> pl.DataFrame:
        """What every set gives by live interchange, by every scorer."""
        return interchange_frame(self.interchanged, self.outcomes, self.scores)

    @cached_property
    def all_claims(self) -> list[ClaimAlong]:
        """Every claim along every direction; those that were tested along the run's own direction only come last."""
        tested = {one.claim.says for one in self.along}
        own = name_of(self.explanation.direction.kind)
        rest = [ClaimAlong(claim, own, "toxicity") for claim in self._own_claims if claim.says not in tested]
        return [*self.along, *rest]

    @property
    def agreement(self) -> tuple[str, EditAgreement] | None:
        """Label of the best edit by the paper's rule, else of the last; and its agreement with tuning's shifts."""
        edits = [row for row in self.conditions if row.role == "edit"]
        if not edits:
            return None
        name = best_edit(edits, self.scores) or edits[-1].name
        chosen = next(row for row in edits if row.name == name)
        change = self.explanation.contributions
        return chosen.label, edit_agreement(change, shift_of_edit(change, chosen.build()))


def tables_of(results: Results) -> list[Table]:
    """Every table, in the paper's order. Tables of conditions that were not measured are left out."""
    explanation, model, scores = results.explanation, results.lm.name, results.scores
    rows = results.conditions
    rows = [row for row in rows if row.role != "interchange"]
    main = [row for row in rows if row.role != "edit" or row.edit is None or row.edit.ranking != "activation"]
    named = (TUNED, FOUR_GROUPS, INCREASING)
    more = [row for row in rows if row.role in ("steer", "edit") or row.name in named]
    toxic = {toxic_patch(name): (name, neurons) for name, neurons in explanation.patch_sets().items()}
    steering = strongest_steering(rows, scores)
    tables = [
        direction_table(model, explanation),
        interventions_table(model, main, scores, results.shares, results.judged, sizes=results.sizes),
        toxic_table(
            model,
            explanation.shares.neurons,
            {name: len(neurons) for name, (_, neurons) in toxic.items()},
            results.shares,
            results.judged,
            {name: label for name, (label, _) in toxic.items()},
        ),
        *_interchange_tables(results),
        groups_table(model, explanation.shares, explanation.intervals),
        anti_toxic_examples_table(model, explanation),
        model_table(results.lm),
    ]
    if results.training is not None:
        tables.append(training_table(model, results.training))
    tables.append(
        probe_table(model, explanation.direction, None if steering is None else steering.label, probe=results.probe)
    )
    if any(row.role == "steer" for row in rows):
        tables.append(steering_table(model, rows, scores))
    tables += [
        negative_table(model, explanation.shares, explanation.intervals),
        toxic_vectors_table(model, explanation),
        anti_toxic_vectors_table(model, explanation),
        subspace_table(model, explanation),
        conflicts_table(model, explanation),
        stability_table(model, explanation),
        correlations_table(model, explanation.correlations, explanation.intervals),
        directions_table(model, explanation.shares, explanation.intervals),
    ]
    if any(row.role == "edit" for row in rows):
        tables.append(
            interventions_table(model, more, scores, results.shares, results.judged, sizes=results.sizes, number=19)
        )
        agreement = results.agreement
        if agreement is not None:
            tables.append(agreement_table(model, *agreement))
    tables.append(change_table(model, explanation.change, explanation.intervals))
    if results.stability.sources:
        tables += [group_stability_table(model, results.stability), rank_stability_table(model, results.stability)]
    tables.append(claims_table(model, scores.protocol, results.claims))
    return [*tables, directions_of_claims_table(model, results.along)] if results.along else tables


def _interchange_tables(results: Results) -> list[Table]:
    if not results.interchanged.sets:
        return []
    model, found = results.lm.name, results.interchanged
    neurons = results.explanation.shares.neurons
    tables = [interchange_table(model, found, results.outcomes, results.scores, neurons=neurons)]
    if found.carriers is not None:
        tables.append(mediation_table(model, found.carriers, found.groups))
    return tables


def pictures_of(results: Results) -> list[Picture]:
    """The paper's figures, in its order; then toxicity, shares of tuning's reduction and stability of groups."""
    explanation, model = results.explanation, results.lm.name
    layers = explanation.layers
    first = round(FIRST_BLOCKS * len(layers.reduction))
    pictures = [
        Picture(
            "figure-01-balance-later",
            f"Reduction, increase and net of Δ in the later blocks of {model} (paper, Figure 1)",
            layer_balance(layers, first=first),
            layers.to_polars().filter(pl.col("block") >= first),
        ),
        Picture(
            "figure-02a-proportions",
            f"Share of each group in neurons and in reduction, {model} (paper, Figures 2a and 6a)",
            group_proportions(explanation.shares),
            explanation.shares.to_polars(),
        ),
        Picture(
            "figure-02b-cumulative",
            f"Reduction added up over ranked neurons, {model} (paper, Figures 2b and 6b)",
            cumulative_curves(explanation.cumulative),
            explanation.cumulative.to_polars(),
        ),
    ]
    numbers = {"02c": "Figures 2c and 6c", "07a": "Figure 7a", "07b": "Figure 7b"}
    everything = explanation.ranges.to_polars()
    shifts = [
        Picture(
            f"figure-{number}-shifts",
            f"Activation shifts of the neurons ranked {one.used}, {model} (paper, {figures})",
            range_shifts(one),
            everything.filter(pl.col("printed") == str(one.printed)),
        )
        for (number, figures), one in zip(numbers.items(), explanation.ranges.ranges, strict=True)
    ]
    pictures.append(shifts[0])
    pictures += [
        Picture(
            "figure-03-toxic-activations",
            f"Mean activations of the 100 neurons of highest cosine with the direction, {model} (paper, Figure 3)",
            toxic_activations(explanation.top),
            explanation.top.to_polars(),
        ),
        Picture(
            "figure-04-density",
            f"Density of activation shifts over all neurons, {model} (paper, Figure 4)",
            density_curve(explanation.density),
            explanation.density.to_polars(),
        ),
        Picture(
            "figure-05-balance",
            f"Reduction, increase and net of Δ in every block of {model} (paper, Figure 5)",
            layer_balance(layers),
            layers.to_polars(),
        ),
        *shifts[1:],
        Picture(
            "figure-08-groups-by-block",
            f"Reduction of each group in every block of {model} (paper, Figure 8)",
            group_layers(layers),
            layers.to_polars(),
        ),
        _concept_picture(results),
    ]
    parts = [(row, share) for row in results.patches if (share := results.shares.get(row.name)) is not None]
    if parts:
        pictures.append(
            Picture(
                "shares-of-reduction",
                f"Share of tuning's reduction of {results.scores.concept} that each patch makes, {model}",
                share_dots([(row.label, row.role, share) for row, share in parts]),
                pl.DataFrame([{"condition": row.name, **share.to_dict()} for row, share in parts]),
            )
        )
    pictures += _interchange_pictures(results)
    if results.stability.sources:
        pictures.append(
            Picture(
                "stability",
                f"Share of neurons of {model} that keep their group, and their sign of Δ, when something is varied",
                stability_dots(results.stability),
                results.stability.to_polars(),
            )
        )
    return pictures


def _interchange_pictures(results: Results) -> list[Picture]:
    found, model = results.interchanged, results.lm.name
    pictures: list[Picture] = []
    figure = against_frozen(found, results.outcomes)
    if figure is not None:
        pictures.append(
            Picture(
                "interchange",
                f"Share of tuning's reduction that neurons of {model} give, frozen at their means and live",
                figure,
                results.interchange,
            )
        )
    if found.carriers is not None:
        toxic, harmless = found.carriers.texts
        pictures.append(
            Picture(
                "carriers",
                f"Share of tuning's change of log-odds that the first neurons of {model} give by interchange, on "
                f"{toxic} toxic and {harmless} harmless texts",
                carriers_curve(found.carriers),
                pl.DataFrame([asdict(point) for point in found.carriers.curve]),
            )
        )
    return pictures


def _concept_picture(results: Results) -> Picture:
    roles = {"steer": "paper", "tuned": "edit", "patch": "part", "control": "control"}
    shown = [row for row in results.conditions if row.role in roles and row.edit is None]
    estimates = {BASE: results.scores.conditions[BASE]["toxicity"]}
    estimates |= {row.name: results.scores.conditions[row.name]["toxicity"] for row in shown}
    rows = [Row("Plain model", "base", estimates[BASE])]
    rows += [Row(row.label, roles[row.role], estimates[row.name]) for row in shown]
    return Picture(
        "toxicity",
        f"Mean {results.scores.concept} of {results.lm.name} under each intervention except edits",
        interval_dots(rows, axis=f"mean {results.scores.concept}, 0 to 1", reference=estimates[BASE].mean),
        pl.DataFrame([{"condition": name, **estimate.to_dict()} for name, estimate in estimates.items()]),
    )
