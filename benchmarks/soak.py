"""Edits and evaluations, one after the other in one process, of a tiny model: does anything grow?

    python benchmarks/soak.py [--rounds 200]

A round draws an edit, writes and reads it, applies it by hooks and by folding, generates texts under it, and measures
it as `dposcope evaluate` does; every twentieth round runs the whole commands `edit` and `evaluate` as well. Then
memory, hooks, open files, threads, temporary files and Python's objects are counted. Prints how they were after the
first tenth of the rounds, in the middle and at the end; exits with 1 where one of them has grown.
"""

import argparse
import gc
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "tests"))

import psutil
import torch

import dposcope as ds
from dposcope.evaluation.conditions.materials import Materials
from dposcope.evaluation.conditions.measure import measure
from dposcope.jobs.edit.job import run_edit
from dposcope.jobs.edit.settings import EditSettings
from dposcope.jobs.evaluate.job import run_evaluate
from dposcope.jobs.evaluate.settings import EvaluateSettings
from helpers.jobs import Job, make_job, softness

COMMANDS_EVERY = 20
MEMORY = 0.03
"""Share that resident memory may grow by: an allocator keeps what it once had."""


@dataclass(frozen=True)
class Count:
    """What the process holds."""

    memory: float
    """Resident, MB."""
    hooks: int
    """On any module of the model."""
    files: int
    """Open file handles."""
    threads: int
    temporary: int
    """Files and folders in the temporary folder."""
    objects: int
    """That Python's collector follows."""


def count(lm: ds.LanguageModel, temporary: Path) -> Count:
    """What is held now, garbage collected."""
    gc.collect()
    process = psutil.Process()
    hooks = sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in lm.model.modules())
    return Count(
        process.memory_info().rss / 1e6,
        hooks,
        process.num_fds(),
        process.num_threads(),
        sum(1 for _ in temporary.rglob("*")),
        len(gc.get_objects()),
    )


def drawn(lm: ds.LanguageModel, seed: int) -> ds.Edit:
    """Gains of a tenth of the neurons, and a direction ablated."""
    stream = torch.Generator().manual_seed(seed)
    values = torch.rand(lm.n_blocks, lm.d_mlp, generator=stream)
    chosen = torch.rand(lm.n_blocks, lm.d_mlp, generator=stream) < 0.1
    direction = torch.randn(lm.d_model, generator=stream)
    return ds.Edit.of(ds.Gains(torch.where(chosen, values, 1.0)), ds.ablate(direction, weight=0.5))


def one_round(lm: ds.LanguageModel, materials: Materials, folder: Path, seed: int) -> None:
    """One edit, through all that is done with edits."""
    edit = drawn(lm, seed)
    edit.save(folder / "edit")
    edit = ds.Edit.load(folder / "edit")
    with edit.on(lm):
        ds.generate(lm, materials.prompts[:4], new_tokens=8)
    measure(lm, edit, materials)
    with ds.folded(lm, edit), ds.recording(lm) as means:
        ds.generate(lm, materials.prompts[:4], new_tokens=8)
    means.value()
    with ds.edited(lm, edit) as other:
        ds.generate(other, materials.prompts[:4], new_tokens=4)
    ds.fold(lm, edit).save_pretrained(folder / "folded")


def commands(job: Job, folder: Path) -> None:
    """The commands `edit` and `evaluate`, whole."""
    run_edit(str(job.model), folder / "edit-run", EditSettings(**job.settings(alpha=0.1, controls=False)))
    conditions = [f"mine=edit:{folder / 'edit.safetensors'}"]
    run_evaluate(str(job.model), folder / "evaluate-run", EvaluateSettings(**job.settings(condition=conditions)))


@contextmanager
def own_temporary_folder(folder: Path) -> Iterator[Path]:
    """Where Python and its libraries put temporary files inside."""
    folder.mkdir()
    before, tempfile.tempdir = tempfile.tempdir, str(folder)
    os.environ["TMPDIR"] = str(folder)
    try:
        yield folder
    finally:
        tempfile.tempdir = before


def soak(rounds: int) -> list[Count]:
    """What is held after every round."""
    counts: list[Count] = []
    with tempfile.TemporaryDirectory() as root:
        job = make_job(Path(root) / "job", windows=6)
        with own_temporary_folder(Path(root) / "tmp") as temporary:
            lm = ds.load(str(job.model), dtype="float32")
            materials = Materials(
                tuple(ds.load_prompts(str(job.prompts)))[:8],
                ds.load_passages(str(job.passages)),
                job.neutral.read_text(encoding="utf-8"),
                ds.function_scorer(softness, "softness"),
                max_windows=2,
            )
            for number in range(rounds):
                folder = Path(root) / "round"
                folder.mkdir()
                one_round(lm, materials, folder, number)
                if number % COMMANDS_EVERY == 0:
                    commands(job, folder)
                shutil.rmtree(folder)
                counts.append(count(lm, temporary))
                if sys.stderr.isatty():
                    print(f"\r{number + 1} of {rounds}", end="", file=sys.stderr)
    return counts


def grown(first: Count, last: Count) -> list[str]:
    """The names of what is more than it was."""
    more = [name for name in ("hooks", "files", "threads", "temporary") if getattr(last, name) > getattr(first, name)]
    more += ["memory"] if last.memory > first.memory * (1 + MEMORY) else []
    return more + (["objects"] if last.objects > first.objects * 1.01 else [])


def table(counts: list[Count]) -> str:
    """Rows: after a tenth of the rounds, in the middle, at the end."""
    lines = [f"| round | {' | '.join(('memory, MB', *list(vars(counts[0]))[1:]))} |", "| --- |" + " --- |" * 6]
    for number in (0, len(counts) // 10, len(counts) // 2, len(counts) - 1):
        cells = [
            f"{value:.1f}" if isinstance(value, float) else f"{value:,}" for value in vars(counts[number]).values()
        ]
        lines.append(f"| {number + 1} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    counts = soak(parser.parse_args().rounds)
    print(table(counts))
    more = grown(counts[len(counts) // 10], counts[-1])
    print(f"grown: {', '.join(more)}" if more else "flat")
    sys.exit(1 if more else 0)


if __name__ == "__main__":
    main()
