"""What the report of an edit shows of a run."""

from types import SimpleNamespace

import pytest
import torch

from dposcope.interventions.ablate import ablate
from dposcope.interventions.edit import Edit
from dposcope.interventions.gains import Gains
from dposcope.jobs.edit.report import conditions_of, evenly_spaced
from helpers.families import random_direction, random_gains
from helpers.outcomes import outcome
from helpers.pages import page


def test_samples_reach_over_all_prompts():
    """Of 47, every second one; not the first 24."""
    prompts = [f"p{number}" for number in range(47)]
    outcomes = {name: outcome([0.1] * 47) for name in ("none", "edit")}
    shown = evenly_spaced(outcomes, SimpleNamespace(prompts=prompts))
    assert [sample.prompt for sample in shown] == [f"p{number * 47 // 24}" for number in range(24)]
    assert shown[-1].prompt == "p45"


GAINS = "the same gains shuffled among the neurons of each layer"
RANDOM = "a random direction ablated at the same weight"
HEADS = "the same gains of heads shuffled among the channels of each layer"


@pytest.mark.parametrize(
    ("parts", "note"),
    [
        (("gains", "ablation"), f"{GAINS}, and {RANDOM}"),
        (("gains",), GAINS),
        (("ablation",), RANDOM),
        (("gains", "heads"), f"{GAINS}, and {HEADS}"),
        ((), "the unedited model, as the edit has no part"),
    ],
)
def test_a_control_is_told_by_what_it_has_in_the_place_of_each_part(llama, parts, note):
    made = {
        "gains": Gains(random_gains(llama)),
        "ablation": ablate(random_direction(llama), weight=0.7),
        "heads": Gains(torch.full((2, 8), 0.5), of="heads"),
    }
    conditions = conditions_of(page().scores, Edit.of(*(made[name] for name in parts)))
    assert [one.name for one in conditions] == ["none", "edit", "control"]
    assert conditions[-1].note == note
