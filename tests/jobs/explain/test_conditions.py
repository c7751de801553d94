"""What `explain` measures: how rows are called, and what they do to a model. The job's own tests measure them."""

from dataclasses import replace

import pytest
import torch

from dposcope.directions.direction import Direction
from dposcope.interventions.group_gains import gains_of
from dposcope.jobs.explain.conditions import explain_conditions
from dposcope.jobs.explain.settings import ExplainSettings
from dposcope.jobs.explain.tuned_side import TunedSide
from dposcope.jobs.ingredients.prepared import Ingredients
from dposcope.neurons.groups import cosines, select_fraction
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


def rows_of(made, direction: Direction, protocol="strict", **settings):
    """Name → condition, with another direction as the probe-free one."""
    change = replace(made.explanation.contributions, about={"tuned_fingerprint": "t"})
    free = Direction(torch.ones(made.base.d_model), "token_contrast", -1)
    ingredients, strengths = Ingredients(made.base, direction, change.before), ExplainSettings(**settings).strengths
    rows = explain_conditions(
        ingredients, free, TunedSide("tuned"), change, [], strengths, protocol=protocol, of="tuned-00ff"
    )
    return {row.name: row for row in rows}


@pytest.mark.parametrize("norm", [None, 5.0])
@pytest.mark.parametrize("protocol", ["strict", "reference"])
def test_steering_takes_the_mean_norm_or_w_itself_and_a_random_direction_as_long(protocol, norm):
    """By the paper α multiplies W, and α relative to the mean norm is the other choice (SPEC section 4)."""
    made = pair("llama")
    about = {} if norm is None else {"residual_norm": norm}
    direction = Direction(3 * random_direction(made.base), "probe", -1, about)
    rows = rows_of(made, direction, protocol, steer=[0.2, 0.5], steer_w=[2.0], controls=True, seed=4)
    unit = direction.vector / direction.vector.norm()
    length = direction.vector.norm() if norm is None else norm
    steers = {name: row.build() for name, row in rows.items() if name.startswith("steer-")}
    random = Direction(direction.vector, "probe", -1).random_like(4).vector
    for name, alpha, vector in (
        ("steer-0.2", 0.2, unit * length),
        ("steer-0.5", 0.5, unit * length),
        ("steer-w-2", 2.0, direction.vector),
        ("steer-random-0.5", 0.5, random / random.norm() * length),
    ):
        steer = steers.pop(name)
        assert steer.alpha == alpha
        assert torch.allclose(steer.vector, vector.to(steer.vector.dtype), rtol=1e-6), name
        assert (steer.block, steer.site) == (-1, {"strict": "residual", "reference": "mlp"}[protocol])
    assert not steers


@pytest.mark.parametrize(
    ("family", "protocol", "trim"),
    [("gpt2", "strict", None), ("gpt2", "reference", 80.0), ("llama", "reference", None)],
)
def test_edits_take_the_neurons_of_their_protocol_and_drawn_ones_the_runs_seed(family, protocol, trim):
    """The published code leaves neurons of high mean activation out, of GPT-2 alone (SPEC section 4)."""
    made = pair(family)
    direction = Direction(random_direction(made.base), "probe", -1)
    rows = rows_of(made, direction, protocol, edit_forms=["scale"], edit_grid=["0.1:0.5"], controls=True, seed=4)
    mean, cosine = made.explanation.contributions.before.mean, cosines(made.base, direction.vector)
    first = "cosine" if protocol == "strict" else "reference"
    for ranking in (first, "activation", "random"):
        chosen = select_fraction(cosine, mean, beta=0.5, ranking=ranking, trim_percentile=trim, seed=4)
        built = rows[f"scale-probe-{ranking}-0.1-0.5"].build()
        assert torch.equal(built.values, gains_of(chosen, alpha=0.1).values), ranking


def test_the_shuffled_control_is_of_the_strongest_gains():
    made = pair("llama")
    direction = Direction(random_direction(made.base), "probe", -1)
    grid = ["0.1:0.5", "0.3:0.2", "0.3:0.4", "0.2:0.8"]
    rows = rows_of(made, direction, edit_forms=["scale"], edit_grid=grid, controls=True, seed=4)
    shuffled = {name: row for name, row in rows.items() if name.startswith("shuffled-")}
    assert list(shuffled) == ["shuffled-scale-probe-cosine-0.3-0.4"]
    gains = rows["scale-probe-cosine-0.3-0.4"].build().values
    values = shuffled["shuffled-scale-probe-cosine-0.3-0.4"].build().values
    assert not torch.equal(values, gains)
    assert torch.equal(values.sort(1).values, gains.sort(1).values)
