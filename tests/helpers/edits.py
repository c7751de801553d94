"""Edits of every kind, for every family."""

from dposcope.interventions.ablate import Ablation, ablate
from dposcope.interventions.edit import Edit
from dposcope.interventions.gains import Gains
from helpers.families import (
    random_direction,
    random_gains,
    random_head_gains,
)

IDS = [2, 40, 41, 55, 60, 61, 70, 33, 12, 90]


def gains_of(lm):
    return Gains(random_gains(lm))


def ablation_of(lm):
    return ablate(random_direction(lm), weight=0.9)


def both_of(lm):
    return Edit.of(
        gains_of(lm),
        ablate(random_direction(lm, 1), weight=0.6),
        Ablation(random_direction(lm, 2), 1.4, blocks=(1,), attention=False),
        Ablation(random_direction(lm, 3), 0.5, blocks=(0,), mlp=False),
    )


def heads_of(lm):
    return Edit.of(both_of(lm), Gains(random_head_gains(lm), of="heads"))


EDITS = {"gains": gains_of, "ablation": ablation_of, "both": both_of, "heads": heads_of}
