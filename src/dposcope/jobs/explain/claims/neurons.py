"""The paper's claims that need no intervention: about the direction and about neurons (3.1, 4, 5, E, G, H)."""

from itertools import pairwise
from typing import Any

from dposcope.evaluation.numbers import MEAN, SHARE, count, fact, fixed, percent
from dposcope.evaluation.statistics.comparisons import wilson
from dposcope.jobs.explain.claims.claim import Claim, claim
from dposcope.jobs.explain.explanation import Explanation
from dposcope.jobs.explain.tables.neuron import COSINE, FINE_SHARE, POINTS, with_interval
from dposcope.neurons.contributions import Effect
from dposcope.neurons.groups import Group
from dposcope.neurons.ranks import CumulativeReduction, RangeShifts

LEAST_ACCURACY = 0.905
"""The smallest accuracy that rounds to 91 %. The paper says "over 91 %", and prints 91.0 % for Mistral."""

LEAST_RANKS = 20
"""Fewest ranks to compare early and later ones."""

FIRST_VECTORS, MORE_VECTORS = 128, 256
"""Number of value vectors of the paper's subspace, and twice that number."""


def neuron_claims(explanation: Explanation) -> list[Claim]:
    """Claims that need no intervention."""
    return [
        *_probe(explanation.direction.about.get("quality")),
        claim(
            "4", "Toxic neurons are very few", "fewer than 0.05 % of all neurons (GPT-2: 0.06 %)",
            f"{percent(explanation.toxic_share, 3)} promote a toxic token among the top {explanation.largest_set}",
            explanation.toxic_share < 5e-4, "below 0.05 %",
            measured="share of all neurons", value=explanation.toxic_share,
        ),
        *_how_much_changed(explanation),
        *_groups(explanation),
        *_ranks(explanation.cumulative),
        _oriented(explanation.ranges.ranges[0]),
        *_toxic_activations(explanation),
        *_subspace(explanation),
        *_correlations(explanation),
    ]  # fmt: skip


def _inside(explanation: Explanation, name: str, value: float, least: float, most: float) -> bool | None:
    """Whether a number's interval over prompts lies within bounds; None if the interval contains a bound."""
    low, high = explanation.intervals.get(name, (value, value))
    if least <= low and high <= most:
        return True
    return False if high < least or low > most else None


def _ends(explanation: Explanation, name: str, *, scale: float = 1) -> dict[str, float]:
    """`low` and `high` for a claim; empty without an interval."""
    if name not in explanation.intervals:
        return {}
    low, high = explanation.intervals[name]
    return {"low": scale * low, "high": scale * high}


def _probe(quality: dict[str, Any] | None) -> list[Claim]:
    """The claim about accuracy. Only a probe has one."""
    if (
        quality is None or not {"test_texts", "accuracy", "majority"} <= quality.keys()
    ):  # as of a direction of one's own
        return []
    texts, accuracy, majority = quality["test_texts"], quality["accuracy"], quality["majority"]
    low, high = (found := wilson(accuracy, texts)).low, found.high
    bound = max(LEAST_ACCURACY, majority)
    return [
        claim(
            "3.1", "The probe tells toxic comments from others", "accuracy 91.0 to 96.1 %, 90.4 % of Jigsaw not toxic",
            f"{SHARE.with_interval(accuracy, low, high)}; the larger class alone {percent(majority)}",
            True if low > bound else False if high < bound else None,
            "accuracy lies above 90.5 % and above the share of the larger class, the interval too",
            measured="accuracy on held-out comments", value=accuracy, low=low, high=high,
        )
    ]  # fmt: skip


