"""The paper's claims, one by one, and whether each holds for the models of this run (paper, sections 3 to 6).

Each claim is tested by a rule on measured numbers. The rule is chosen so that the paper's own numbers pass it, for the
models for which the paper makes the claim; exceptions are listed in `Claim.paper`. The paper's claims about DPO are
tested on the tuned model, no matter how it was tuned. If an interval contains the rule's bound, the claim is open:
neither held nor not held. Some claims about neurons are about all neurons of a model, so they have no interval. The
condition that a claim is tested on is fixed in advance: among many conditions, some pass any bound by chance.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import polars as pl

from dposcope.errors import plural
from dposcope.evaluation.numbers import fixed
from dposcope.evaluation.statistics.intervals import Difference, Ratio, Share, value_of
from dposcope.report.table import Column, Table

TURNS = "depends on the direction"
"""The verdict of a claim that holds along one direction and does not hold along another."""
VERDICTS = ("held", "not held", "open", TURNS)
Verdict = Literal["held", "not held", "open", "depends on the direction"]

Interval = Difference | Ratio | Share
"""A paired number with its 95 % interval."""

Rule = Callable[[Interval], bool | None]

SECTIONS = ("3.1", "4", "5.1", "5.2", "6", "6.1", "6.2", "D", "E", "G", "H", "K")
"""Of the paper, in its order."""


@dataclass(frozen=True)
class Claim:
    """One claim of the paper, with our numbers and the verdict."""

    section: str
    says: str
    """The claim, in the same words for every run, so that runs can be compared."""
    paper: str
    """The paper's numbers."""
    here: str
    """Our numbers, as text."""
    measured: str
    """What `value` is, in a few words."""
    value: float | None
    """The number that the rule tests; None if it could not be measured."""
    low: float | None
    """Lower end of its 95 % interval; None without an interval."""
    high: float | None
    verdict: Verdict
    rule: str
    """The condition under which the claim counts as held, in words."""

    def to_dict(self) -> dict[str, Any]:
        """The fields that `explain.json` holds."""
        names = ("section", "here", "measured", "value", "low", "high", "verdict")
        return {"claim": self.says, **{name: value for name, value in asdict(self).items() if name in names}}


def claim(
    section: str,
    says: str,
    paper: str,
    here: str,
    holds: bool | None,
    rule: str,
    *,
    measured: str,
    value: float | None = None,
    low: float | None = None,
    high: float | None = None,
) -> Claim:
    """A claim with its verdict; open if `holds` is None."""
    verdict: Verdict = "open" if holds is None else "held" if holds else "not held"
    return Claim(section, says, paper, here, measured, value, low, high, verdict, rule)


def claim_on(
    interval: Interval | None,
    section: str,
    says: str,
    paper: str,
    holds: Rule,
    rule: str,
    *,
    measured: str,
    here: str | None = None,
) -> Claim:
    """A claim about a number with an interval; open if there is no number.

    Args:
        interval: the number with its interval; None if it is not defined.
        section: of the paper.
        says: the claim.
        paper: the paper's numbers.
        holds: `above`, `below` or `within` a bound.
        rule: the same in words.
        measured: what the number is.
        here: text for a reader. Default: the number with its interval. Without a number it should say why.
    """
    shown = str(interval) if here is None else here
    if interval is None:
        return claim(section, says, paper, shown, None, rule, measured=measured)
    low, high = interval.ends
    return claim(
        section, says, paper, shown, holds(interval), rule,
        measured=measured, value=value_of(interval), low=low, high=high,
    )  # fmt: skip


def above(bound: float) -> Rule:
    """Whether the whole interval lies above the bound; None if the interval contains the bound."""
    return lambda interval: True if interval.low > bound else False if interval.high < bound else None


def below(bound: float) -> Rule:
    """Whether the whole interval lies below the bound; None if the interval contains the bound."""
    return lambda interval: True if interval.high < bound else False if interval.low > bound else None


def within(least: float, most: float) -> Rule:
    """Whether the whole interval lies between two bounds; None if the interval contains one of them."""

    def rule(interval: Interval) -> bool | None:
        if least < interval.low and interval.high < most:
            return True
        return False if interval.high < least or interval.low > most else None

    return rule


def claims_table(model: str, protocol: str, claims: Sequence[Claim]) -> Table:
    """All claims, in the order given: texts in the view, numbers in the frame."""
    frame = pl.DataFrame(
        [
            {"model": model, "protocol": protocol, "section": c.section, "claim": c.says, "paper": c.paper,
             "here": c.here, "measured": c.measured, "value": c.value, "low": c.low, "high": c.high,
             "verdict": c.verdict, "rule": c.rule}
            for c in claims
        ],
        schema=_SCHEMA,
    )  # fmt: skip
    return Table(
        "claims",
        f"The paper's claims, on {model}.",
        frame,
        (
            Column("section", "section"),
            Column("claim", "the paper says"),
            Column("paper", "the paper's numbers"),
            Column("here", "here"),
            Column("verdict", "verdict"),
            Column("rule", "counts as held if"),
        ),
        (
            "The paper's claims about DPO are tested on the tuned model. open: the interval contains the rule's bound. "
            f"{TURNS}: held along one direction and not held along another; the numbers are those of the run's own. "
            f"{count_of_tests(claims)}",
        ),
    )


def count_of_tests(claims: Sequence[Claim]) -> str:
    """How many claims are decided by an interval, and how many of these decisions chance alone may have made."""
    tests = sum(one.low is not None for one in claims)
    return (
        f"{plural(tests, 'claim')} {'is' if tests == 1 else 'are'} decided by a 95 % interval, without a correction "
        f"for their number: of so many, chance alone decides up to {fixed(0.05 * tests, 1)} wrongly."
    )


_SCHEMA = {
    **dict.fromkeys(("model", "protocol", "section", "claim", "paper", "here", "measured"), pl.String),
    **dict.fromkeys(("value", "low", "high"), pl.Float64),
    **dict.fromkeys(("verdict", "rule"), pl.String),
}
