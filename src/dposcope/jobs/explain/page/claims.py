"""The claims on the page: each with its verdict, along every direction that was tested."""

from dposcope.evaluation.numbers import NOTHING
from dposcope.jobs.explain.claims.claim import TURNS, count_of_tests
from dposcope.jobs.explain.claims.over_directions import NO_SCORER
from dposcope.jobs.explain.results import Results
from dposcope.report.browser.explained import ClaimView


def directions_of(results: Results) -> list[str]:
    """Names of the directions, random ones last."""
    ordered = sorted(results.along, key=lambda one: one.control)
    return list(dict.fromkeys(one.direction for one in ordered))


def claim_views(results: Results) -> list[ClaimView]:
    """All claims in the paper's order; the verdicts along directions are by the first scorer."""
    directions = directions_of(results)
    along = {
        (one.claim.says, one.direction): one.claim.verdict
        for one in results.along
        if one.scorer in (NO_SCORER, "toxicity")
    }
    return [
        ClaimView(
            one.section,
            one.says,
            one.verdict,
            one.here or NOTHING,
            one.paper,
            one.rule,
            tuple(along.get((one.says, name), "") for name in directions),
        )
        for one in results.claims
    ]


def claims_note(results: Results) -> str:
    """How to read the verdicts."""
    turns = f" {TURNS.capitalize()}: it holds along one direction and not along another." if results.along else ""
    return f"Open: the interval contains the bound of the rule.{turns} {count_of_tests(results.claims)}"