def _how_much_changed(explanation: Explanation) -> list[Claim]:
    shares, change = explanation.shares, explanation.change
    return [
        claim(
            "5.1", "Value vectors hardly change", "cosine 0.99 before and after",
            f"mean {COSINE.value(change.vector_cosine)}, smallest {COSINE.value(change.vector_cosine_min)}",
            change.vector_cosine_min >= 0.985, "every value vector's cosine rounds to 0.99 or more",
            measured="smallest cosine of a value vector with itself", value=change.vector_cosine_min,
        ),
        claim(
            "5.1", "Activations shift slightly", "0.66 to 16.71 %",
            f"{with_interval(explanation.intervals, 'shift_percent', change.shift_percent, POINTS)}, "
            f"median over neurons {POINTS.value(change.median_shift_percent)}",
            _inside(explanation, "shift_percent", change.shift_percent, 0.0, 16.71),
            "mean |shift| over mean |activation| at most 16.71 %, the interval too",
            measured="mean |shift| over mean |activation|", value=change.shift_percent / 100,
            **_ends(explanation, "shift_percent", scale=0.01),
        ),
        claim(
            "5.1", "About half of the neurons reduce, half increase", "51.75 to 58.49 % reduce",
            f"{with_interval(explanation.intervals, 'reducing', shares.share_reducing, FINE_SHARE)} reduce",
            _inside(explanation, "reducing", shares.share_reducing, 0.45, 0.6), "45 to 60 % reduce, the interval too",
            measured="share of all neurons", value=shares.share_reducing, **_ends(explanation, "reducing"),
        ),
        claim(
            "5.1", "The opposing effects leave a net reduction", "net reduction in every model",
            f"Σ Δ = {fact(shares.net)} of {fact(shares.reduction)} reduced", shares.net > 0, "Σ Δ > 0",
            measured="Σ Δ, in the stream's unit", value=shares.net,
        ),
    ]  # fmt: skip


def _groups(explanation: Explanation) -> list[Claim]:
    shares, layers = explanation.shares, explanation.layers
    reducing = {share.group.group: share for share in shares.groups if share.group.effect is Effect.REDUCES}
    leading = reducing[Group.TP].of_contribution + reducing[Group.AN].of_contribution
    blocks = len(layers.reduction)
    half = blocks // 2  # the middle block of an odd number is in neither
    early, late = float(layers.reduction[:half].sum()), float(layers.reduction[blocks - half :].sum())
    return [
        claim(
            "5.2", "Half of the mean activations are negative, or more", "49.94 to 50.03 % (GPT-2: 87.28 %)",
            with_interval(explanation.intervals, "negative", shares.negative_before, FINE_SHARE),
            _inside(explanation, "negative", shares.negative_before, 0.45, 1.0), "45 % or more, the interval too",
            measured="share of all neurons", value=shares.negative_before, **_ends(explanation, "negative"),
        ),
        claim(
            "5.2", "TP↓ and AN↓ carry most of the reduction", "in three of four models",
            f"{percent(leading)} of it", leading > 0.55, "more than 55 % of it, where an even split gives 50 %",
            measured="share of Σ Δ over ↓ neurons", value=leading,
        ),
        claim(
            "5.2", "Reduction peaks in later layers", "upward trend, weaker in Gemma-2",
            f"{fact(late)} in the later half, {fact(early)} in the earlier", late > early,
            "neurons ↓ of the later half of the blocks reduce more than those of the earlier",
            measured="Σ Δ over ↓ neurons, later half − earlier", value=late - early,
        ),
    ]  # fmt: skip


