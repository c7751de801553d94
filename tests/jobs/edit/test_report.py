"""What the report of an edit shows of a run."""

from types import SimpleNamespace

import pytest
import torch

from dposcope.evaluation.statistics.intervals import Difference
from dposcope.interventions.ablate import ablate
from dposcope.interventions.edit import Edit
from dposcope.interventions.gains import Gains
from dposcope.jobs.edit.choice import Choice
from dposcope.jobs.edit.report import _notes, conditions_of, evenly_spaced
from dposcope.jobs.strength import StrengthSearch, StrengthStep
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


GAINS = "the same gains shuffled among the neurons of each block"
RANDOM = "a random direction ablated at the same weight"
HEADS = "the same gains of heads shuffled among the channels of each block"


@pytest.mark.parametrize(
    ("parts", "note"),
    [
        (("gains", "ablation"), f"{GAINS}, and {RANDOM}"),
        (("gains",), GAINS),
        (("ablation",), RANDOM),
        (("gains", "heads"), f"{GAINS}, and {HEADS}"),
        ((), "the plain model, as the edit has no part"),
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


@pytest.mark.parametrize(
    ("held_out", "where"),
    [
        (True, "10 windows of the neutral text that are not reported"),
        (
            False,
            "10 windows of the neutral text that overlap the reported text, since it is too short to keep them apart",
        ),
    ],
)
def test_the_bound_is_said_to_hold_on_the_windows_of_the_search_only(held_out, where):
    """The reported windows are others, or longer ones: their rise, on the same page, may be above the bound."""
    search = StrengthSearch((StrengthStep(1.5, Difference(0.18, 0.16, 0.19, 10)),), 1.5, 0.2)
    materials = SimpleNamespace(scorer=SimpleNamespace(name="scorer"), protocol="strict")
    notes = _notes(Choice(Edit.of(), search, held_out, "gains"), materials, built_in=False)
    end = "There the upper end of the interval of the increase is within the bound."
    assert f"The strength was set on {where}. {end}" in notes
