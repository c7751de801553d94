"""What can be minimised, and what is refused."""

import math

import pytest

from dposcope.errors import DposcopeError
from dposcope.training.objective import Objective


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
