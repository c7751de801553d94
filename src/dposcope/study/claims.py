"""What the paper claims, claim by claim, and whether it holds on the models at hand (paper, sections 4 to 6).

Every claim is a rule on measured numbers, drawn so that the paper's own numbers meet it in the models for which the
paper makes the claim; where they do not, its numbers say so. What the paper says of DPO is asked of the tuned model,
however it was tuned. Where an interval straddles the rule's bound, nothing can be said: such a claim is open, neither
held nor refuted. Claims about neurons rest on whole models, not on samples of them, and have no interval.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import polars as pl

from dposcope.evaluation.statistics import Difference, Share, paired_difference
from dposcope.evaluation.suite import BASE, Outcome, Scores
from dposcope.neurons.contributions import Effect
from dposcope.neurons.groups import Group
from dposcope.study.explain_conditions import TUNED, ExplainCondition
from dposcope.study.explanation import Explanation
from dposcope.study.intervention_tables import best_edit, strongest_steering, tuning_reduces
from dposcope.study.neuron_tables import percent
from dposcope.study.numbers import fact, fixed
from dposcope.study.patches import FOUR_GROUPS
from dposcope.study.table import Table

Verdict = Literal["held", "not held", "open"]

SMALL_SHARE = 0.25
"""Of DPO's reduction, what toxic neurons make is "little" below this; the paper's largest is 23.9 %."""
CLOSE_SHARE = 0.85
"""What four groups make is "close to DPO or more" above this; the paper's smallest is 85.5 %."""
SMALL_RISE = 0.05
"""In log-perplexity; the paper's largest is 0.02."""
KEPT_F1 = 0.85
"""Of the plain model's F1, what is left after a "slight" decrease; the paper's least is 0.87."""

_UNCERTAIN = "the tuned model's own reduction cannot be told from 0"


@dataclass(frozen=True)
class Claim:
    """One statement of the paper and what was found."""

    section: str
    says: str
    paper: str
    """The paper's numbers."""
    here: str
    verdict: Verdict
    rule: str
    """When it counts as held."""


@dataclass(frozen=True, eq=False)
class Measured:
    """What claims about interventions rest on."""

    outcomes: Mapping[str, Outcome]
    scores: Scores
    conditions: Sequence[ExplainCondition]
    shares: Mapping[str, Share | None]


def neuron_claims(found: Explanation) -> list[Claim]:
    """Claims that need no intervention."""
    shares, change, layers = found.shares, found.change, found.layers
    cosine, activation = found.correlations.cosine.r, found.correlations.activation.r
    reducing = {share.group.group: share for share in shares.groups if share.group.effect is Effect.REDUCES}
    leading = reducing[Group.TP].of_contribution + reducing[Group.AN].of_contribution
    blocks = len(layers.reduction)
    half = blocks // 2  # the middle block of an odd number is in neither
    early, late = float(layers.reduction[:half].sum()), float(layers.reduction[blocks - half :].sum())
    return [
        _claim(
            "4", "Toxic neurons are very few", "fewer than 0.05 % of all neurons (GPT-2: 0.06 %)",
            f"{percent(found.toxic_share, 3)} promote a toxic token among the top {found.largest_set}",
            found.toxic_share < 5e-4, "below 0.05 %",
        ),
        _claim(
            "5.1", "Value vectors hardly change", "cosine 0.99 before and after",
            f"mean {fixed(change.vector_cosine, 5)}, smallest {fixed(change.vector_cosine_min, 5)}",
            change.vector_cosine_min >= 0.985, "every value vector's cosine rounds to 0.99 or more",
        ),
        _claim(
            "5.1", "Activations shift slightly", "0.66 to 16.71 %",
            f"{fixed(change.shift_percent, 2)} % (median over neurons {fixed(change.median_shift_percent, 2)} %)",
            change.shift_percent <= 16.71, "mean |shift| over mean |activation| at most 16.71 %",
        ),
        _claim(
            "5.1", "About half of the neurons reduce, half increase", "51.75 to 58.49 % reduce",
            f"{percent(shares.share_reducing, 2)} reduce", 0.45 <= shares.share_reducing <= 0.6, "45 to 60 % reduce",
        ),
        _claim(
            "5.1", "The opposing effects leave a net reduction", "net reduction in every model",
            f"Σ Δ = {fact(shares.net)} of {fact(shares.reduction)} reduced", shares.net > 0, "Σ Δ > 0",
        ),
        _claim(
            "5.2", "Half of the mean activations are negative, or more", "49.94 to 50.03 % (GPT-2: 87.28 %)",
            percent(shares.negative_before, 2), shares.negative_before >= 0.45, "45 % or more",
        ),
        _claim(
            "5.2", "TP↓ and AN↓ carry most of the reduction", "in three of four models",
            f"{percent(leading)} of it", leading > 0.55, "more than 55 % of it, where an even split gives 50 %",
        ),
        _claim(
            "5.2", "Reduction peaks in later layers", "upward trend, weaker in Gemma-2",
            f"{fact(late)} in the later half, {fact(early)} in the earlier", late > early,
            "neurons ↓ of the later half of the blocks reduce more than those of the earlier",
        ),
        _claim(
            "H", "Shifts do not go with a neuron's toxicity", "r = 0.001 to 0.004",
            "–" if cosine is None else f"r = {fixed(cosine)}",
            None if cosine is None else abs(cosine) < 0.05, "|r| < 0.05",
        ),
        _claim(
            "H", "Shifts go weakly with the activation before", "r = 0.033 to 0.347",
            "–" if activation is None else f"r = {fixed(activation)}",
            None if activation is None else 0.02 < activation < 0.4, "0.02 < r < 0.4",
        ),
        *(
            _claim(
                "G", f"Along the axes of the SVD subspace, signs of {name} conflict", paper,
                f"{percent(signs.share)}; random axes {percent(signs.random_share)}; chance {percent(signs.chance)}",
                signs.share > max(signs.random_share, signs.chance) + 0.01,
                "more often than by chance and along random axes, by a point",
            )
            for name, paper, signs in (
                ("alignment", "74.7 % (GPT-2)", found.alignment),
                ("the change of projection", "74.3 % (GPT-2)", found.changes),
            )
        ),
    ]  # fmt: skip


