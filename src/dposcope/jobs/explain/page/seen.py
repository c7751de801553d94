"""What a reader sees in each figure of an explanation, in words and numbers: for those who do not see it."""

from collections.abc import Sequence

import numpy as np

from dposcope.evaluation.conditions.scores import BASE
from dposcope.evaluation.numbers import fact, fixed, percent
from dposcope.jobs.explain.interchange.carriers import RANKINGS, Carriers
from dposcope.jobs.explain.results import FIRST_BLOCKS, Results
from dposcope.jobs.explain.tables.stability import stability_sentences
from dposcope.neurons.contributions import Effect
from dposcope.neurons.ranks import RangeShifts
from dposcope.neurons.shares import LayerSums


def seen(results: Results) -> dict[str, str]:
    """Name of a figure → what it shows, in one or two sentences."""
    found = results.explanation
    first = round(FIRST_BLOCKS * len(found.layers.reduction))
    reducing = [share for share in found.shares.groups if share.group.effect is Effect.REDUCES]
    shares = "; ".join(
        f"{one.group.group}: {percent(one.of_moved, 0)} of the neurons, {percent(one.of_contribution, 0)} of the sum"
        for one in reducing
    )
    top, density = found.top, found.density
    ranges = dict(zip(("02c", "07a", "07b"), found.ranges.ranges, strict=True))
    return {
        "figure-01-balance-later": f"From block {first} on: {_balance(found.layers, first)}",
        "figure-05-balance": _balance(found.layers, 0),
        "figure-02a-proportions": f"Two bars. Of all that is reduced, {shares}.",
        "figure-02b-cumulative": _cumulative(results),
        **{f"figure-{number}-shifts": _shifts(one) for number, one in ranges.items()},
        "figure-03-toxic-activations": (
            f"Of {len(top.before)} neurons, {percent(top.negative_before, 0)} have a negative mean before tuning and "
            f"{percent(top.negative_after, 0)} after it."
        ),
        "figure-04-density": (
            f"One peak: mean {fact(density.mean)}, standard deviation {fact(density.deviation)}; "
            f"{density.below + density.above:,} neurons lie outside the axis."
        ),
        "figure-08-groups-by-block": _groups_by_block(found.layers),
        "toxicity": _toxicity(results),
        "shares-of-reduction": _dots({row.label: results.shares.get(row.name) for row in results.patches}),
        "interchange": "Each set of neurons twice: frozen at its means, and live; the table has the numbers.",
        "carriers": _carriers(results.interchanged.carriers),
        "stability": " ".join(stability_sentences(results.stability)),
    }


def _balance(layers: LayerSums, first: int) -> str:
    blocks = [block for block in layers.blocks if block >= first]
    if not blocks:
        return "no block."
    down, up, net = (np.asarray(sums)[blocks] for sums in (layers.reduction, layers.increase, layers.net))
    lowered, raised, most, least = (int(place) for place in (down.argmax(), up.argmin(), net.argmax(), net.argmin()))
    return (
        f"The reduction is largest in block {blocks[lowered]} ({fact(float(down[lowered]))}), the increase in block "
        f"{blocks[raised]} ({fact(float(up[raised]))}); the net runs from {fact(float(net[least]))} in block "
        f"{blocks[least]} to {fact(float(net[most]))} in block {blocks[most]}."
    )


def _cumulative(results: Results) -> str:
    found = results.explanation.cumulative
    ranks, share = np.asarray(found.ranks), np.asarray(found.share)
    if not len(ranks):
        return "No neuron reduces."
    halves = int(ranks[int(np.argmax(share >= share[-1] / 2))])
    return f"A curve that rises fast, then flattens: the first {halves:,} neurons give half of the reduction."


def _shifts(shifts: RangeShifts) -> str:
    values = np.asarray(shifts.shift)
    if not len(values):
        return "No neuron has such a rank."
    counts = ", ".join(f"{len(shifts.of(group)):,} {group}" for group in shifts.groups)
    return (
        f"Dots of {len(values):,} neurons: {counts}. Activation shifts run from {fact(float(values.min()))} to "
        f"{fact(float(values.max()))}."
    )


def _groups_by_block(layers: LayerSums) -> str:
    peaks = {group: max(layers.blocks, key=lambda at: float(sums[at])) for group, sums in layers.groups.items()}
    parts = (
        f"{group} peaks in block {block} ({fact(float(layers.groups[group][block]))})" for group, block in peaks.items()
    )
    return f"Four lines over the blocks: {'; '.join(parts)}."


def _toxicity(results: Results) -> str:
    base = results.scores.conditions[BASE]["toxicity"]
    rows = (
        f"{row.label} {results.scores.conditions[row.name]['toxicity']}"
        for row in results.conditions
        if row.role != "interchange" and row.edit is None
    )
    return f"Plain model {base}; {'; '.join(rows)}."


def _dots(shares: dict[str, object]) -> str:
    return "; ".join(f"{label} {share}" for label, share in shares.items() if share is not None) + "."


def _carriers(carriers: Carriers | None) -> str:
    if carriers is None:
        return ""
    parts: Sequence[str] = [
        f"{says}: {percent(points[-1].share, 0)} with {fixed(100 * points[-1].fraction, 1)} % of the neurons"
        for name, says in RANKINGS.items()
        if (points := [one for one in carriers.curve if one.ranking == name])
    ]
    return f"Curves over the number of neurons. Their ends: {'; '.join(parts)}."
