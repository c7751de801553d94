"""DPO: speed and peak memory beside TRL's `DPOTrainer`, on one model, one set of pairs, one optimiser.

    pip install trl datasets
    python benchmarks/dpo.py --pairs pairs.jsonl [--model gemma-3-270m] [--steps 4] [--rounds 3] [--batch 8]
    python benchmarks/dpo.py --lengths 64,128,256,512 --figure memory.svg     growth of peak memory with length

Each contender runs in a process of its own, in turn, `--rounds` times; a number is the median over rounds, a ratio the
median of each round's ratio. Time is that of optimiser steps after the first, without loading; memory the process's
peak resident set. Pairs are cut to 64 + 64 tokens. Contenders with λ = 0:

    dposcope            all weights, reference beside it
    dposcope recompute  the same, activations computed again in the backward pass (--recompute)
    dposcope stored     all weights, reference computed before (--precompute-reference)
    dposcope gains      one gain per neuron
    trl                 DPOTrainer, its reference model beside it
    trl checkpointing   the same with gradient_checkpointing, beside which `dposcope recompute` stands
    trl stored          DPOTrainer, precompute_ref_log_probs

and with λ = 0.05 on the pairs: `dposcope kl`, and `naive kl`, the same loss from full logits of both models.
All weights are float32 (of gains: the base, which does not change, is in bfloat16, as the command has it), products in
bfloat16 where the machine multiplies it, and gradients are cut to one length (all alike).
"""