def patching_claims(measured: Measured) -> list[Claim]:
    """Claims about patches and edits; those whose conditions were not measured are left out."""
    return [
        *_little(
            measured, "patch-toxic-tokens", "Patching neurons with toxic tokens explains little", "0.41 to 19.7 %"
        ),
        *_little(measured, "patch-top-256", "Patching the 256 most toxic neurons explains little", "2.47 to 23.9 %"),
        *_all_groups(measured),
        *_each_adds(measured),
        *_increasing(measured),
        *_beats_steering(measured),
        *_keeps_quality(
            measured, FOUR_GROUPS, "5.2", "Patching all four groups", logppl="−0.03 to +0.02", f1="5 to 12 % lower"
        ),
        *_editing(measured),
    ]


def claims_table(model: str, claims: Sequence[Claim]) -> Table:
    """All claims, in the paper's order of sections."""
    head = ("section", "the paper says", "the paper's numbers", "here", "verdict", "counts as held if")
    rows = tuple((c.section, c.says, c.paper, c.here, c.verdict, c.rule) for c in claims)
    return Table(
        "claims",
        f"The paper's claims, on {model}.",
        pl.DataFrame(rows, schema=["section", "claim", "paper", "here", "verdict", "rule"], orient="row"),
        head,
        rows,
        ("The paper speaks of DPO; asked here of the tuned model. open: the interval does not decide.",),
    )


def _claim(section: str, says: str, paper: str, here: str, holds: bool | None, rule: str) -> Claim:
    verdict: Verdict = "open" if holds is None else "held" if holds else "not held"
    return Claim(section, says, paper, here, verdict, rule)


def _above(low: float, high: float, bound: float) -> bool | None:
    """Whether an interval lies above the bound; None where it straddles it."""
    return True if low > bound else False if high < bound else None


def _below(low: float, high: float, bound: float) -> bool | None:
    return True if high < bound else False if low > bound else None


def _little(measured: Measured, name: str, says: str, paper: str) -> list[Claim]:
    if name not in measured.shares:
        return []
    share, rule = measured.shares[name], "the share of the tuned model's reduction lies below 25 %, the interval too"
    holds = None if share is None else _below(share.low, share.high, SMALL_SHARE)
    return [_claim("4", says, paper, str(share or _UNCERTAIN), holds, rule)]


def _all_groups(measured: Measured) -> list[Claim]:
    if FOUR_GROUPS not in measured.shares:
        return []
    share = measured.shares[FOUR_GROUPS]
    rule = "the share of the tuned model's reduction lies above 85 %, the interval too"
    holds = None if share is None else _above(share.low, share.high, CLOSE_SHARE)
    says, paper = "Patching all four groups comes close to DPO or passes it", "85.5 to 121 % of DPO's reduction"
    return [_claim("5.2", says, paper, str(share or _UNCERTAIN), holds, rule)]


