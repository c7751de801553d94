"""`dposcope evaluate`: any conditions of one model, on the same prompts, passages and text."""

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from dposcope.artefacts import write_text
from dposcope.errors import DposcopeError
from dposcope.evaluation.conditions.outcome import Outcome
from dposcope.evaluation.conditions.scores import BASE, Scores
from dposcope.jobs.evaluate.settings import EvaluateSettings
from dposcope.jobs.ingredients.data import Data, read_data
from dposcope.jobs.ingredients.job import Job
from dposcope.jobs.ingredients.prepared import Ingredients, prepare, prepare_judge
from dposcope.jobs.measuring.conditions import ConditionSpec, check_conditions, parse_condition
from dposcope.jobs.measuring.engine import Servers, connected, told
from dposcope.jobs.measuring.ideal import with_ideal
from dposcope.jobs.measuring.measure import measure_condition, scores_table, write_scores
from dposcope.jobs.origin import foreign_edits
from dposcope.jobs.processes.shared_run import open_shared_run
from dposcope.jobs.reporter import Reporter
from dposcope.jobs.run import RunPolicy
from dposcope.model.chat.prompts import asked_like
from dposcope.model.load import load_native
from dposcope.neurons.sets import NeuronSet
from dposcope.processes.group import Processes
from dposcope.report.figures import save_figure
from dposcope.report.front import front_figure
from dposcope.report.sampled import sampled_table

FIGURE = "front.svg"
"""Toxicity left against the cost on harmless text."""


@dataclass(frozen=True, eq=False)
class Asked:
    """What the settings of an evaluation name, read before any model is loaded."""

    specs: list[ConditionSpec]
    servers: Servers | None
    """None: the model itself writes."""
    data: Data

    @property
    def learns(self) -> bool:
        """Whether a condition reads the prompts to learn from."""
        return any(spec.learned for spec in self.specs)


def read_asked(settings: EvaluateSettings) -> Asked:
    """Read conditions, servers and data.

    Raises:
        DposcopeError: a condition, a server or a file is not as it must be.
    """
    specs = [parse_condition(text) for text in settings.condition or []]
    names = [spec.name for spec in specs]
    if len(set(names)) != len(names):
        raise DposcopeError("two conditions have one name; give each its own, as in mine=scale:alpha=0.1")
    servers = None
    if settings.base_url is not None:
        servers = Servers.read(settings.base_url, names, at_once=settings.concurrency)
    return Asked(specs, servers, read_data(settings))


def run_evaluate(
    model: str,
    out: Path,
    settings: EvaluateSettings,
    *,
    reporter: Reporter | None = None,
    policy: RunPolicy = RunPolicy(),  # noqa: B008 — frozen
) -> Scores:
    """Measure the plain model and every condition; interrupted, it goes on.

    In several processes (`torchrun`, `accelerate launch`) each calls this, and they share the work.

    Args:
        model: a bundled name, a folder, a GGUF file or a hub id.
        out: the run's folder.
        settings: see `EvaluateSettings`.
        reporter: told of progress.
        policy: what to do about what is in the folder already, and whose stages to take.

    Raises:
        DposcopeError: bad input, or a folder that holds something else.
    """
    processes = Processes.joined(settings.device)
    if settings.base_url is not None and not processes.alone:
        raise DposcopeError("--engine openai works in one process; start it without torchrun or accelerate")
    asked = read_asked(settings)
    specs, data = asked.specs, asked.data
    names = [spec.name for spec in specs]
    # Conditions do not decide each other: more of them may join a folder, and those measured before stay.
    # A server may have moved: its model is known by what it writes.
    unbound = {"condition", "base_url", "concurrency"}
    described = {"model": model, **settings.model_dump(mode="json", exclude=unbound)}
    free = settings.model_dump(mode="json", include=unbound)
    read = data.read_prompts(chooses=False)
    with open_shared_run(
        out, "evaluate", described, processes=processes, free=free, prompts=read, reporter=reporter, policy=policy
    ) as run:
        job = Job.begin(run, model, data, settings, learns=asked.learns)
        check_conditions(specs, job.lm)
        for note in foreign_edits(((spec.name, stem) for spec in specs for stem in spec.edits), job.lm, model):
            run.reporter.note(f"{note}.")
        served = connected(job, asked.servers)
        judge = prepare_judge(job, settings.seed)
        report = replace(data.report, spread_windows=settings.spread_windows)
        if settings.protocol == "rtp":
            named, second = settings.fluency_model, None
            if named is not None:
                reader = load_native(
                    named, dtype=settings.dtype, device=settings.device, device_map=settings.device_map
                )
                second = asked_like(reader, job.lm)
            report = replace(report, samples=settings.rtp_samples, sample_seed=settings.seed, second=second)
        materials = with_ideal(job, report, judge, seed=settings.seed, served=served.get(BASE))

        @cache
        def ingredients() -> Ingredients:
            return prepare(job, settings.direction_spec)

        run.reporter.ahead(1 + len(specs))
        outcomes: dict[str, Outcome] = {BASE: measure_condition(job, BASE, None, materials, served=served.get(BASE))}
        for row, spec in enumerate(specs):
            # First, since what it depends on is made with it.
            intervention = spec.build(ingredients, settings.seed, among=NeuronSet.of(job.lm))
            run.reporter.ahead(len(specs) - row)
            outcomes[spec.name] = measure_condition(
                job,
                spec.name,
                intervention,
                materials,
                depends_on=spec.depends_on(out, settings.seed),
                served=served.get(spec.name),
            )
            del intervention  # those of a large model are not held two at once
        about: dict[str, Any] = {"conditions": dict(zip(names, settings.condition or [], strict=True))}
        if served:
            about["engine"] = {name: told(one, outcomes[name]) for name, one in served.items()}
        scores = write_scores(job, outcomes, materials, about=about)
        run.write(lambda: _write_report(scores, out))
        return scores


def _write_report(scores: Scores, out: Path) -> None:
    tables = [table for table in (scores_table(scores), sampled_table(scores)) if table is not None]
    write_text(out / "scores.md", "\n".join(table.markdown() for table in tables))
    figure = front_figure(scores)
    if figure is not None:
        save_figure(figure, out / FIGURE)
