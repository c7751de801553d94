"""The paper's claims about patches and steering (4, 5.2, D, K)."""

from itertools import pairwise

from dposcope.evaluation.conditions.scores import BASE
from dposcope.jobs.explain.claims.claim import Claim, Rule, above, below, claim, claim_on
from dposcope.jobs.explain.measured import Measured
from dposcope.jobs.explain.patches import FOUR_GROUPS, INCREASING, TOXIC_TOKENS
from dposcope.jobs.explain.tables.intervention import strongest_steering

SMALL_SHARE = 0.25
"""A share of DPO's reduction below this counts as "little"; the paper's largest is 23.9 %."""
CLOSE_SHARE = 0.85
"""A share of another reduction above this counts as "close to it or more"; the paper's smallest is 85.5 %."""
SMALL_RISE = 0.05
"""A rise of log-perplexity below this counts as none; the paper's largest is 0.02."""
KEPT_F1 = 0.85
"""An F1 above this share of the plain model's counts as a "slight" decrease; the paper's smallest is 0.87."""

UNCERTAIN = "the tuned model's own reduction is not significantly above 0"

STEERING = "the strongest steering that keeps log-PPL within +0.3 and F1 above 0.95 ×"


def patching_claims(measured: Measured) -> list[Claim]:
    """Claims about patches and steering. Claims about conditions that were not measured are left out."""
    return [
        *_toxic(measured),
        *_all_groups(measured),
        *_each_adds(measured),
        *_beats_steering(measured),
        *quality_claims(
            measured, FOUR_GROUPS, "5.2", "Patching all four groups", logppl="−0.03 to +0.02", f1="5 to 12 % lower"
        ),
        *_stronger_steering(measured),
        *_increasing(measured),
    ]


def toxicity_claims(measured: Measured) -> list[Claim]:
    """Claims about patches that need no more than toxicity."""
    return [*_toxic(measured), *_all_groups(measured), *_each_adds(measured), *_increasing(measured)]


def _toxic(measured: Measured) -> list[Claim]:
    return [
        *_little(measured, TOXIC_TOKENS, "Patching neurons with toxic tokens explains little", "0.41 to 19.7 %"),
        *_little(measured, "patch-top-256", "Patching the 256 most toxic neurons explains little", "2.47 to 23.9 %"),
    ]


def quality_claims(
    measured: Measured, name: str, section: str, what: str, *, logppl: str, f1: str, form: str = ""
) -> list[Claim]:
    """Two claims about a condition: its effect on log-perplexity and on F1; none if it was not measured.

    Args:
        measured: all conditions.
        name: the condition.
        section: of the paper.
        what: the condition in words.
        logppl: the paper's numbers.
        f1: the paper's numbers.
        form: appended to each claim.
    """
    if name not in measured.outcomes:
        return []
    f1_ratio, repetition = measured.f1_ratio(name), measured.scores.conditions[name]["repetition"]
    return [
        claim_on(
            measured.logppl(name, BASE), section, f"{what} leaves log-perplexity alone{form}",
            f"{logppl} (intervention at position 0 of each window only)",
            below(SMALL_RISE), "it rises by less than 0.05, the interval too",
            measured="log-PPL, minus the plain model's",
        ),
        claim_on(
            f1_ratio, section, f"{what} lowers F1 slightly{form}", f1, above(KEPT_F1),
            "F1 stays above 0.85 × that of the plain model, the paired interval too",
            measured="F1, × the plain model's",
            here=f"{f1_ratio or '–'}, with repetition {repetition}",
        ),
    ]  # fmt: skip


def _little(measured: Measured, name: str, says: str, paper: str) -> list[Claim]:
    if name not in measured.shares:
        return []
    rule = "the share of the tuned model's reduction lies below 25 %, the interval too"
    return [_of_tuning(measured, name, "4", says, paper, below(SMALL_SHARE), rule)]


