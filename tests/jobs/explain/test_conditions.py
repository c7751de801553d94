"""What `explain` measures: how rows are called. What they do is tested with the job."""

from dataclasses import replace

import pytest
import torch

from dposcope.directions.direction import Direction
from dposcope.jobs.explain.conditions import explain_conditions
from dposcope.jobs.explain.settings import ExplainSettings
from dposcope.jobs.explain.tuned_side import TunedSide
from dposcope.jobs.ingredients.prepared import Ingredients
from helpers.explained import pair
from helpers.families import random_direction


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("probe", "probe-based"),
        ("mean_difference", "along the difference of means"),
        ("token_contrast", "along the contrast of seed words"),
        ("svd_subspace", "along a saved direction (svd subspace)"),
    ],
)
def test_sections_of_edits_say_along_which_direction_they_go(kind, said):
    """Their names, under which results lie on disk, say `probe` of every kind."""
    made = pair("llama")
    change = replace(made.explanation.contributions, about={"tuned_fingerprint": "t"})
    direction = Direction(random_direction(made.base), kind, -1)
    free = Direction(torch.ones(made.base.d_model), "token_contrast", -1)
    ingredients, strengths = Ingredients(made.base, direction, change.before), ExplainSettings().strengths
    rows = explain_conditions(
        ingredients, free, TunedSide("tuned"), change, [], strengths, protocol="strict", of="tuned-00ff"
    )
    sections = {row.name.split("-")[1]: row.section for row in rows if row.role == "edit"}
    assert sections == {"probe": f"Activation editing, {said}", "free": "Activation editing, probe-free"}
