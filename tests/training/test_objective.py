"""What can be minimised, and what is refused."""

import math

import pytest

from dposcope.errors import DposcopeError
from dposcope.training.objective import Objective


@pytest.mark.parametrize(
    ("settings", "reads"),
    [
        ({}, False),
        ({"kl_weight": 0.5}, False),
        ({"kl_on": "neutral"}, False),
        ({"kl_on": "neutral", "kl_weight": 0.5}, True),
        ({"kl_on": "mixed", "kl_weight": 1e-6}, True),
        ({"kl_on": "harmless", "kl_weight": 2.0, "loss": "likelihood"}, True),
    ],
)
def test_windows_are_read_only_for_a_divergence_on_them(settings, reads):
    assert Objective(**settings).reads_windows is reads


def test_the_bounds_themselves_are_allowed():
    least = Objective(beta=1e-9, kl_weight=0.0, teacher_weight=0.0, loss="likelihood", unlikelihood=0.0)
    assert (least.kl_weight, least.teacher_weight, least.unlikelihood) == (0, 0, 0)
    assert Objective(loss="likelihood").unlikelihood == 0
    assert Objective(protocol="reference", kl_weight=1.0).kl_on == "pairs"


@pytest.mark.parametrize(
    ("settings", "mend"),
    [
        ({"beta": 0.0}, "the paper's is 0.1"),
        ({"beta": -1.0}, "the paper's is 0.1"),
        ({"beta": math.nan}, "the paper's is 0.1"),
        ({"kl_weight": -0.1}, "give 0 or more"),
        ({"kl_weight": math.nan}, "give 0 or more"),
        ({"teacher_weight": -0.1}, "give 0 or more"),
        ({"teacher_weight": math.nan}, "give 0 or more"),
        ({"teacher_weight": 1.0, "protocol": "reference"}, "leave the teacher out, or choose the strict protocol"),
        ({"unlikelihood": 0.5}, "unlikelihood belongs to loss=likelihood"),
        ({"unlikelihood": -1.0, "loss": "likelihood"}, "an unlikelihood weight of -1.0 is not allowed"),
        ({"kl_on": "mixed", "protocol": "reference"}, "leave kl_on=mixed out"),
        ({"kl_on": "neutral", "protocol": "reference"}, "leave kl_on=neutral out, or choose the strict"),
    ],
)
def test_objectives_that_cannot_be_minimised_are_refused(settings, mend):
    with pytest.raises(DposcopeError, match=mend):
        Objective(**settings)
