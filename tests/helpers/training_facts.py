"""What `training.json` tells of a finished training."""

from dposcope.jobs.dpo.settings import DpoSettings
from dposcope.jobs.dpo.training_record import TrainedPairs, TrainingRecord
from dposcope.pairs.pairs import Dropped
from dposcope.training.objective import Objective
from dposcope.training.schedule import Schedule

TRAINING = TrainingRecord(
    model="org/model",
    fingerprint="llama-0",
    pairs=TrainedPairs("pairs.jsonl", "prompt_text", 5, 1, Dropped()),
    objective=Objective(),
    schedule=Schedule(),
    settings=DpoSettings(pairs="pairs.jsonl", max_prompt_tokens=64, max_completion_tokens=64),
    steps=9,
    examples=36,
    best_step=None,
    gains_changed=None,
    curves=[{"step": 9, "loss": 0.5}],
    versions={"torch": "2.0"},
)

GAINS_TRAINING = TrainingRecord(
    model="org/model",
    fingerprint="llama-0",
    pairs=TrainedPairs("pairs.jsonl", "prompt_text", 24_566, 10, Dropped(blank=1)),
    objective=Objective(kl_weight=0.05, kl_on="neutral"),
    schedule=Schedule(optimizer="adamw", learning_rate=0.01, warmup_steps=150, max_grad_norm=1.0, patience=None),
    settings=DpoSettings(
        pairs="pairs.jsonl", train="gains", max_prompt_tokens=48, max_completion_tokens=20, seed=3, kl_weight=0.05
    ),
    steps=1234,
    examples=12_283,
    best_step=1200,
    gains_changed=17,
    curves=[{"step": 1234, "eval_loss": 0.25, "eval_accuracy": 0.9, "eval_margin": 0.5, "eval_kl": 0.01}],
    versions={"torch": "2.0"},
)
