"""The rules of claims, and their table."""

import polars as pl
import pytest

from dposcope.evaluation.statistics.intervals import Difference, Ratio, Share
from dposcope.jobs.explain.claims.claim import above, below, claim, claim_on, claims_table, within

KINDS = (Difference, Ratio, Share)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("low", "high", "verdicts"),
    [
        (0.6, 0.8, ("held", "not held", "held")),
        (0.1, 0.4, ("not held", "held", "not held")),
        (1.1, 1.2, ("held", "not held", "not held")),
        (0.4, 0.6, ("open", "open", "open")),
        (0.9, 1.1, ("held", "not held", "open")),
        (0.1, 1.1, ("open", "open", "open")),
        (0.5, 0.5, ("open", "open", "open")),
    ],
)
def test_the_whole_interval_decides(kind, low, high, verdicts):
    found = kind(0.7, low, high, 9)
    rules = (above(0.5), below(0.5), within(0.5, 1))
    made = [claim_on(found, "4", "s", "p", rule, "r", measured="m") for rule in rules]
    assert tuple(one.verdict for one in made) == verdicts
    assert {(one.value, one.low, one.high, one.here) for one in made} == {(0.7, low, high, str(found))}


def test_what_has_no_number_is_open():
    made = claim_on(None, "4", "s", "p", above(0), "r", measured="m", here="too few")
    assert (made.verdict, made.here, made.value, made.low, made.high) == ("open", "too few", None, None, None)


def test_the_table_has_sentences_for_people_and_numbers_for_programs():
    claims = [
        claim("4", "few", "< 1", "0.5", True, "below 1", measured="share", value=0.5),
        claim_on(Share(0.2, 0.1, 0.3, 9), "6", "less", "–", above(0.5), "above", measured="part", here="words"),
        claim("H", "none", "–", "–", None, "|r|", measured="r"),
    ]
    table = claims_table("m", "reference", claims)
    assert table.rows == (
        ("4", "few", "< 1", "0.5", "held", "below 1"),
        ("6", "less", "–", "words", "not held", "above"),
        ("H", "none", "–", "–", "open", "|r|"),
    )
    frame = table.to_polars()
    assert frame.columns == [
        *("model", "protocol", "section", "claim", "paper", "here"),
        *("measured", "value", "low", "high", "verdict", "rule"),
    ]
    assert frame.select("section", "claim", "paper", "here", "verdict", "rule").rows() == list(table.rows)
    assert frame.select("measured", "value", "low", "high").rows() == [
        ("share", 0.5, None, None),
        ("part", 0.2, 0.1, 0.3),
        ("r", None, None, None),
    ]
    assert set(frame.select("model", "protocol").rows()) == {("m", "reference")}
    assert claims[1].to_dict() == {
        **{"section": "6", "claim": "less", "here": "words", "verdict": "not held"},
        **{"measured": "part", "value": 0.2, "low": 0.1, "high": 0.3},
    }


def test_a_table_without_numbers_has_the_same_types():
    whole = claims_table("m", "strict", [claim("4", "s", "p", "h", True, "r", measured="m", value=1)]).to_polars()
    for claims in ([], [claim("H", "s", "p", "h", None, "r", measured="r")]):
        assert claims_table("m", "strict", claims).to_polars().schema == whole.schema
    assert whole.schema["value"] == pl.Float64
