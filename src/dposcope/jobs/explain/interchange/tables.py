"""What each set gives of tuning's reduction: by live interchange, and frozen at its means as the paper patches."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import polars as pl
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from dposcope.errors import DposcopeError
from dposcope.evaluation.conditions.outcome import Outcome
from dposcope.evaluation.conditions.scores import Scores
from dposcope.evaluation.numbers import COUNT, DIFFERENCE, SHARE, Format
from dposcope.evaluation.statistics.comparisons import paired_share
from dposcope.evaluation.statistics.intervals import Share, columns_of
from dposcope.interventions.paired.mediation import MediationShares
from dposcope.jobs.explain.conditions import TUNED
from dposcope.jobs.explain.interchange.carriers import RANKINGS, Carriers
from dposcope.jobs.explain.interchange.sets import MEASURED, InterchangeSet
from dposcope.neurons.sets import NeuronSet
from dposcope.report.costs import scorer_label
from dposcope.report.figures import COLOURS, INK, MARKERS, MUTED, house_style, name_rows, one_axes
from dposcope.report.table import Column, Table, frame_of

NAME, MEDIATION = "interchange", "mediation"
"""Of the tables."""

_STYLES = {
    "attribution": (COLOURS["edit"], "D"),
    "contribution": (COLOURS["paper"], "v"),
    "matched": (COLOURS["control"], "^"),
    "random": (COLOURS["base"], "o"),
}
"""Ranking → colour and marker."""


@dataclass(frozen=True, eq=False)
class Interchanged:
    """What was measured of the sets."""

    sets: Sequence[InterchangeSet]
    carriers: Carriers | None
    """None where the neurons could not be ranked."""

    @property
    def groups(self) -> dict[str, NeuronSet]:
        """Label → neurons of the sets that the paper patches, without controls."""
        return {
            one.label: one.parts.neurons
            for one in self.sets
            if one.patch is not None and one.parts.neurons is not None and not one.control and not one.reverse
        }


def share_of(outcomes: Mapping[str, Outcome], name: str, scorer: str, *, reverse: bool = False) -> Share | None:
    """A condition's share of the tuned model's reduction; None where that reduction is not significantly above 0.

    Args:
        outcomes: of all conditions, the plain and the tuned model among them.
        name: the condition.
        scorer: the measure.
        reverse: the share of the reduction that the condition undoes.
    """
    base, part, whole = (outcomes[one].per_prompt[scorer] for one in ("none", name, TUNED))
    try:
        share = paired_share(base, part, whole)
    except DposcopeError:
        return None
    return Share(1 - share.share, 1 - share.high, 1 - share.low, share.n) if reverse else share


def interchange_frame(interchanged: Interchanged, outcomes: Mapping[str, Outcome], scores: Scores) -> pl.DataFrame:
    """One row a set and scorer: see docs/reference/files.md for the columns."""
    lines: list[dict[str, object]] = []
    for one in interchanged.sets:
        rises = scores.against_none[one.condition].differences
        for scorer in scores.scorers:
            share = share_of(outcomes, one.condition, scorer, reverse=one.reverse)
            lines.append(
                {
                    "set": one.name,
                    "label": one.label,
                    "neurons": one.neurons,
                    "control": one.control,
                    "reverse": one.reverse,
                    "scorer": scorer,
                    **columns_of("share", share),
                    **columns_of("logppl", rises["logppl"]),
                    **columns_of("harmless_logppl", rises.get("harmless_logppl")),
                }
            )
    frame = frame_of(lines)
    return frame.rename({"share_low": "low", "share_high": "high"})


def interchange_table(
    model: str, interchanged: Interchanged, outcomes: Mapping[str, Outcome], scores: Scores, *, neurons: int
) -> Table:
    """A row a set: its share frozen at means (paper), its share live by every scorer, and its cost.

    Args:
        model: named in the title.
        interchanged: the sets.
        outcomes: of all conditions.
        scores: of all conditions.
        neurons: of the model.
    """
    lines: list[dict[str, object]] = []
    for one in interchanged.sets:
        rises = scores.against_none[one.condition].differences
        frozen = one.patch if one.patch in outcomes else None
        count = one.neurons
        lines.append(
            {
                "set": one.name,
                "label": one.label,
                "neurons": count,
                "of_all": None if count is None else count / neurons,
                **columns_of("frozen", None if frozen is None else share_of(outcomes, frozen, "toxicity")),
                **columns_of(
                    "frozen_rise", None if frozen is None else scores.against_none[frozen].differences["logppl"]
                ),
            }
        )
        for scorer in scores.scorers:
            lines[-1] |= columns_of(f"live_{scorer}", share_of(outcomes, one.condition, scorer, reverse=one.reverse))
        lines[-1] |= columns_of("rise", rises["logppl"])
        lines[-1] |= columns_of("harmless_rise", rises.get("harmless_logppl"))
    names = {"toxicity": "interchange: share"} | {
        name: f"interchange, {scorer_label(name)}" for name in scores.scorers[1:]
    }
    return Table(
        NAME,
        f"Shares of tuning's reduction that parts of {model} give, live and frozen.",
        frame_of(lines),
        (
            Column("label", "takes the tuned model's values"),
            Column("neurons", "neurons", COUNT),
            Column("of_all", "of all", Format("percent", 1)),
            Column.measured("frozen", "frozen at means (paper): share", SHARE),
            Column.measured("frozen_rise", "log-PPL, frozen", DIFFERENCE),
            *(Column.measured(f"live_{name}", label, SHARE) for name, label in names.items()),
            Column.measured("rise", "log-PPL", DIFFERENCE),
            Column.measured("harmless_rise", "harmless log-PPL", DIFFERENCE),
        ),
        (
            "Interchange: at every position the parts take the value that they have in the tuned model on the same "
            "tokens; everything else is the base's. Frozen: the neurons are set to their means after tuning (paper, "
            "3.3). Log-PPL: rise over the plain model, nats per token. Reverse: the tuned model takes the base's "
            "values, and the share is what that undoes. –: not measured, or tuning's own reduction is not "
            "significantly above 0.",
        ),
    )


def mediation_table(model: str, carriers: Carriers, groups: Mapping[str, NeuronSet]) -> Table:
    """How much of the neurons' change is their own, and how much comes from before them: all, groups, ranked, by block.

    Args:
        model: named in the title.
        carriers: with the sums of every neuron.
        groups: label → neurons.
    """
    found = carriers.mediation
    sets = {
        "all neurons": None,
        **{label: neurons.mask for label, neurons in groups.items() if len(neurons)},
        **{
            f"{100 * fraction:g} % of neurons, {RANKINGS['attribution']}": carriers.rankings.first(
                "attribution", fraction
            ).mask
            for fraction in MEASURED
        },
    }
    lines: list[dict[str, Any]] = []
    # Where nothing changed, also not in the whole model, there are no parts of the change.
    unknown = dict.fromkeys(one.name for one in fields(MediationShares))
    for label, mask in sets.items():
        changed = float(found.change.sum() if mask is None else found.change[mask].sum())
        lines.append({"neurons": label} | (unknown if changed <= 0 else asdict(found.shares(mask))))
    for block, shares in enumerate(found.by_block):
        lines.append({"neurons": f"block {block}"} | (unknown if shares is None else asdict(shares)))
    return Table(
        MEDIATION,
        f"How much of the change of {model}'s neurons is their own, and how much comes from before them.",
        frame_of(lines),
        (
            Column("neurons", "neurons"),
            Column("own", "own weights", SHARE),
            Column("before", "from before", SHARE),
            Column("interaction", "both together", SHARE),
        ),
        (
            "Own: the tuned MLP's weights on the base's input. From before: the base's weights on the tuned model's "
            "input. Parts of Σ change² over all positions of the texts; together 100 per cent.",
        ),
    )


def against_frozen(interchanged: Interchanged, outcomes: Mapping[str, Outcome]) -> Figure | None:
    """Shares of the same neurons, frozen at their means and live; None where no set has both."""
    rows = [
        (one.label, frozen, live)
        for one in interchanged.sets
        if one.patch is not None
        and one.patch in outcomes
        and (frozen := share_of(outcomes, one.patch, "toxicity")) is not None
        and (live := share_of(outcomes, one.condition, "toxicity")) is not None
    ]
    if not rows:
        return None
    with house_style():
        figure, axes = one_axes(1.1 + 0.42 * len(rows))
        axes.axvline(100, color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)))
        axes.axvline(0, color=MUTED, linewidth=0.9)
        for place, (_, frozen, live) in enumerate(rows):
            for share, role, shift in ((frozen, "control", -0.14), (live, "edit", 0.14)):
                colour, row = COLOURS[role], place + shift
                axes.plot([100 * share.low, 100 * share.high], [row, row], color=colour, linewidth=2)
                label = {"control": "frozen at means", "edit": "live"}[role] if place == 0 else None
                axes.plot([100 * share.share], [row], MARKERS[role], color=colour, linestyle="none", label=label)
        name_rows(axes, [label for label, _, _ in rows])
        axes.grid(axis="x")
        axes.set_xlabel("share of the reduction, per cent")
        # From the right: long names of rows leave the axes little room.
        axes.legend(loc="lower right", bbox_to_anchor=(1, 1.0), ncols=2, frameon=False)
        return figure


def carriers_curve(carriers: Carriers) -> Figure:
    """How much of tuning's change the first neurons of each ranking give, over their number."""
    with house_style():
        figure, axes = one_axes(3.2)
        axes.axhline(100, color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)))
        for name, says in RANKINGS.items():
            points = [point for point in carriers.curve if point.ranking == name]
            colour, marker = _STYLES.get(name, (INK, "o"))
            axes.plot(
                [100 * point.fraction for point in points],
                [100 * point.share for point in points],
                color=colour,
                marker=marker,
                markersize=5,
                linewidth=1.6,
                label=says,
            )
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.grid()
        axes.set_xlabel("neurons, per cent of all")
        axes.set_ylabel("share of tuning's change, per cent")
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=1, frameon=False)
        return figure