import argparse
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CONTENDERS = {
    "dposcope": "ours",
    "dposcope recompute": "ours",
    "dposcope stored": "ours",
    "dposcope gains": "ours",
    "trl": "trl",
    "trl checkpointing": "trl",
    "trl stored": "trl",
    "dposcope kl": "ours",
    "naive kl": "naive",
}
BASELINES = {
    "dposcope": "trl",
    "dposcope recompute": "trl checkpointing",
    "dposcope stored": "trl stored",
    "dposcope gains": "trl stored",
    "dposcope kl": "naive kl",
}
"""Whose time and memory a contender's are divided by."""
GRADIENT_NORM = 1.0
"""Longer gradients are shortened to this by every contender: it reads them all once more."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="gemma-3-270m")
    parser.add_argument("--pairs")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--only", default=",".join(CONTENDERS))
    parser.add_argument("--lengths", help="tokens per text, half of them prompt, as in 64,128,256")
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--worker")
    parser.add_argument("--length", type=int)
    arguments = parser.parse_args()
    if arguments.worker:
        print(json.dumps(work(arguments)))
    elif arguments.lengths:
        grow(arguments)
    else:
        compare(arguments)


def compare(arguments: argparse.Namespace) -> None:
    names = arguments.only.split(",")
    rounds: list[dict[str, dict[str, float]]] = []
    for number in range(arguments.rounds):
        found = {name: start(arguments, name) for name in names}
        rounds.append(found)
        for name, values in found.items():
            print(f"round {number + 1}  {name:18} {values['pairs_per_second']:6.2f} pairs/s  {values['peak']:7.0f} MiB")
    print(f"\n{'':18} pairs/s   peak MiB   speed ×   memory ×   against")
    for name in names:
        speed, peak = (statistics.median(r[name][key] for r in rounds) for key in ("pairs_per_second", "peak"))
        line = f"{name:18} {speed:7.2f}   {peak:8.0f}"
        other = BASELINES.get(name)
        if other in names:
            faster = statistics.median(r[name]["pairs_per_second"] / r[other]["pairs_per_second"] for r in rounds)
            leaner = statistics.median(r[name]["peak"] / r[other]["peak"] for r in rounds)
            line += f"   {faster:7.2f}   {leaner:8.2f}   {other}"
        print(line)


def grow(arguments: argparse.Namespace) -> None:
    lengths = [int(part) for part in arguments.lengths.split(",")]
    names = arguments.only.split(",")
    peaks = {name: [start(arguments, name, length)["peak"] for length in lengths] for name in names}
    print(f"{'tokens per text':18}" + "".join(f"{length:>9}" for length in lengths))
    for name, values in peaks.items():
        print(f"{name:18}" + "".join(f"{value:9.0f}" for value in values) + "   MiB")
    if arguments.figure:
        draw(lengths, peaks, arguments)


def draw(lengths: list[int], peaks: dict[str, list[float]], arguments: argparse.Namespace) -> None:
    from matplotlib.figure import Figure

    from dposcope.report.figures import COLOURS, MARKERS, house_style

    with house_style():
        figure = Figure(figsize=(6.4, 3.6), layout="constrained")
        axes = figure.subplots()
        for (name, values), role in zip(peaks.items(), COLOURS, strict=False):
            style = "-" if name.startswith("dposcope") else "--"
            axes.plot(lengths, [v / 1024 for v in values], style, marker=MARKERS[role], color=COLOURS[role], label=name)
        axes.set_xlabel(f"tokens per text ({arguments.batch} pairs a step)")
        axes.set_ylabel("peak memory, GiB")
        axes.set_ylim(bottom=0)
        axes.set_xticks(lengths)
        axes.grid()
        axes.legend(frameon=False)
        figure.savefig(arguments.figure, facecolor="white", metadata={"Date": None})


def start(arguments: argparse.Namespace, name: str, length: int | None = None) -> dict[str, float]:
    command = [sys.executable, __file__, "--worker", name, "--model", arguments.model, "--steps", str(arguments.steps)]
    command += ["--batch", str(arguments.batch)]
    command += ["--length", str(length)] if length else ["--pairs", arguments.pairs]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "HF_HUB_OFFLINE": "1"}
    )
    if done.returncode:
        raise SystemExit(f"{name}: {done.stderr[-1500:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def work(arguments: argparse.Namespace) -> dict[str, float]:
    import dposcope as ds
    from dposcope.model.load import native_bfloat16
    from dposcope.pairs.pairs import load_pairs
    from dposcope.training.batches.examples import Example, tokenise

    lm = ds.load(arguments.model, dtype="float32")
    half = native_bfloat16(lm.device)
    count = arguments.batch * arguments.steps
    if arguments.length:
        import numpy as np

        draw = np.random.default_rng(0).integers(100, 5000, size=(count, 3, arguments.length // 2))
        examples = [Example(tuple(p), (tuple(c), tuple(r))) for p, c, r in draw.tolist()]
    else:
        examples = tokenise(lm, load_pairs(arguments.pairs).first(count))
        examples = (examples * (count // len(examples) + 1))[:count]
    run = {"ours": ours, "trl": trl, "naive": naive}[CONTENDERS[arguments.worker]]
    with tempfile.TemporaryDirectory() as folder:
        marks = run(Task(arguments.worker, lm, examples, arguments.batch, arguments.steps, half, Path(folder)))
    seconds = statistics.median(later - earlier for earlier, later in itertools.pairwise(marks))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"pairs_per_second": arguments.batch / seconds, "peak": peak}


def clock() -> Any:
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        marks: list[float] = []  # noqa: RUF012

        def on_step_end(self, *_: Any, **__: Any) -> None:
            self.marks.append(time.perf_counter())

    return Clock()


@dataclass(frozen=True)
class Task:
    """What one process does."""

    name: str
    lm: Any
    examples: list[Any]
    batch: int
    steps: int
    half: bool
    """Products in bfloat16."""
    folder: Path


def ours(task: Task) -> list[float]:
    import torch

    from dposcope.training.collator import VALIDATION, Material
    from dposcope.training.lean_reference import Reads
    from dposcope.training.policy import Objective
    from dposcope.training.precompute import ReferenceStates, precompute_reference
    from dposcope.training.schedule import Schedule
    from dposcope.training.train import train_policy
    from dposcope.training.trainable import all_weights, neuron_gains

    stored, gains = task.name.endswith("stored"), task.name.endswith("gains")
    objective = Objective(kl_weight=0.05 if task.name.endswith("kl") else 0.0)
    if gains and task.half:
        task.lm.model.to(torch.bfloat16)
    schedule = Schedule(
        learning_rate=1e-5,
        batch_size=task.batch,
        steps=task.steps,
        max_grad_norm=GRADIENT_NORM,
        validate_every=10_000,
        autocast=task.half and not gains,
    )
    material, watch = Material(task.examples, task.examples[:1]), clock()
    reads = Reads.of(task.examples, pad_id=task.lm.pad_id, products=torch.bfloat16 if task.half else None)
    again = task.name.endswith("recompute")
    everything = all_weights(task.lm, objective, in_place=True, reads=None if stored else reads, recompute=again)
    with neuron_gains(task.lm, objective) if gains else everything as trainable:
        reference = None
        if stored:
            path = task.folder / "reference"
            parts = {"train": material.train, "validation": material.validation}
            with torch.autocast(task.lm.device.type, torch.bfloat16, enabled=task.half):
                precompute_reference(task.lm, trainable.policy, parts, path)
            reference = ReferenceStates(path, validation_offset=VALIDATION)
        trainer_folder = task.folder / "checkpoints"
        train_policy(
            task.lm,
            trainable,
            material,
            schedule,
            folder=trainer_folder,
            reference=reference,
            callbacks=[watch],
            save=False,
        )
    return watch.marks


def trl(task: Task) -> list[float]:
    import transformers
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    transformers.logging.set_verbosity_error()
    rows = [
        {"prompt_ids": list(e.prompt), "chosen_ids": list(e.completions[0]), "rejected_ids": list(e.completions[1])}
        for e in task.examples
    ]
    config = DPOConfig(
        output_dir=str(task.folder),
        per_device_train_batch_size=task.batch,
        max_steps=task.steps,
        learning_rate=1e-5,
        optim="rmsprop",
        beta=0.1,
        max_grad_norm=GRADIENT_NORM,
        bf16=task.half,
        use_cpu=True,
        gradient_checkpointing=task.name.endswith("checkpointing"),
        gradient_checkpointing_kwargs={"use_reentrant": False},
        precompute_ref_log_probs=task.name.endswith("stored"),
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        max_length=None,
        disable_dropout=True,
    )

    class Ready(DPOTrainer):
        """Takes our token ids, so that both libraries train on the same ones."""

        def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
            return dataset

    watch = clock()
    trainer = Ready(
        model=task.lm.model,
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=task.lm.tokenizer,
        callbacks=[watch],
    )
    trainer.train()
    return watch.marks


def naive(task: Task) -> list[float]:
    """The published form: whole logits of both models over padded batches."""
    import copy

    import torch
    from torch.nn.functional import logsigmoid

    reference = copy.deepcopy(task.lm.model).requires_grad_(False)
    model = task.lm.model.requires_grad_(True)
    optimiser = torch.optim.RMSprop(model.parameters(), lr=1e-5)
    marks: list[float] = []

    def side(batch: list[Any], number: int) -> tuple[Any, Any]:
        rows = [[*e.prompt, *e.completions[number]] for e in batch]
        width = max(map(len, rows))
        ids = torch.tensor([row + [task.lm.pad_id] * (width - len(row)) for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
        completion = torch.zeros(len(rows), width - 1)
        for index, (row, example) in enumerate(zip(rows, batch, strict=True)):
            completion[index, len(example.prompt) - 1 : len(row) - 1] = 1

        def read(one: Callable[..., Any]) -> Any:
            return one(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1].float().log_softmax(-1)

        policy = read(model)
        with torch.no_grad():
            base = read(reference)
        targets = ids[:, 1:, None]
        ratio = ((policy.gather(-1, targets) - base.gather(-1, targets)).squeeze(-1) * completion).sum(1)
        kl = ((base.exp() * (base - policy)).sum(-1) * completion).sum(1) / completion.sum(1)
        return ratio, kl

    for start_ in range(0, len(task.examples), task.batch):
        batch = task.examples[start_ : start_ + task.batch]
        with torch.autocast("cpu", torch.bfloat16, enabled=task.half):
            (chosen, kl_chosen), (rejected, kl_rejected) = side(batch, 0), side(batch, 1)
            loss = -logsigmoid(0.1 * (chosen - rejected)).mean() + 0.05 * (kl_chosen + kl_rejected).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), GRADIENT_NORM)
        optimiser.step()
        optimiser.zero_grad()
        marks.append(time.perf_counter())
    return marks


if __name__ == "__main__":
    main()
