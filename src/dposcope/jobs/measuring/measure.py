"""Stages that measure conditions, and the files that hold what was measured."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from dposcope.artefacts import text_digest, write_json
from dposcope.errors import DposcopeError
from dposcope.evaluation.conditions.materials import CONCEPT, Materials
from dposcope.evaluation.conditions.measure import measure
from dposcope.evaluation.conditions.outcome import NO_SCORER, Outcome, StoredOutcome
from dposcope.evaluation.conditions.scores import BASE, Scores, summarise
from dposcope.evaluation.numbers import DIFFERENCE, MEAN, RATIO
from dposcope.evaluation.sampled.ideal import IDEAL, IdealOutcome, StoredIdealOutcome, measure_ideal
from dposcope.evaluation.statistics.intervals import columns_of
from dposcope.jobs.ingredients.job import Job
from dposcope.model.chat.prompts import asked_how
from dposcope.model.checks.identity import identity
from dposcope.model.engine.served import Served
from dposcope.model.hooks import Intervention
from dposcope.model.language_model import LanguageModel
from dposcope.report.costs import UNSHARED, cost_columns, cost_notes, cost_values, scorer_label
from dposcope.report.table import Column, Table, frame_of, write_parquet


def measure_condition(
    job: Job,
    name: str,
    intervention: Intervention | None,
    materials: Materials,
    *,
    depends_on: Mapping[str, Any] | None = None,
    served: Served | None = None,
) -> Outcome:
    """The stage that measures one condition; its file is `conditions/NAME.json`.

    Args:
        job: run, model and data.
        name: of the condition.
        intervention: None for the plain model.
        materials: what is measured.
        depends_on: what the intervention was made from, beyond data and model.
        served: writes the texts in the condition's place; None: the condition itself.
    """
    run, data = job.run, job.data
    inputs = {
        **job.model,
        **materials.digests,
        "scorer": [materials.scorer.name, materials.scorer.digest],
        "judge": data.digests["judge_comments"] if materials.judge is not None else None,
        "further": _further(materials),
        "ideal": None if materials.ideal is None else materials.ideal.digest,
        "protocol": materials.protocol,
        "windows": [materials.skip_windows, materials.max_windows],
        "spread": materials.spread_windows,
        "batch_size": materials.batch_size,
        "intervention": dict(depends_on or {}),
        "samples": [materials.samples, materials.sample_seed] if materials.samples else None,
        "second": None if materials.second is None else _identity(materials.second),
        **({} if served is None else {"engine": served.identity}),
    }

    def make() -> dict[str, Any]:
        outcome = measure(job.lm, intervention, materials, served=served, progress=run.reporter.progress)
        if not outcome.finite:
            precision = str(job.lm.dtype).removeprefix("torch.")
            mend = "give another --dtype" if intervention is None else "give another --dtype, or a weaker condition"
            raise DposcopeError(
                f"the model overflows under the condition {name!r} in {precision}, so that a log-perplexity is no "
                f"number; {mend}"
            )
        return outcome.to_json()

    told = run.json(
        f"measure-{file_name(name)}",
        f"Measuring: {name}",
        StoredOutcome,
        inputs=inputs,
        make=make,
        file=run.folder / "conditions" / f"{file_name(name)}.json",
    )
    outcome = Outcome.from_json(told)
    if outcome.agreement is not None and outcome.agreement.note is not None:
        run.reporter.note(f"{name}: {outcome.agreement.note}.")
    return outcome


def _identity(lm: LanguageModel) -> dict[str, Any]:
    return {"identity": identity(lm), **asked_how(lm)}


def _further(materials: Materials) -> dict[str, list[str]]:
    return {name: [scorer.name, scorer.digest] for name, scorer in materials.further.items()}


def measure_limit(job: Job, base: Outcome, materials: Materials) -> IdealOutcome | None:
    """The stage `measure-ideal`; its file is `conditions/ideal.json`. None without an ideal.

    Args:
        job: run, model and data.
        base: of the plain model, which has read the ideal's texts.
        materials: what is measured.
    """
    run, ideal = job.run, materials.ideal
    if ideal is None:
        return None
    told = run.json(
        f"measure-{IDEAL}",
        "Measuring: the ideal",
        StoredIdealOutcome,
        inputs={
            **job.model,
            "ideal": ideal.digest,
            "scorer": [materials.scorer.name, materials.scorer.digest],
            "judge": job.data.digests["judge_comments"] if materials.judge is not None else None,
            "further": _further(materials),
            "batch_size": materials.batch_size,
        },
        make=lambda: measure_ideal(
            job.lm,
            ideal,
            materials.scorers,
            own=base.harmless,
            batch_size=materials.batch_size,
            progress=run.reporter.progress,
        ).to_json(),
        file=run.folder / "conditions" / f"{IDEAL}.json",
    )
    return IdealOutcome.from_json(told)


@dataclass(frozen=True)
class Condition:
    """A condition that is to be measured."""

    name: str
    build: Callable[[], Intervention | None]
    """Called when its turn comes: interventions of large models are not all held at once. None: the plain model."""
    depends_on: Mapping[str, Any]
    """See `measure_condition`."""


def measure_all(job: Job, conditions: Sequence[Condition], materials: Materials) -> dict[str, Outcome]:
    """Measure the plain model, then every condition; each is a stage."""
    every = (Condition(BASE, lambda: None, {}), *conditions)
    outcomes: dict[str, Outcome] = {}
    for row, one in enumerate(every):
        job.run.reporter.ahead(len(every) - row)
        outcomes[one.name] = measure_condition(job, one.name, one.build(), materials, depends_on=one.depends_on)
    return outcomes


def file_name(name: str) -> str:
    """A condition's name as a file name: plain where it is plain, else with a digest."""
    plain = "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in name)
    if plain == name and len(name.encode()) <= 100:
        return plain
    # File systems count bytes, and a scratch name needs some of its own.
    return f"{plain.encode()[:100].decode(errors='ignore')}-{text_digest(name)[:8]}"


