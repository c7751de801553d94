"""`dposcope evaluate`: any conditions of one model, on the same prompts, passages and text."""

from functools import cache
from pathlib import Path

from dposcope.artefacts import write_text
from dposcope.errors import DposcopeError
from dposcope.evaluation.scorers import load_scorer
from dposcope.evaluation.suite import BASE, Materials, Outcome, Scores
from dposcope.jobs.conditions import parse_condition
from dposcope.jobs.ingredients import Ingredients, Job, prepare, prepare_judge, read_data
from dposcope.jobs.measure import measure_condition, scores_table, write_scores
from dposcope.jobs.run import Quiet, Reporter, RunPolicy, open_run
from dposcope.jobs.settings import EvaluateSettings
from dposcope.model.load import load_native


def run_evaluate(
    model: str,
    out: Path,
    settings: EvaluateSettings,
    *,
    reporter: Reporter | None = None,
    policy: RunPolicy = RunPolicy(),  # noqa: B008 — frozen
) -> Scores:
    """Measure the plain model and every condition; interrupted, it goes on.

    Args:
        model: a bundled name, a folder, a GGUF file or a hub id.
        out: the run's folder.
        settings: see `EvaluateSettings`.
        reporter: told of progress.
        policy: what to do about what is in the folder already, and whose stages to take.

    Raises:
        DposcopeError: bad input, or a folder that holds something else.
    """
    reporter = reporter or Quiet()
    specs = [parse_condition(text) for text in settings.condition or []]
    names = [spec.name for spec in specs]
    if len(set(names)) != len(names):
        raise DposcopeError("two conditions have one name; give each its own, as in mine=scale:alpha=0.1")
    data = read_data(settings)
    scorer = load_scorer(settings.scorer)
    # Conditions do not decide each other: more of them may join a folder, and those measured before stay.
    described = {"model": model, **settings.model_dump(mode="json", exclude={"condition"})}
    free = settings.model_dump(mode="json", include={"condition"})
    with open_run(out, "evaluate", described, free=free, reporter=reporter, policy=policy) as run:
        reporter.stage(f"Loading {model}")
        job = Job(run, load_native(model, dtype=settings.dtype, device=settings.device), data)
        judge = prepare_judge(job, settings.seed)
        materials = Materials(
            prompts=data.prompts.report,
            passages=data.passages,
            neutral=data.neutral,
            scorer=scorer,
            judge=judge,
            concept=settings.meant.noun,
            protocol=settings.protocol,
            max_windows=settings.max_windows,
            spread_windows=settings.spread_windows,
            batch_size=settings.batch_size,
        )

        @cache
        def ingredients() -> Ingredients:
            return prepare(
                job,
                settings.direction,
                concept=settings.meant,
                block=settings.direction_block,
                protocol=settings.protocol,
                seed=settings.seed,
                batch_size=settings.batch_size,
            )

        outcomes: dict[str, Outcome] = {BASE: measure_condition(job, BASE, None, materials)}
        for spec in specs:
            outcomes[spec.name] = measure_condition(
                job,
                spec.name,
                spec.build(ingredients, settings.seed),
                materials,
                depends_on=spec.depends_on(out, settings.seed),
            )
        scores = write_scores(
            out,
            outcomes,
            materials,
            model=job.lm.name,
            fingerprint=job.lm.fingerprint,
            about={"conditions": dict(zip(names, settings.condition or [], strict=True))},
        )
        write_text(out / "scores.md", scores_table(scores).markdown())
        return scores
