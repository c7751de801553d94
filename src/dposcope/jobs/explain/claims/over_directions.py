"""Every claim along every direction and by every scorer: which verdicts turn."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import polars as pl

from dposcope.evaluation.conditions.outcome import Outcome
from dposcope.evaluation.conditions.scores import BASE, Scores
from dposcope.jobs.explain.claims.claim import TURNS, Claim, count_of_tests
from dposcope.jobs.explain.claims.neurons import neuron_claims
from dposcope.jobs.explain.claims.patching import toxicity_claims
from dposcope.jobs.explain.conditions import TUNED
from dposcope.jobs.explain.directions import Along, PatchScores
from dposcope.jobs.explain.measured import Measured
from dposcope.jobs.explain.tables.intervention import shares_of_reduction
from dposcope.report.table import Column, Table

OVER = "claims-over-directions"
"""Name of the table."""
NO_SCORER = ""
"""The scorer of a claim about neurons, which no text decides."""


@dataclass(frozen=True)
class ClaimAlong:
    """A claim, judged along one direction, by one scorer."""

    claim: Claim
    direction: str
    scorer: str
    control: bool = False
    """Along a random direction."""


@dataclass(frozen=True, eq=False)
class PatchedAlong:
    """What was found along one direction."""

    along: Along
    scores: PatchScores


def claims_along(found: Sequence[PatchedAlong], outcomes: Mapping[str, Outcome], scores: Scores) -> list[ClaimAlong]:
    """Claims about neurons once a direction, claims about patches once a direction and scorer.

    Args:
        found: of each direction.
        outcomes: of the run, the plain and the tuned model among them.
        scores: of the run.
    """
    rows: list[ClaimAlong] = []
    for one in found:
        name, control = one.along.name, one.along.control
        rows += [ClaimAlong(claim, name, NO_SCORER, control) for claim in neuron_claims(one.along.explanation)]
        for scorer in scores.scorers:
            # The claims read the measure `toxicity`: here it is whatever this scorer says.
            here = {
                condition: replace(outcomes[condition], per_prompt={"toxicity": outcomes[condition].per_prompt[scorer]})
                for condition in (BASE, TUNED)
            } | {
                patch: replace(outcomes[BASE], per_prompt={"toxicity": by[scorer]}) for patch, by in one.scores.items()
            }
            measured = Measured(here, scores, (), shares_of_reduction(here))
            rows += [ClaimAlong(claim, name, scorer, control) for claim in toxicity_claims(measured)]
    return rows


def claims_frame(rows: Sequence[ClaimAlong]) -> pl.DataFrame:
    """One row a claim, direction and scorer: see docs/reference/files.md for the columns."""
    return pl.DataFrame(
        [
            {
                "section": one.claim.section,
                "claim": one.claim.says,
                "direction": one.direction,
                "scorer": one.scorer,
                "measured": one.claim.measured,
                "number": one.claim.value,
                "low": one.claim.low,
                "high": one.claim.high,
                "verdict": one.claim.verdict,
            }
            for one in rows
        ],
        schema={
            **dict.fromkeys(("section", "claim", "direction", "scorer", "measured"), pl.String),
            **dict.fromkeys(("number", "low", "high"), pl.Float64),
            "verdict": pl.String,
        },
    )


def overall(verdicts: Sequence[str]) -> str:
    """One verdict of a claim over directions: `depends on the direction` where it holds along one and not along
    another; the common one where all agree; else open."""
    if {"held", "not held"} <= set(verdicts):
        return TURNS
    return verdicts[0] if len(set(verdicts)) == 1 else "open"


def turning_claims(rows: Sequence[ClaimAlong], scorer: str = "toxicity") -> dict[str, str]:
    """Claim → its verdict over all directions but random ones, by one scorer."""
    verdicts: dict[str, list[str]] = {}
    for one in rows:
        if one.scorer in (NO_SCORER, scorer) and not one.control:
            verdicts.setdefault(one.claim.says, []).append(one.claim.verdict)
    return {says: overall(each) for says, each in verdicts.items()}


def over_directions(claims: Sequence[Claim], rows: Sequence[ClaimAlong]) -> list[Claim]:
    """Claims with the verdict over all directions where it turns. The numbers stay those along the run's own direction.

    Args:
        claims: along the run's own direction.
        rows: along all directions.
    """
    found = turning_claims(rows)
    return [replace(one, verdict=TURNS) if found.get(one.says) == TURNS else one for one in claims]


def directions_of_claims_table(model: str, rows: Sequence[ClaimAlong]) -> Table:
    """A row a claim and a column a direction, by the first scorer, with the verdict over all."""
    found = turning_claims(rows)
    directions = list(dict.fromkeys(one.direction for one in rows))
    keys = {name: name.replace(",", "").replace(" ", "_") for name in directions}
    lines: dict[str, dict[str, str]] = {}
    for one in rows:
        if one.scorer in (NO_SCORER, "toxicity"):
            line = lines.setdefault(one.claim.says, {"section": one.claim.section, "claim": one.claim.says})
            line[keys[one.direction]] = one.claim.verdict
    frame = pl.DataFrame(
        # A claim may be tested along random directions alone: theirs may have a toxic neuron where no other has one.
        [{**line, "over": found.get(says)} for says, line in lines.items()],
        schema=dict.fromkeys(("section", "claim", *keys.values(), "over"), pl.String),
    )
    return Table(
        OVER,
        f"The paper's claims on {model}, along each direction.",
        frame,
        (
            Column("section", "section"),
            Column("claim", "the paper says"),
            *(Column(key, name) for name, key in keys.items()),
            Column("over", "over directions"),
        ),
        (
            f"By the first scorer. {TURNS.capitalize()}: held along one and not held along another; random directions, "
            "which are controls, do not count. –: not tested along this direction. Claims that need editing, steering "
            "or log-perplexity are tested along the run's own direction only. "
            f"{count_of_tests([one.claim for one in rows if one.scorer in (NO_SCORER, 'toxicity')])}",
        ),
    )