def _each_adds(measured: Measured) -> list[Claim]:
    names = ["patch-TP", "patch-TP+AN", "patch-TP+AN+TN", FOUR_GROUPS]
    if not all(name in measured.outcomes for name in names):
        return []
    steps = [_difference(measured, after, before) for before, after in pairwise([BASE, *names])]
    holds = True if all(step.high < 0 for step in steps) else False if any(step.low > 0 for step in steps) else None
    here = "; ".join(f"{label} {step}" for label, step in zip(("TP↓", "+AN↓", "+TN↓", "+AP↓"), steps, strict=True))
    says = "Each group that is added reduces toxicity further"
    return [_claim("5.2", says, "in every model", here, holds, "every step's paired interval lies below 0")]


def _increasing(measured: Measured) -> list[Claim]:
    if "patch-increasing" not in measured.outcomes:
        return []
    step = _difference(measured, "patch-increasing", BASE)
    says, paper = "Patching the ↑ neurons raises toxicity", "by 0.04 to 0.31"
    holds = _above(step.low, step.high, 0)
    return [_claim("K", says, paper, str(step), holds, "the paired interval lies above 0")]


def _beats_steering(measured: Measured) -> list[Claim]:
    strongest = strongest_steering(measured.conditions, measured.scores)
    if strongest is None or FOUR_GROUPS not in measured.outcomes:
        return []
    step = _difference(measured, FOUR_GROUPS, strongest.name)
    says, paper = "Patching all four groups reduces more than steering does", "by 0.06 to 0.21 (Gemma-2: as much)"
    rule = "paired, against the strongest steering that keeps log-PPL within +0.3 and F1 above 0.95 ×"
    holds = _below(step.low, step.high, 0)
    return [_claim("5.2", says, paper, f"{step} against {strongest.name}", holds, rule)]


def _keeps_quality(measured: Measured, name: str, section: str, what: str, *, logppl: str, f1: str) -> list[Claim]:
    """Two claims: what it does to log-perplexity and to F1, where it was measured."""
    comparison = measured.scores.against_none.get(name)
    if comparison is None:
        return []
    rise, change = comparison.differences["logppl"], comparison.differences["f1"]
    kept = paired_difference(measured.outcomes[name].f1, KEPT_F1 * measured.outcomes[BASE].f1)
    repetition = measured.scores.conditions[name]["repetition"]
    return [
        _claim(
            section, f"{what} leaves log-perplexity alone", f"{logppl} (felt at position 0 of each window alone)",
            str(rise), _below(rise.low, rise.high, SMALL_RISE), "it rises by less than 0.05, the interval too",
        ),
        _claim(
            section, f"{what} lowers F1 slightly", f1, f"{change}, with repetition {repetition}",
            _above(kept.low, kept.high, 0), "F1 stays above 0.85 × that of the plain model, the paired interval too",
        ),
    ]  # fmt: skip


def _editing(measured: Measured) -> list[Claim]:
    edits = [row for row in measured.conditions if row.role == "edit"]
    if not edits:
        return []
    scores = measured.scores
    steps = {row.name: _difference(measured, row.name, TUNED) for row in edits}
    lowest = min(steps, key=lambda name: steps[name].mean)
    lower = [name for name, step in steps.items() if step.high < 0]
    if not tuning_reduces(scores):
        holds, here = None, _UNCERTAIN
    else:
        holds = True if lower else False if all(step.low > 0 for step in steps.values()) else None
        here = f"{len(lower)} of {len(edits)}; the lowest, {lowest}: {steps[lowest]} against the tuned model"
    rule = "the paired interval of one edit at least lies below 0; not, if all lie above it"
    claims = [_claim("6", "Editing reduces more than DPO does", "by 0.05 to 0.20 at β = 0.8", here, holds, rule)]
    best = best_edit(edits, scores)
    if best is not None:
        what = f"The best edit ({best})"
        claims += _keeps_quality(measured, best, "6", what, logppl="−0.05 to +0.02", f1="5 to 13 % lower")
    return claims


def _difference(measured: Measured, after: str, before: str) -> Difference:
    outcomes = measured.outcomes
    return paired_difference(outcomes[after].per_prompt["toxicity"], outcomes[before].per_prompt["toxicity"])