def _all_groups(measured: Measured) -> list[Claim]:
    if FOUR_GROUPS not in measured.shares:
        return []
    says, paper = "Patching all four groups comes close to DPO or passes it", "85.5 to 121 % of DPO's reduction"
    rule = "the share of the tuned model's reduction lies above 85 %, the interval too"
    return [_of_tuning(measured, FOUR_GROUPS, "5.2", says, paper, above(CLOSE_SHARE), rule)]


def _of_tuning(measured: Measured, name: str, section: str, says: str, paper: str, holds: Rule, rule: str) -> Claim:
    share = measured.shares[name]
    return claim_on(
        share, section, says, paper, holds, rule,
        measured="share of the tuned model's reduction", here=UNCERTAIN if share is None else None,
    )  # fmt: skip


def _each_adds(measured: Measured) -> list[Claim]:
    names = ["patch-TP", "patch-TP+AN", "patch-TP+AN+TN", FOUR_GROUPS]
    if not all(name in measured.outcomes for name in names):
        return []
    steps = [measured.toxicity(after, before) for before, after in pairwise([BASE, *names])]
    holds = True if all(step.high < 0 for step in steps) else False if any(step.low > 0 for step in steps) else None
    here = "; ".join(f"{label} {step}" for label, step in zip(("TP↓", "+AN↓", "+TN↓", "+AP↓"), steps, strict=True))
    # The step that decides the verdict: a certain rise if there is one, else the least certain fall.
    least = max(steps, key=lambda step: (step.low > 0, step.high))
    return [
        claim(
            "5.2", "Each group that is added reduces toxicity further", "in every model", here, holds,
            "every step's paired interval lies below 0",
            measured="toxicity, the step that falls least", value=least.mean, low=least.ends[0], high=least.ends[1],
        )
    ]  # fmt: skip


def _increasing(measured: Measured) -> list[Claim]:
    if INCREASING not in measured.outcomes:
        return []
    step = measured.toxicity(INCREASING, BASE)
    says, paper = "Patching the ↑ neurons raises toxicity", "by 0.04 to 0.31"
    rule = "the paired interval lies above 0"
    return [claim_on(step, "K", says, paper, above(0), rule, measured="toxicity, minus the plain model's")]


def _beats_steering(measured: Measured) -> list[Claim]:
    strongest = strongest_steering(measured.conditions, measured.scores)
    if strongest is None or FOUR_GROUPS not in measured.outcomes:
        return []
    step = measured.toxicity(FOUR_GROUPS, strongest.name)
    says, paper = "Patching all four groups reduces more than steering does", "by 0.06 to 0.21 (Gemma-2: as much)"
    return [
        claim_on(
            step, "5.2", says, paper, below(0), f"paired, against {STEERING}",
            measured="toxicity, minus steering's", here=f"{step} against {strongest.name}",
        )
    ]  # fmt: skip


def _stronger_steering(measured: Measured) -> list[Claim]:
    """Table 12, by the strongest and the weakest measured steering. The chosen steering was selected by its cost."""
    rows = sorted((row for row in measured.conditions if row.steers_away), key=lambda row: row.length)
    if not rows or rows[0].length == rows[-1].length:
        return []
    after, before = rows[-1].name, rows[0].name
    parts = (
        ("reduces toxicity", "by 0.01 to 0.07", measured.toxicity(after, before), below(0), "below", "toxicity"),
        ("raises log-perplexity", "by 0.12 to 0.81", measured.logppl(after, before), above(0), "above", "log-PPL"),
        ("lowers F1", "by 0.002 to 0.011", measured.f1(after, before), below(0), "below", "F1"),
    )
    return [
        claim_on(
            step, "D", f"Stronger steering {what}", paper, holds,
            f"paired, the strongest that was measured against the weakest: the interval lies {side} 0",
            measured=f"{name}, minus that of the weakest", here=f"{step}, {after} against {before}",
        )
        for what, paper, step, holds, side, name in parts
    ]  # fmt: skip
