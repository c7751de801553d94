"""Estimate time, memory and disk of every step of a reproduction, from model sizes and a short calibration.

time = floating-point operations of the step / (this machine's peak × the share of the peak that such work reaches).
The shares were measured with Gemma-3-270m on 2 cores; on a CPU, expect half to twice the estimate. On a GPU, memory
and kernel launches also cost time. This was not measured, so on a GPU the estimate is a lower bound.
"""

import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import polars as pl
import torch

from dposcope.data.hub import is_hub_spec
from dposcope.data.prompts import load_prompts
from dposcope.data.short import short_repr
from dposcope.errors import plural
from dposcope.evaluation.sampled.ideal import texts_read
from dposcope.jobs.dpo.settings import DpoSettings
from dposcope.jobs.explain.conditions import FORMS, RANKINGS
from dposcope.jobs.explain.interchange.carriers import RANKINGS as RANKED
from dposcope.jobs.explain.interchange.sets import MEASURED
from dposcope.jobs.explain.settings import ExplainSettings
from dposcope.jobs.pairs.settings import PairsSettings
from dposcope.jobs.reproduce.plan import PlannedStep
from dposcope.jobs.settings import DirectionSettings
from dposcope.model.load import native_bfloat16
from dposcope.model.size import ModelSize, size_of
from dposcope.report.table import Column, Table

PROMPT_TOKENS = 16
"""Average length of a prompt of RealToxicityPrompts."""
PASSAGE_TOKENS = 64
COMMENT_TOKENS = 80
NEW_TOKENS = 20
WINDOW = 1024
GROUPS, CONTROLS = 9, 2
"""Patches other than the top toxic neurons: toxic tokens, each group, three sums, all ↑; and the controls."""
DIRECTIONS = 9
"""Along which claims are judged; the texts of each one's patches are scored."""
COPIES = 3
"""Copies of the comments' features in memory at a time: all, those fitted on, and those standardised."""
BUILT_IN = 100
"""Approximate number of built-in prompts."""

WRITING, DRAWING, READING, TRAINING = 0.36, 0.26, 0.66, 0.5
"""Shares of the machine's peak that greedy generation, sampling, reading windows and training reach."""
LONG = 24 * 3600.0
"""A GPU is advised for steps that take more seconds than this."""
GIB = 2**30


_LONG_ENOUGH, _LARGEST = 0.05, 2048
"""Seconds of a product that is measured, and rows of the largest one."""


@dataclass(frozen=True)
class Machine:
    """The properties of a machine that estimates need."""

    name: str
    operations: float
    """Floating-point operations a second of a large matrix product, in the precision that models run in."""
    memory: int
    """Bytes; of the GPU if there is one."""
    processor_bytes: int
    """Bytes per weight of a running model: 2 if bfloat16 is native, else 4."""
    gpu: bool = False

    @classmethod
    def measured(cls, device: str = "auto") -> "Machine":
        """This machine, measured by matrix products for about a second.

        Args:
            device: device of the steps; auto: a GPU if there is one.
        """
        on_gpu = torch.cuda.is_available() and not device.startswith("cpu")
        place = torch.device("cuda" if on_gpu else "cpu")
        half = native_bfloat16(place)
        dtype = torch.bfloat16 if half else torch.float32
        size, best = 128, 0.0
        # Where kernels are slow, as those of bfloat16 without its instructions, a small product says enough.
        while best < _LONG_ENOUGH and size < _LARGEST:
            size *= 2
            a, b = (torch.ones(size, size, device=place, dtype=dtype) for _ in "ab")
            best = float("inf")
            for _ in range(4):  # the first one also wakes threads and libraries
                start = time.perf_counter()
                product = a @ b
                float(product[0, 0])  # a GPU answers when it is done
                best = min(best, time.perf_counter() - start)
        if on_gpu:
            total, name = torch.cuda.get_device_properties(place).total_memory, torch.cuda.get_device_name(place)
        else:
            total, name = _memory(), f"{torch.get_num_threads()} CPU threads"
        return cls(name, 2 * size**3 / best, total, 2 if half else 4, on_gpu)


def _memory() -> int:
    """Bytes of main memory; a huge number if the system does not report it (Windows)."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 1 << 62


@dataclass(frozen=True)
class Estimate:
    """Estimate of one step; None if the model's size is unknown."""

    name: str
    done: bool
    seconds: float | None
    memory: float | None
    """Bytes at the peak."""
    disk: float | None
    """Bytes of its files."""
    needs_gpu: bool
    """Whether it would take more than a day, or more memory than the machine has."""

    __repr__ = short_repr

    def to_json(self) -> dict[str, Any]:
        """The fields."""
        return asdict(self)


