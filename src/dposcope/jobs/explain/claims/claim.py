"""What the paper claims, claim by claim, and whether it holds on the models at hand (paper, sections 3 to 6).

Every claim is a rule on measured numbers, drawn so that the paper's own numbers meet it in the models for which the
paper makes the claim; where they do not, its numbers say so. What the paper says of DPO is asked of the tuned model,
however it was tuned. Where an interval straddles the rule's bound, nothing can be said: such a claim is open, neither
held nor refuted. Claims about neurons rest on whole models, not on samples of them, and have no interval. Which
condition a claim is about is fixed beforehand: among many, one lies below any bound by chance.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import polars as pl

from dposcope.evaluation.statistics import Difference, Ratio, Share, value_of
from dposcope.report.table import Column, Table

Verdict = Literal["held", "not held", "open"]

Interval = Difference | Ratio | Share
"""A paired number with its 95 % interval."""

Rule = Callable[[Interval], bool | None]

SECTIONS = ("3.1", "4", "5.1", "5.2", "6", "6.1", "6.2", "D", "E", "G", "H", "K")
"""Of the paper, in its order."""


@dataclass(frozen=True)
class Claim:
    """One statement of the paper and what was found."""

    section: str
    says: str
    """The same words for every run, so that runs can be compared."""
    paper: str
    """The paper's numbers."""
    here: str
    """For people."""
    measured: str
    """What `value` is, in a few words."""
    value: float | None
    """The number that the rule is about; None where there is none to be had."""
    low: float | None
    """Of its 95 % interval; None where it has none."""
    high: float | None
    verdict: Verdict
    rule: str
    """When it counts as held."""

    def to_dict(self) -> dict[str, Any]:
        """What `explain.json` has of it."""
        kept = ("section", "here", "measured", "value", "low", "high", "verdict")
        return {"claim": self.says, **{name: value for name, value in asdict(self).items() if name in kept}}


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
    """A claim and its verdict; `holds` None leaves it open."""
    verdict: Verdict = "open" if holds is None else "held" if holds else "not held"
    return Claim(section, says, paper, here, measured, value, low, high, verdict, rule)


def claim_on(
    found: Interval | None,
    section: str,
    says: str,
    paper: str,
    holds: Rule,
    rule: str,
    *,
    measured: str,
    here: str | None = None,
) -> Claim:
    """A claim about a number with an interval; open where there is no number, as `here` then says.

    Args:
        found: the number; None where it means nothing.
        section: of the paper.
        says: what it says.
        paper: its numbers.
        holds: `above`, `below` or `within` a bound.
        rule: the same in words.
        measured: what the number is.
        here: for people. Default: the number as it shows itself.
    """
    shown = str(found) if here is None else here
    if found is None:
        return claim(section, says, paper, shown, None, rule, measured=measured)
    return claim(
        section, says, paper, shown, holds(found), rule,
        measured=measured, value=value_of(found), low=found.low, high=found.high,
    )  # fmt: skip


def above(bound: float) -> Rule:
    """Whether the whole interval lies above the bound; None where it straddles it."""
    return lambda found: True if found.low > bound else False if found.high < bound else None


def below(bound: float) -> Rule:
    """Whether the whole interval lies below the bound; None where it straddles it."""
    return lambda found: True if found.high < bound else False if found.low > bound else None


def within(least: float, most: float) -> Rule:
    """Whether the whole interval lies between two bounds; None where it straddles one."""

    def rule(found: Interval) -> bool | None:
        if least < found.low and found.high < most:
            return True
        return False if found.high < least or found.low > most else None

    return rule


def claims_table(model: str, protocol: str, claims: Sequence[Claim]) -> Table:
    """All claims, in the order given: sentences for people, numbers for programs."""
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
        ("The paper speaks of DPO; asked here of the tuned model. open: the interval does not decide.",),
    )


_SCHEMA = {
    **dict.fromkeys(("model", "protocol", "section", "claim", "paper", "here", "measured"), pl.String),
    **dict.fromkeys(("value", "low", "high"), pl.Float64),
    **dict.fromkeys(("verdict", "rule"), pl.String),
}