def _ranks(cumulative: CumulativeReduction) -> list[Claim]:
    """Figures 2b and 6b. Early: the first tenth of the ranks that the figure shows."""
    last = cumulative.paper_rank
    if last < LEAST_RANKS:
        return []
    end = cumulative.ranks.tolist().index(last)
    early = int((cumulative.ranks <= max(1, last // 10)).sum()) - 1
    shares = {group: (float(part[early]), float(part[end] - part[early])) for group, part in cumulative.groups.items()}
    first, later = (sum(pair[place] for pair in shares.values()) for place in (0, 1))
    if first <= 0 or later <= 0:
        return []
    at_first = {group: pair[0] / first for group, pair in shares.items()}
    gain = shares[Group.AN][1] / later - at_first[Group.AN]
    leads = max(at_first, key=lambda group: at_first[group])
    return [
        claim(
            "5.2", "TP↓ leads the early ranks, AN↓ gains in later ones", "in three of four models (Figures 2b and 6b)",
            f"{leads}↓ leads the first {count(int(cumulative.ranks[early]))} with {percent(at_first[leads])}; AN↓ "
            f"{percent(at_first[Group.AN])} there, {percent(shares[Group.AN][1] / later)} in the rest to rank "
            f"{count(last)}",
            leads is Group.TP and gain > 0,
            "of the reduction by the figure's ranks, TP↓ has the largest part in the first tenth, and AN↓ a larger "
            "part in the rest than there",
            measured="AN↓'s part of the reduction, later minus early", value=gain,
        )
    ]  # fmt: skip


def _oriented(one: RangeShifts) -> Claim:
    """Figure 2c. If a value vector does not change, the sign of its cosine decides which way a ↓ neuron shifts."""
    shares = {
        group: float((one.of(group) > 0 if group in (Group.TP, Group.TN) else one.of(group) < 0).double().mean())
        for group in Group
        if len(one.of(group))
    }
    least = min(shares.values(), default=None)
    return claim(
        "5.2", "Groups shift as their value vectors point: T falls, A rises", "in every model (Figures 2c and 6c)",
        f"{'; '.join(f'{group}↓ {percent(share)}' for group, share in shares.items()) or '–'} (ranks {one.used})",
        None if least is None else least > 0.5,
        "in each group, most neurons of the figure's ranks do; they must, if value vectors do not change",
        measured="share of a group's neurons, the least of the four", value=least,
    )  # fmt: skip


def _toxic_activations(explanation: Explanation) -> list[Claim]:
    top = explanation.top
    before, after = top.negative_before, top.negative_after
    return [
        claim(
            "E", "Most of the 100 most toxic neurons are negative, before and after", "the majority (GPT-2)",
            f"{percent(before)} of {len(top.before)} before, {percent(after)} after", min(before, after) > 0.5,
            "more than half, both times", measured="share of them, the lesser of before and after",
            value=min(before, after),
        )
    ]  # fmt: skip


def _subspace(explanation: Explanation) -> list[Claim]:
    conflicts = [
        claim(
            "G", f"Along the axes of the SVD subspace, signs of {name} conflict", paper,
            f"{percent(signs.share)}; random axes {percent(signs.random_share)}; chance {percent(signs.chance)}",
            signs.share > max(signs.random_share, signs.chance) + 0.01,
            "more often than by chance and along random axes, by a point",
            measured="share of all neurons, minus the larger of chance and random axes",
            value=signs.share - max(signs.random_share, signs.chance),
        )
        for name, paper, signs in (
            ("alignment", "74.7 % (GPT-2)", explanation.alignment),
            ("the change of projection", "74.3 % (GPT-2)", explanation.changes),
        )
    ]  # fmt: skip
    turns = dict(zip(pairwise(explanation.stability.sizes), explanation.stability.angles.tolist(), strict=True))
    angles = turns.get((FIRST_VECTORS, MORE_VECTORS))
    if angles is None:  # a small model has other sizes
        return conflicts
    stable = claim(
        "G", f"The SVD subspace of {FIRST_VECTORS} value vectors is stable", "without a number (GPT-2)",
        f"turns by up to {fixed(max(angles), 1)}° with {MORE_VECTORS}; two random ones by "
        f"{fixed(float(explanation.stability.random_angles.max()), 1)}°",
        max(angles) < 45, "with twice as many value vectors, every axis turns by less than 45°",
        measured="largest principal angle, degrees", value=max(angles),
    )  # fmt: skip
    return [stable, *conflicts]


def _correlations(explanation: Explanation) -> list[Claim]:
    cosine, activation = explanation.correlations.cosine.r, explanation.correlations.activation.r
    return [
        claim(
            "H", "Shifts do not go with a neuron's toxicity", "r = 0.001 to 0.004",
            "–" if cosine is None else f"r = {with_interval(explanation.intervals, 'r_cosine', cosine, MEAN)}",
            None if cosine is None else _inside(explanation, "r_cosine", cosine, -0.05, 0.05),
            "|r| at most 0.05, the interval too", measured="Pearson r", value=cosine, **_ends(explanation, "r_cosine"),
        ),
        claim(
            "H", "Shifts go weakly with the activation before", "r = 0.033 to 0.347",
            "–"
            if activation is None
            else f"r = {with_interval(explanation.intervals, 'r_activation', activation, MEAN)}",
            None if activation is None else _inside(explanation, "r_activation", activation, 0.02, 0.4),
            "r from 0.02 to 0.4, the interval too",
            measured="Pearson r", value=activation, **_ends(explanation, "r_activation"),
        ),
    ]  # fmt: skip
