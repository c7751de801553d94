"""The claims of the page."""

from dataclasses import replace

from dposcope.jobs.explain.claims.over_directions import ClaimAlong
from dposcope.jobs.explain.page.claims import claim_views, claims_note, directions_of
from helpers.results import results


def test_each_claim_has_its_verdict_along_every_direction_random_ones_last():
    made = results()
    first, second = made.claims[:2]
    along = [
        ClaimAlong(replace(first, verdict="open"), "random 1", "", True),
        ClaimAlong(replace(first, verdict="held"), "probe", ""),
        ClaimAlong(replace(second, verdict="not held"), "probe", "toxicity"),
        ClaimAlong(replace(second, verdict="held"), "probe", "judge"),
    ]
    made = replace(made, along=along)
    assert directions_of(made) == ["probe", "random 1"]
    views = claim_views(made)
    assert [one.says for one in views] == [one.says for one in made.claims]
    assert views[0].along == ("held", "open")
    assert views[1].along == ("not held", "")
    assert set(views[-1].along) == {""}
    assert "Depends on the direction" in claims_note(made)
    assert "Depends" not in claims_note(results())