def estimate_plan(steps: Sequence[PlannedStep], machine: Machine) -> list[Estimate]:
    """An estimate for every step, in order."""
    sizes = {source: size_of(source) for source in {planned.step.model for planned in steps}}
    return [_estimate(planned, planned.size or sizes[planned.step.model], machine) for planned in steps]


def plan_table(title: str, estimates: Sequence[Estimate], *, out: Path | None = None, gpu: bool = False) -> Table:
    """The plan for people.

    Args:
        title: of the table.
        estimates: step by step.
        out: the folder, to report its free disk space.
        gpu: whether the estimates are for a GPU.
    """
    left = [step for step in estimates if not step.done]
    known = [step.seconds for step in left if step.seconds is not None]
    accuracy = "On a GPU this is a lower bound." if gpu else "Times are accurate to a factor of two."
    peak = max((step.memory for step in left if step.memory is not None), default=0.0)
    disk = sum(step.disk for step in left if step.disk is not None)
    to_do = f"{len(left)} of {len(estimates)} steps to do"
    unknown = len(left) - len(known)
    if unknown and not known:
        notes = [f"{to_do}; how long is not known."]
    else:
        rest = f", and {plural(unknown, 'step')} of unknown size" if unknown else ""
        notes = [
            f"{to_do}: about {hours(sum(known))}, {_gigabytes(peak)} of memory and "
            f"{_gigabytes(disk)} of disk (free: {_gigabytes(_free(out))}){rest}. {accuracy}"
        ]
    if unknown:
        notes.append(
            "There is no estimate for a model whose config is not on this machine: planning downloads nothing."
        )
    frame = pl.DataFrame([step.to_json() for step in estimates], infer_schema_length=None)
    view = pl.DataFrame(
        {
            "step": [step.name for step in estimates],
            "state": ["done" if step.done else "to do" for step in estimates],
            "time": [None if step.done else hours(step.seconds) for step in estimates],
            "memory": [_gigabytes(step.memory) for step in estimates],
            "disk": [_gigabytes(step.disk) for step in estimates],
            "": ["a GPU is advised" if step.needs_gpu and not step.done else "" for step in estimates],
        },
    )
    return Table("plan", title, frame, tuple(Column(name, name) for name in view.columns), tuple(notes), view=view)


def _free(out: Path | None) -> float:
    place = (out or Path()).absolute()
    while not place.exists():
        place = place.parent
    return float(shutil.disk_usage(place).free)


def _estimate(planned: PlannedStep, size: ModelSize | None, machine: Machine) -> Estimate:
    step = planned.step
    if size is None:
        return Estimate(planned.name, planned.done, None, None, None, needs_gpu=False)
    weights = float(size.parameters * machine.processor_bytes)
    match step.settings:
        case PairsSettings():
            operations, memory, disk = _pairs(step.settings, size), weights, 1e6
            if step.settings.method == "pplm":
                operations += _comments(step.settings, size)
                memory += _features(step.settings, size)
        case DpoSettings():
            operations, memory, disk = _dpo(step.settings, size, planned.pairs, weights)
        case ExplainSettings():
            operations, memory, disk = _explain(step.settings, size), 2 * weights, 200.0 * size.neurons + 2e7
            memory += _features(step.settings, size)
            disk += _features(step.settings, size) / COPIES if step.settings.seeds else 0.0
    # Logits of a chunk of 128 positions, and Python with its libraries.
    memory += 128 * 4.0 * size.vocabulary + 0.7 * GIB
    seconds = operations / machine.operations
    return Estimate(
        planned.name, planned.done, seconds, memory, disk, needs_gpu=seconds > LONG or memory > machine.memory
    )


def _written(size: ModelSize, texts: float, prompt: int, new: int = NEW_TOKENS, share: float = WRITING) -> float:
    """Operations of generating continuations, divided by the share of the peak that generation reaches."""
    return texts * 2.0 * (size.body * (prompt + new) + size.unembedding * new) / share


def _read(size: ModelSize, texts: float) -> float:
    """Operations of reading continuations after their prompts, divided by the share of the peak that it reaches."""
    return texts * 2.0 * (size.body * (PROMPT_TOKENS + NEW_TOKENS) + size.unembedding * NEW_TOKENS) / READING


def _pairs(settings: PairsSettings, size: ModelSize) -> float:
    new = settings.new_tokens
    if settings.method == "sample":
        return _written(size, BUILT_IN * 2 * settings.samples, PROMPT_TOKENS, new, DRAWING)
    count = settings.count or 800
    # Per token: each iteration has a forward pass, `horizon` more, and backward passes; then comes the fused step.
    steps = settings.iterations * (1 + settings.horizon) * 3 + 2
    return count * new * steps * 2.0 * (size.body + size.unembedding) / TRAINING


def _comments(settings: DirectionSettings, size: ModelSize) -> float:
    return settings.direction_rows * 2.0 * size.body * COMMENT_TOKENS / READING


