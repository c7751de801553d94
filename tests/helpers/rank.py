"""One of several processes that train together: `python -m helpers.rank JOB`: `model`, `pairs`, `folder`, `run`."""

import json
import sys
import time
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from dposcope.jobs.dpo.job import run_dpo
from dposcope.jobs.dpo.settings import DpoSettings
from dposcope.model.load import load
from dposcope.pairs.pairs import load_pairs
from dposcope.processes.group import Processes
from dposcope.training import precompute
from dposcope.training.batches.examples import neutral_windows, tokenise
from dposcope.training.collator import Material
from dposcope.training.objective import Objective
from dposcope.training.schedule import Schedule
from dposcope.training.train import train_policy
from helpers.families import TEXTS
from helpers.policies import WAYS

PARTS = {"full": ("pairs", 2, 2e-3), "lora": ("neutral", 4, 1e-2)}
"""Where the KL is, pairs of a micro-batch, and rate. Of two processes each has a micro-batch, or both share one."""


def trained(way: str, model: str, pairs: str, folder: Path) -> None:
    """Train without a run around it, and leave weights and curves.

    Seven pairs, four a step: the second step of each pass has three, which cannot be shared evenly.
    """
    kl_on, micro, rate = PARTS[way]
    lm = load(model, dtype="float32", device="cpu")
    # RMSprop's first steps go by the sign of a gradient, however near to 0; float32 would round some over it.
    lm.model.double()
    examples = tokenise(lm, load_pairs(pairs))
    material = Material(examples[:7], examples[7:], neutral_windows(lm, "\n".join(TEXTS), count=9, length=12))
    objective = Objective(kl_weight=0.5, kl_on=kl_on)
    schedule = Schedule(learning_rate=rate, batch_size=4, micro_batch_size=micro, steps=4, validate_every=2)
    with WAYS[way](lm, objective) as trainable:
        done = train_policy(lm, trainable, material, schedule, folder=folder / f"{way}-steps", save=False)
        if Processes.here().is_main:
            values = {name: value.detach().clone() for name, value in trainable.policy.trainable.items()}
            save_file(values, folder / f"{way}.safetensors")
            (folder / f"{way}.json").write_text(json.dumps(done.history), "utf-8")


def slow(*given: Any) -> None:
    """Write a file of the reference late."""
    time.sleep(1)
    save_file(*given)


if __name__ == "__main__":
    job = json.loads(sys.argv[1])
    for name in PARTS:
        trained(name, job["model"], job["pairs"], Path(job["folder"]))
    if not Processes.here().is_main:
        precompute.save_file = slow
    run_dpo(job["model"], Path(job["folder"]) / "run", DpoSettings(**job["run"]))
