"""Every command that leaves files, small enough to be run many times."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dposcope.interventions.edit import Edit
from dposcope.model.load import load
from helpers.changes import tuned_copy
from helpers.edits import gains_of
from helpers.jobs import Job, make_job
from helpers.preferences import pairs_file


@dataclass(frozen=True)
class Ground:
    """What the commands read."""

    job: Job
    tuned: Path
    pairs: Path
    edit: Path
    """Its stem."""


def make_ground(folder: Path) -> Ground:
    """Write it."""
    job = make_job(folder, windows=40)
    lm = load(str(job.model), dtype="float32", device="cpu")
    tuned = tuned_copy(lm)
    tuned.save_pretrained(folder / "tuned")
    Edit.of(gains_of(lm)).save(folder / "edit")
    return Ground(job, folder / "tuned", pairs_file(folder / "pairs.jsonl"), folder / "edit")


@dataclass(frozen=True)
class Order:
    """One command."""

    arguments: Callable[[Ground], list[object]]
    """All but where its results go."""
    out: str = "out"
    """Its `--out`, below a folder of its own."""

    def given(self, ground: Ground, folder: Path) -> list[object]:
        """What follows `dposcope`, with all that it leaves below a folder."""
        return [*self.arguments(ground), "--out", folder / self.out]


_PLAIN = ["--dtype", "float32", "--device", "cpu"]
_QUIET = ["--quiet"]


def _explain(ground: Ground) -> list[object]:
    few = ["--toxic-neurons", "4", "--steer", "0.2", "--seeds", "2", "--no-edits", "--no-claim-directions"]
    return ["explain", ground.job.model, ground.tuned, *few, *ground.job.flags(max_windows=1), *_QUIET]


def _tune(ground: Ground) -> list[object]:
    flags = ground.job.learn_flags(
        search_windows=10, split="halves", max_harmless_increase=2.0, max_phrase_rise=1.0, least_relevance=0.0
    )
    learning = ["--trials", "2", "--samples", "4", "--epochs", "2", "--pairing", "extremes", "--min-gap", "0.02"]
    return ["tune", ground.job.model, *flags, *learning, "--max-logppl-increase", "0.5", *_QUIET]


def _pairs(ground: Ground) -> list[object]:
    flags = ["--method", "sample", "--prompts", ground.job.prompts, "--use", "all", "--samples", "4"]
    ranked = ["--pairing", "extremes", "--min-gap", "0.05", "--scorer", "helpers.jobs:softness", "--new-tokens", "6"]
    return ["pairs", ground.job.model, *flags, *ranked, *_PLAIN, *_QUIET]


def _dpo(train: str) -> Callable[[Ground], list[object]]:
    def arguments(ground: Ground) -> list[object]:
        given = {"pairs": ground.pairs, "learn-text": ground.job.neutral, "train": train, "epochs": 2, "batch-size": 4}
        given |= {"micro-batch-size": 2, "warmup-steps": 2, "validation": 5, "validate-every": 16}
        given |= {"window-tokens": 12, "window-pool": 9}
        flags = [part for name, value in given.items() for part in (f"--{name}", value)]
        return ["dpo", ground.job.model, *flags, *_PLAIN, *_QUIET]

    return arguments


ORDERS: dict[str, Order] = {
    "edit": Order(lambda on: ["edit", on.job.model, *on.job.flags(), *_QUIET]),
    "evaluate": Order(lambda on: ["evaluate", on.job.model, *on.job.flags(condition=f"fixed=edit:{on.edit}"), *_QUIET]),
    "explain": Order(_explain),
    "tune": Order(_tune),
    "pairs": Order(_pairs, out="pairs.jsonl"),
    "dpo-gains": Order(_dpo("gains")),
    "dpo-full": Order(_dpo("full")),
    "probe": Order(lambda on: ["probe", on.job.model, "--comments", on.job.comments, *_PLAIN], out="toxic"),
    "fold": Order(lambda on: ["fold", on.job.model, "--edit", on.edit], out="folded"),
}
"""By name: each command once, and training in both of its forms."""