def _features(settings: DirectionSettings, size: ModelSize) -> float:
    """Bytes of the comments' features while a direction is fitted."""
    return 8.0 * settings.direction_rows * size.width * COPIES


def _dpo(settings: DpoSettings, size: ModelSize, pairs: int, weights: float) -> tuple[float, float, float]:
    schedule = settings.schedule(pairs, autocast=True)
    texts = 2 * schedule.batch_size
    tokens = texts * (settings.max_prompt_tokens + settings.max_completion_tokens) / 2
    read = texts * settings.max_completion_tokens / 2
    on_windows = settings.preset == "best" and settings.kl_on != "pairs"
    windows = schedule.windows_per_batch * settings.window_tokens if on_windows else 0
    once = 2.0 * (size.body * (tokens + windows) + size.unembedding * (read + windows))
    # Forward and backward pass of the policy, its logits again, and the forward pass of the reference.
    operations = schedule.steps * once * 5 / TRAINING
    trained = {"full": size.parameters, "lora": 0.01 * size.parameters, "gains": size.neurons}[settings.train]
    activations = min(1.0, (schedule.micro_batch_size or schedule.batch_size) / schedule.batch_size) * tokens
    # Weights, gradients and the optimiser's state in float32, copies in half precision. Or the model as it runs, and in
    # float32 what is trained with gradients and AdamW's two moments.
    memory = 14.0 * size.parameters if settings.train == "full" else weights + 16.0 * trained
    memory += activations * size.blocks * size.width * 60.0
    return operations, memory, 2.0 * size.parameters


def _explain(settings: ExplainSettings, size: ModelSize) -> float:
    prompts = settings.limit or 2 * BUILT_IN
    share = {"halves": 0.5, "three-way": 0.25, "same": 1.0}[settings.split]
    rows = measured_rows(settings)
    passages = settings.max_passages or 2000
    windows = 2.0 * (size.body + size.unembedding) * WINDOW * settings.max_windows / READING
    reported = _reported(settings, prompts)
    texts = texts_read(reported)
    # The plain model reads a condition's texts after two prompts each, for their relevance, and the condition reads the
    # ideal's texts, so that of these only the reading after the other prompt is left.
    read = _read(size, texts)
    row = _written(size, reported, PROMPT_TOKENS) + _written(size, passages, PASSAGE_TOKENS) + windows + 2 * read
    once = 2 * 2 * _written(size, share * prompts, PROMPT_TOKENS) + _comments(settings, size)
    if settings.protocol == "strict":
        row += read
        once += _written(size, texts, PROMPT_TOKENS, share=DRAWING) + read
    if settings.patching and settings.claim_directions and not settings.neurons_only:
        once += DIRECTIONS * (len(settings.toxic_neurons) + GROUPS) * _written(size, reported, PROMPT_TOKENS)
    # Under an interchange the other model reads along.
    return (rows + 2 * interchanged_rows(settings)) * row + once


def _reported(settings: ExplainSettings, prompts: int) -> int:
    """About how many prompts are reported on, of `prompts`, or of a file of their own; planning downloads nothing."""
    own = settings.report_prompts
    if own is None or is_hub_spec(own):
        return prompts if settings.split == "same" else prompts // 2
    return len(load_prompts(own, column=settings.prompt_column))


def measured_rows(settings: ExplainSettings) -> int:
    """The largest number of conditions that an explanation measures, including the plain and the tuned model."""
    rows = 2
    if settings.neurons_only:
        return rows
    rows += len(settings.steer) + len(settings.steer_w) + (1 if settings.controls and settings.steer else 0)
    if settings.patching:
        rows += len(settings.toxic_neurons) + GROUPS + (CONTROLS if settings.controls else 0)
    if settings.edits:
        cells = sum(len(settings.edits_of(form)) for form in FORMS)
        directions = 2 if settings.meant.seeds_with else 1
        rows += (directions * len(RANKINGS[settings.protocol]) + (1 if settings.controls else 0)) * cells
        rows += 1 if settings.controls and settings.edits_of("scale") else 0
    return rows


def interchanged_rows(settings: ExplainSettings) -> int:
    """The largest number of conditions by live interchange."""
    if not settings.interchanges:
        return 0
    patches = len(settings.toxic_neurons) + GROUPS + (CONTROLS if settings.controls else 0)
    whole, reverse = 3, 3
    return patches + whole + len(RANKED) * len(MEASURED) + reverse


def hours(seconds: float | None) -> str:
    """Like `40 s`, `12 min`, `3.5 h` and `4 days`."""
    if seconds is None:
        return "?"
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 72 * 3600 else f"{seconds / 86400:.0f} days"


def _gigabytes(count: float | None) -> str:
    return "?" if count is None else f"{count / 1e9:.1f} GB"
