"""What `training.json` tells of a finished training."""

from dposcope.training.objective import Objective
from dposcope.training.schedule import Schedule

TRAINING = {
    "objective": vars(Objective()),
    "schedule": vars(Schedule()),
    **{"train": "full", "pairs": {"train": 5, "validation": 1}, "steps": 9, "examples": 36, "seed": 0},
    "settings": {"max_prompt_tokens": 64, "max_completion_tokens": 64},
}

GAINS_TRAINING = {
    "kind": "dposcope dpo",
    "train": "gains",
    "pairs": {"train": 24_566, "validation": 10},
    "objective": vars(Objective(kl_weight=0.05, kl_on="neutral")),
    "schedule": vars(
        Schedule(optimizer="adamw", learning_rate=0.01, warmup_steps=150, max_grad_norm=1.0, patience=None)
    ),
    "settings": {"max_prompt_tokens": 48, "max_completion_tokens": 20},
    "steps": 1234,
    "examples": 12_283,
    "seed": 3,
}
