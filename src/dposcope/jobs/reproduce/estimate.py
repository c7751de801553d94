"""Estimate time, memory and disk of every step of a reproduction, from model sizes and a short calibration.

Each step is a command, and is estimated as that command is (`jobs/estimate`). Planning downloads nothing, and reads no
tokenizer, so texts are taken as so many of a usual length.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import polars as pl

from dposcope.data.hub import is_hub_spec
from dposcope.data.prompts import load_prompts
from dposcope.data.short import short_repr
from dposcope.errors import plural
from dposcope.jobs.dpo.settings import DpoSettings
from dposcope.jobs.estimate.dpo import Trained, dpo_stages
from dposcope.jobs.estimate.explain import explain_stages
from dposcope.jobs.estimate.machine import Machine
from dposcope.jobs.estimate.measuring import Counted
from dposcope.jobs.estimate.pairs import pairs_stages
from dposcope.jobs.estimate.table import free, hours
from dposcope.jobs.estimate.table import size as told
from dposcope.jobs.estimate.work import Running, Stage, Texts, Work
from dposcope.jobs.explain.settings import ExplainSettings
from dposcope.jobs.pairs.settings import PairsSettings
from dposcope.jobs.reproduce.plan import PlannedStep
from dposcope.model.size import ModelSize, size_of
from dposcope.report.table import Column, Table

PROMPT_TOKENS = 16
"""Average length of a prompt of RealToxicityPrompts."""
PASSAGE_TOKENS = 64
COMMENT_TOKENS = 80
WINDOW = 1024
BUILT_IN = 100
"""Approximate number of built-in prompts."""
STORED = 2
"""Bytes of a stored weight."""
LONG = 24 * 3600.0
"""A GPU is advised for steps that take more seconds than this."""


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
            f"{to_do}: about {hours(sum(known))}, {told(peak)} of memory and "
            f"{told(disk)} of disk (free: {told(free(out or Path()))}){rest}. {accuracy}"
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
            "memory": [told(step.memory) for step in estimates],
            "disk": [told(step.disk) for step in estimates],
            "": ["a GPU is advised" if step.needs_gpu and not step.done else "" for step in estimates],
        },
    )
    return Table("plan", title, frame, tuple(Column(name, name) for name in view.columns), tuple(notes), view=view)


def _estimate(planned: PlannedStep, size: ModelSize | None, machine: Machine) -> Estimate:
    step = planned.step
    if size is None:
        return Estimate(planned.name, planned.done, None, None, None, needs_gpu=False)
    running = Running(size, machine.processor_bytes)
    match step.settings:
        case PairsSettings():
            stages = _pairs(running, step.settings)
        case DpoSettings():
            stages = _dpo(running, step.settings, planned.pairs)
            running = Running(size, 4) if step.settings.train == "full" else running
        case ExplainSettings():
            stages = _explain(running, step.settings)
    work = Work(step.command, step.model, running, tuple(stages))
    seconds, memory = work.seconds(machine), work.peak.total
    return Estimate(
        planned.name, planned.done, seconds, memory, work.disk, needs_gpu=seconds > LONG or memory > machine.memory
    )


def _pairs(running: Running, settings: PairsSettings) -> list[Stage]:
    comments = Texts.alike(settings.direction_rows, COMMENT_TOKENS)
    prompts = Texts.alike(2 * BUILT_IN, PROMPT_TOKENS)
    if settings.method == "pplm":
        prompts = Texts.alike(settings.count or 800, settings.prompt_tokens)
    return pairs_stages(running, settings, prompts, comments, comments, stored=STORED)


def _dpo(running: Running, settings: DpoSettings, pairs: int) -> list[Stage]:
    """Prompts and completions of half the length that they may have."""
    schedule = settings.schedule(pairs, autocast=True)
    kept = settings.validation_pairs(pairs)
    read = round((settings.max_prompt_tokens + 2 * settings.max_completion_tokens) / 2)
    on_windows = settings.preset == "best" and settings.kl_on != "pairs"
    texts = Trained(
        Texts.alike(pairs - kept, read),
        Texts.alike(kept, read),
        float(settings.max_completion_tokens),
        Texts.alike(settings.window_pool if on_windows else 0, settings.window_tokens),
    )
    return dpo_stages(running, settings, texts, schedule, stored=STORED, beside=0)


def _explain(running: Running, settings: ExplainSettings) -> list[Stage]:
    prompts = settings.limit or 2 * BUILT_IN
    share = {"halves": 0.5, "three-way": 0.25, "same": 1.0}[settings.split]
    learn = Texts.alike(max(1, round(share * prompts)), PROMPT_TOKENS)
    comments = Texts.alike(settings.direction_rows, COMMENT_TOKENS)
    data = Counted(
        learn=learn,
        choose=learn,
        comments=comments,
        prompts=Texts.alike(_reported(settings, prompts), PROMPT_TOKENS),
        passages=Texts.alike(settings.max_passages or 2000, PASSAGE_TOKENS),
        windows=Texts.alike(settings.max_windows, WINDOW),
        protocol=settings.definitions,
    )
    return explain_stages(running, settings, data, comments, stored=STORED)


def _reported(settings: ExplainSettings, prompts: int) -> int:
    """About how many prompts are reported on, of `prompts`, or of a file of their own; planning downloads nothing."""
    own = settings.report_prompts
    if own is None or is_hub_spec(own):
        return prompts if settings.split == "same" else prompts // 2
    return len(load_prompts(own, column=settings.prompt_column))