def write_scores(
    job: Job, outcomes: Mapping[str, Outcome], materials: Materials, *, about: Mapping[str, Any]
) -> Scores:
    """Write `scores.json`, `scores.parquet` and `samples.parquet`; see docs/reference/files.md for their columns."""
    scores = summarise(
        outcomes,
        protocol="rtp" if materials.samples else materials.protocol,
        model=job.lm.name,
        about={**about, **asked_how(job.lm)},
        concept=materials.concept,
        fingerprint=job.lm.fingerprint,
        ideal=measure_limit(job, outcomes[BASE], materials),
        vocabulary=len(job.lm.tokenizer),
    )
    job.run.write(lambda: _write(job, scores, outcomes, materials))
    return scores


def _write(job: Job, scores: Scores, outcomes: Mapping[str, Outcome], materials: Materials) -> None:
    folder, model, fingerprint, protocol = job.run.folder, job.lm.name, job.lm.fingerprint, scores.protocol
    rows = [
        {
            "protocol": protocol,
            "model": model,
            "fingerprint": fingerprint,
            "condition": name,
            "measure": measure_name,
            **estimate.to_dict(),
        }
        for name, measures in scores.conditions.items()
        for measure_name, estimate in measures.items()
    ]
    write_parquet(folder / "scores.parquet", pl.DataFrame(rows))
    samples = [
        {
            "protocol": protocol,
            "model": model,
            "fingerprint": fingerprint,
            "condition": name,
            "row": row,
            "prompt": materials.prompts[row],
            "continuation": text,
            **{
                part: float(outcome.per_prompt[part][row]) if part in outcome.per_prompt else None
                for part in ("toxicity", "judge", *NO_SCORER, *materials.further)
            },
        }
        for name, outcome in outcomes.items()
        for row, text in enumerate(outcome.continuations)
    ]
    write_parquet(folder / "samples.parquet", pl.DataFrame(samples))
    write_json(folder / "scores.json", scores.to_json())


def read_samples(folder: Path) -> pl.DataFrame:
    """The continuations of a finished run with their scores, a row a condition and prompt.

    Raises:
        DposcopeError: the run has none.
    """
    path = folder / "samples.parquet"
    if not path.exists():
        raise DposcopeError(f"{folder} holds no samples.parquet; name the folder of a finished run")
    return pl.read_parquet(path)


_BEFORE = {"toxicity": CONCEPT, "judge": scorer_label("judge")}
_AFTER = {"logppl": "log-PPL", "f1": "F1", "repetition": "repetition", "empty": "empty"}


def scores_table(scores: Scores) -> Table:
    """One line per condition: means with 95 % intervals, and the paired comparison with `none`.

    A star marks a difference from `none` (see `Scores.differing`), a double dagger one that another scorer does not
    share.
    """
    base = scores.conditions[BASE]
    further = {name: scorer_label(name) for name in scores.further}
    named = _BEFORE | {"toxicity": scores.concept} | further | _AFTER
    labels = {name: label for name, label in named.items() if name in base}
    lines: list[dict[str, Any]] = []
    for name, values in scores.conditions.items():
        against, unshared = scores.against_none.get(name), scores.unshared(name)
        line: dict[str, Any] = {"condition": name}
        for measured in labels:
            mark = ("*" if name in scores.differing(measured) else "") + (UNSHARED if measured in unshared else "")
            line |= columns_of(measured, values.get(measured)) | {f"{measured}_mark": mark}
        line |= columns_of("ratio", None if against is None else against.toxicity_ratio)
        line |= columns_of("rise", None if against is None else against.differences["logppl"])
        lines.append(line | cost_values(scores, name))
    counts = ", ".join(f"{label} {base[name].n}" for name, label in labels.items())
    marks = f" *: {scores.holm_note}." if scores.against_none else ""
    return Table(
        "scores",
        f"Conditions of {scores.model}, {scores.protocol} protocol"
        f"{', prompts as messages in the chat template' if 'asking' in scores.about else ''}"
        f"{', texts written by servers' if 'engine' in scores.about else ''}.",
        frame_of(lines),
        (
            Column("condition", "condition"),
            *(Column.measured(name, label, MEAN, mark=f"{name}_mark") for name, label in labels.items()),
            Column.measured("ratio", f"{scores.concept}, share of the plain model's", RATIO),
            Column.measured("rise", "log-PPL, paired rise", DIFFERENCE),
            *cost_columns(scores),
        ),
        (
            f"Mean (95 % bootstrap interval); items: {counts}.{marks}",
            *cost_notes(scores),
        ),
    )
