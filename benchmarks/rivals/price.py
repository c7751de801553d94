"""What a rival costs beside log-perplexity: time at run time, time and memory to obtain."""

import resource
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from benchmarks.rivals.lines import Line, Rival

from dposcope.artefacts import write_json
from dposcope.jobs.ingredients.job import Job
from dposcope.jobs.measuring.measure import file_name
from dposcope.model.generate import generate
from dposcope.model.hooks import Intervention
from dposcope.model.language_model import LanguageModel
from dposcope.reading import read_object

_ROUNDS, _PROMPTS = 3, 32


def peak_gigabytes() -> float:
    """Largest resident set of this process so far, model and libraries included, in GB (10⁹ bytes)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e9


def overhead(lm: LanguageModel, intervention: Intervention, prompts: tuple[str, ...]) -> list[float]:
    """Time of generation under hooks over that of the plain model, round by round, the two in turn."""

    def seconds(context: AbstractContextManager[object]) -> float:
        with context:
            start = time.perf_counter()
            generate(lm, prompts, stop_at_end=False)
            return time.perf_counter() - start

    seconds(nullcontext())  # warms up
    return [seconds(intervention.on(lm)) / seconds(nullcontext()) for _ in range(_ROUNDS)]


def run_time(job: Job, rival: Rival, line: Line, strength: float) -> float | None:
    """Median ratio to the plain model, a stage of the run; None where weights do it and nothing is added.

    Args:
        job: run, model and data.
        rival: whose hooks are timed.
        line: one of its lines.
        strength: any; the work is the same.
    """
    if rival.folds:
        return None
    name = file_name(f"overhead-{rival.name}")
    file = job.run.folder / "overhead" / f"{name}.json"
    prompts = job.data.report.prompts[:_PROMPTS]
    ratios: list[float] = job.run.stage(
        name,
        f"Timing: {rival.name}",
        inputs={**job.model, "line": line.name, "strength": strength, "made_from": dict(rival.depends_on)},
        files=[file],
        make=lambda: write_json(file, {"ratios": overhead(job.lm, line.at(strength), prompts)}),
        load=lambda: read_object(file)["ratios"],
    )
    return statistics.median(ratios)


def peak_stage(job: Job, name: str) -> float:
    """The peak at this point of the run, kept when the run goes on in another process."""
    file = job.run.folder / f"{name}.json"
    return job.run.stage(
        name,
        "Memory so far",
        inputs=job.model,
        files=[file],
        make=lambda: write_json(file, {"gigabytes": peak_gigabytes()}),
        load=lambda: float(read_object(file)["gigabytes"]),
    )


def minutes(seconds: Callable[[], dict[str, float]], rival: Rival) -> float:
    """Of the stages that made a rival, placing its strengths among them."""
    placing = [file_name(f"place-{rival.name}-{line.name}") for line in rival.lines]
    found = seconds()
    return sum(found.get(stage, 0.0) for stage in (*rival.stages, *placing)) / 60
