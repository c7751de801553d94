"""Which verdicts turn with the direction, from claims made by hand."""

import numpy as np
import pytest

from dposcope.jobs.explain.claims.claim import TURNS, claim, claims_table
from dposcope.jobs.explain.claims.over_directions import (
    ClaimAlong,
    PatchedAlong,
    claims_along,
    claims_frame,
    directions_of_claims_table,
    over_directions,
    overall,
    turning_claims,
)
from dposcope.jobs.explain.directions import Along
from dposcope.jobs.explain.patches import FOUR_GROUPS, INCREASING, patches
from helpers.changes import family_change
from helpers.explained import START, pair, study


@pytest.mark.parametrize(
    ("verdicts", "one"),
    [
        (["held", "held"], "held"),
        (["not held"], "not held"),
        (["held", "not held", "open"], TURNS),
        (["held", "open"], "open"),
        (["open", "open"], "open"),
    ],
)
def test_a_verdict_turns_only_between_held_and_not_held(verdicts, one):
    assert overall(verdicts) == one
    assert overall(verdicts[::-1]) == one


def said(holds, direction, scorer="toxicity", says="A"):
    made = claim("4", says, "", "", holds, "", measured="m", value=1.0)
    return ClaimAlong(made, direction, scorer, control=direction.startswith("random"))


def test_random_directions_and_other_scorers_turn_nothing():
    rows = [said(True, "probe"), said(True, "token contrast"), said(False, "random 1"), said(False, "probe", "judge")]
    assert turning_claims(rows) == {"A": "held"}
    assert turning_claims([*rows, said(False, "balanced probe")]) == {"A": TURNS}
    assert turning_claims(rows, "judge") == {"A": "not held"}


def test_a_claim_that_turns_says_so_and_keeps_its_numbers():
    own = [said(True, "probe").claim, said(True, "probe", says="B").claim]
    rows = [said(True, "probe"), said(False, "token contrast"), said(True, "probe", says="B")]
    turned, steady = over_directions(own, rows)
    assert (turned.verdict, turned.value) == (TURNS, own[0].value)
    assert steady == own[1]
    assert over_directions(own, []) == own
    assert "depends on the direction: held along one direction" in claims_table("m", "strict", [turned, steady]).note


def test_the_table_has_a_column_a_direction():
    rows = [said(True, "probe"), said(None, "probe, seed 1"), said(False, "random 1"), said(True, "probe", says="B")]
    table = directions_of_claims_table("m", rows)
    lines = {line["claim"]: line for line in table.frame.iter_rows(named=True)}
    assert lines["A"] == {
        "section": "4", "claim": "A", "probe": "held", "probe_seed_1": "open", "random_1": "not held", "over": "open",
    }  # fmt: skip
    assert lines["B"]["random_1"] is None
    assert "| probe, seed 1 |" in table.markdown()


def test_a_claim_that_only_random_directions_test_has_no_verdict_over_directions():
    table = directions_of_claims_table("m", [said(True, "probe"), said(True, "random 1", says="B")])
    lines = {line["claim"]: line["over"] for line in table.frame.iter_rows(named=True)}
    assert lines == {"A": "held", "B": None}


def test_the_frame_has_every_row():
    frame = claims_frame([said(True, "probe"), said(False, "probe", "judge")])
    assert {"claim", "direction", "scorer", "number", "low", "high", "verdict"} <= set(frame.columns)
    assert frame["verdict"].to_list() == ["held", "not held"]
    assert claims_frame([]).is_empty()


def test_claims_about_patches_are_read_from_each_directions_own_scores():
    """One direction's patches do what DPO does; the other's do nothing. Claims about neurons follow the groups."""
    made = study({})
    change = family_change("llama")
    explanation = pair("llama").explanation
    whole = patches(change, toxic={}, controls=False)
    nothing = {patch.name: {"toxicity": START, "judge": START / 2} for patch in whole}
    everything = {name: {"toxicity": 0.4 * START, "judge": 0.2 * START} for name in nothing}
    found = [
        PatchedAlong(Along("probe", explanation, whole), everything),
        PatchedAlong(Along("token contrast", explanation, whole), nothing),
    ]
    rows = claims_along(found, made.outcomes, made.scores)
    groups = "Patching all four groups comes close to DPO or passes it"
    verdicts = {(one.direction, one.scorer): one.claim.verdict for one in rows if one.claim.says == groups}
    assert verdicts == {
        ("probe", "toxicity"): "held", ("probe", "judge"): "held",
        ("token contrast", "toxicity"): "not held", ("token contrast", "judge"): "not held",
    }  # fmt: skip
    assert turning_claims(rows)[groups] == TURNS
    shares = {one.claim.value for one in rows if one.claim.says == groups and one.direction == "probe"}
    assert all(np.isclose(share, 1) for share in shares)
    assert {FOUR_GROUPS, INCREASING} <= {patch.name for patch in whole}
