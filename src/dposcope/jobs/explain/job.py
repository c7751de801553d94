"""`dposcope explain`: what tuning changed, neuron by neuron, and the proof by patching (paper, sections 4 to 6).

Direction from comments → mean activations of both models while they write → contributions and groups → toxic
neurons → the base model patched, steered and edited, each measured beside the tuned one → tables, figures, the
paper's claims one by one → a report with a browser of all neurons.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dposcope.artefacts import library_versions, value_digest, write_json
from dposcope.directions.endpoint import Price
from dposcope.directions.judge import TokenJudge, load_judge
from dposcope.errors import DposcopeError
from dposcope.evaluation.conditions.scores import Scores
from dposcope.interventions.paired.interchange import HeldModel
from dposcope.jobs.explain.beside_paper import beside_paper_tables
from dposcope.jobs.explain.browser import browser_of
from dposcope.jobs.explain.claims.over_directions import PatchedAlong, claims_along, claims_frame
from dposcope.jobs.explain.conditions import explain_conditions
from dposcope.jobs.explain.directions import Along, claim_directions, explained_along, patched_along
from dposcope.jobs.explain.explanation import Explanation, explanation_of
from dposcope.jobs.explain.facts import KIND
from dposcope.jobs.explain.interchange.carriers import find_carriers
from dposcope.jobs.explain.interchange.sets import InterchangeSet, interchange_conditions, interchange_sets
from dposcope.jobs.explain.interchange.tables import Interchanged
from dposcope.jobs.explain.patches import patches
from dposcope.jobs.explain.repetitions import (
    fitted_comments,
    free_direction,
    other_kinds,
    prompt_parts,
    repetitions,
)
from dposcope.jobs.explain.report import write_explain_report
from dposcope.jobs.explain.results import Results, pictures_of, tables_of
from dposcope.jobs.explain.settings import ExplainSettings
from dposcope.jobs.explain.tables.stability import stability_summary
from dposcope.jobs.explain.tuned_side import TunedSide
from dposcope.jobs.ingredients.data import Data, read_data
from dposcope.jobs.ingredients.job import Job, check_fits
from dposcope.jobs.ingredients.prepared import Ingredients, means_stage, prepare, prepare_judge
from dposcope.jobs.measuring.ideal import with_ideal
from dposcope.jobs.measuring.measure import Condition, measure_all, write_scores
from dposcope.jobs.processes.shared_run import open_shared_run
from dposcope.jobs.reporter import Quiet, Reporter
from dposcope.jobs.run import RunPolicy
from dposcope.model.chat.prompts import asked_by
from dposcope.model.checks.identity import identity
from dposcope.model.devices.spread import is_spread_over
from dposcope.model.language_model import LanguageModel
from dposcope.model.load import device_of, load_native
from dposcope.neurons.contributions import Contributions, contributions
from dposcope.neurons.folds import FoldedMeans
from dposcope.neurons.stability import stability
from dposcope.processes.group import Processes
from dposcope.report.browser.neurons import NeuronBrowser
from dposcope.report.table import clear_others, of_run, write_parquet


@dataclass(frozen=True, eq=False)
class ExplainRun:
    """What a finished run left."""

    folder: Path
    explanation: Explanation
    scores: Scores
    results: Results


def run_explain(
    base: str,
    tuned: str,
    out: Path,
    settings: ExplainSettings,
    *,
    raw: bool = False,
    reporter: Reporter | None = None,
    policy: RunPolicy = RunPolicy(),  # noqa: B008 — frozen
) -> ExplainRun:
    """Explain `tuned` beside `base`; interrupted, it goes on.

    In several processes (`torchrun`, `accelerate launch`) each calls this, and they share the work.

    Args:
        base: a bundled name, a folder, a GGUF file or a hub id.
        tuned: the model tuned from it, of the same architecture, the folder of an adapter, or an edit of it (see
            `edit_stem`).
        out: the run's folder.
        settings: see `ExplainSettings`.
        raw: write offensive words in tables as they are.
        reporter: told of progress.
        policy: what to do about what is in the folder already.

    Raises:
        DposcopeError: bad input, models that do not belong together, or a folder that holds something else.
    """
    processes = Processes.joined(settings.device)
    reporter = (reporter if processes.is_main else None) or Quiet()
    check_explain(settings)
    side = TunedSide.read(tuned, stream=out if settings.stream else None)
    data = read_data(settings)
    judge = _token_judge(settings, data, reporter)
    of_run = described(base, tuned, settings, raw=raw)
    read = data.read_prompts(chooses=False)
    with (
        open_shared_run(
            out,
            "explain",
            of_run.settings,
            processes=processes,
            free=of_run.free,
            prompts=read,
            reporter=reporter,
            policy=policy,
        ) as run,
        ExitStack() as beside,
        ExitStack() as live,
    ):
        data.tell(reporter)
        if settings.stream and side.edit is not None:
            reporter.note("An edit shares the weights of its base, so there is no second model to stream.")
        reporter.stage(f"Loading {base}")
        lm = asked_by(_base(base, out, settings), settings.chat_options)
        check_fits(lm, data, settings)
        doubts = side.doubts(lm, base)
        for note in doubts:
            reporter.note(f"{tuned}: {note}.")
        reporter.stage(f"Loading {tuned}")
        other = beside.enter_context(side.second_model(lm))
        job = Job(run, lm, data)
        spec, parts = settings.direction_spec, prompt_parts(settings.folds, len(data.learn))
        fitted = fitted_comments(job, spec) if settings.seeds else None
        made = prepare(job, spec, folds=parts, features=None if fitted is None else fitted.features)
        after = _means_after(job, other, settings, parts)
        change = _contributions(job, other, made, after)
        kinds = {} if fitted is None else other_kinds(job, fitted)
        again = repetitions(job, other, made, after, change, fitted, kinds, settings.repeats)
        stable = stability(again, toxic=max(settings.toxic_neurons))
        reporter.stage("Groups, toxic neurons, subspace")
        found = _explanation(lm, other, made, after, change, judge, settings)
        browser = _browser(job, other, found, settings)
        carriers = None
        if settings.interchanges:
            carriers = find_carriers(job, other, change, seed=settings.seed, batch_size=settings.batch_size)
        others: list[Along] = []
        if settings.judges_along:
            reporter.stage("Groups and toxic neurons along other directions")
            directions = claim_directions(job, made.direction, spec)
            sizes, seed = settings.toxic_neurons, settings.seed
            others = explained_along(job, other, change, directions, judge, toxic_sets=sizes, seed=seed)
        # From here on the other model is loaded only for the conditions that need it.
        reversible = other.writer is None
        notes = (*other.notes, *doubts, *side.notes)
        about = {"tuned": other.name, "tuned_fingerprint": other.fingerprint}
        of_tuned = identity(other)
        del other
        beside.close()
        chosen = patches(change, toxic=found.patch_sets(), seed=settings.seed, controls=settings.controls)
        patched = chosen if settings.patching and not settings.neurons_only else []
        strengths = settings.strengths
        # A concept without seed words has no such direction, and its table no such edits.
        free = free_direction(job, spec) if strengths.edits and spec.concept.seeds_with else None
        conditions = explain_conditions(
            made, free, side, change, patched, strengths, protocol=spec.protocol, of=of_tuned
        )
        sets: list[InterchangeSet] = []
        if settings.interchanges:
            rankings = None if carriers is None else carriers.rankings
            sets = interchange_sets(lm, chosen, rankings, reverse=reversible)
        held = HeldModel(side.intervention(), live)
        conditions += interchange_conditions(sets, held, of_tuned)
        materials = with_ideal(job, data.report, prepare_judge(job, settings.seed), seed=settings.seed)
        outcomes = measure_all(job, [Condition(row.name, row.build, row.about) for row in conditions], materials)
        scores = write_scores(job, outcomes, materials, about=about)
        along = [PatchedAlong(one, patched_along(job, one, materials)) for one in others]
        results = Results(
            lm, found, conditions, outcomes, scores, {patch.name: len(patch.neurons) for patch in chosen},
            side.training, settings.instruments, notes, stable, kinds.get("probe"), Interchanged(sets, carriers),
            claims_along(along, outcomes, scores),
        )  # fmt: skip
        reporter.stage("Tables, figures, report")
        shown = settings.model_dump(mode="json")
        run.write(lambda: _write(out, results, browser, materials.prompts, shown, raw=raw))
        return ExplainRun(out, found, scores, results)


_ROWS = {
    *(
        "neurons_only",
        "patching",
        "interchange",
        "claim_directions",
        "edits",
        "edit_forms",
        "edit_grid",
        "steer",
        "steer_w",
        "controls",
        "toxic_neurons",
        "lens_tokens",
        "stream",
    ),
    *("token_judge", "token_price", "requests_per_minute", "folds", "seeds", "bootstrap"),
}
"""Settings that choose what is measured or shown but decide no other row: a run may be started again with others of
them, and what was measured before stays."""


@dataclass(frozen=True)
class Described:
    """The settings of a run as its folder names them; see `open_run`."""

    settings: dict[str, Any]
    free: dict[str, Any]


def described(base: str, tuned: str, settings: ExplainSettings, *, raw: bool) -> Described:
    """What decides an explanation of two models."""
    return Described(
        {"base": base, "tuned": tuned, **settings.model_dump(mode="json", exclude=_ROWS)},
        {**settings.model_dump(mode="json", include=_ROWS), "raw": raw},
    )


def check_explain(settings: ExplainSettings) -> None:
    """Refuse numbers that mean nothing.

    Raises:
        DposcopeError: no number of toxic neurons; one fold or one seed, which gives nothing to compare; --stream with
            an option that it does not go with.
    """
    if not settings.toxic_neurons:
        raise DposcopeError("--toxic-neurons is empty; give a number of neurons, such as 256")
    for name, count in (("folds", settings.folds), ("seeds", settings.seeds)):
        if count == 1:
            raise DposcopeError(f"--{name} 1 gives nothing to compare; give 2 or more, or 0 for none")
    if settings.stream and settings.quantise is not None:
        raise DposcopeError("--quantise and --stream do not go together; leave one of the two out")
    if settings.stream and is_spread_over(settings.device_map, settings.device):
        raise DposcopeError("--device-map auto and --stream do not go together; leave one of the two out")


def _token_judge(settings: ExplainSettings, data: Data, reporter: Reporter) -> TokenJudge:
    """What says which tokens are toxic."""
    return load_judge(
        settings.token_judge,
        concept=settings.meant,
        scorer=data.report.scorer,
        price=None if settings.token_price is None else Price(*settings.token_price),
        requests_per_minute=settings.requests_per_minute,
        announce=reporter.stage,
        progress=reporter.progress,
    )


def _base(base: str, out: Path, settings: ExplainSettings) -> LanguageModel:
    """The base. With --stream, main memory holds neither model whole; a GPU holds the base."""
    on_cpu = device_of(settings.device).type == "cpu"
    return load_native(base, **settings.loading, stream=out if settings.stream and on_cpu else None)


def _means_after(job: Job, other: LanguageModel, settings: ExplainSettings, folds: int) -> FoldedMeans:
    """The stage `means-after`."""
    return means_stage(
        job,
        other,
        "means-after",
        "Neuron means while the tuned model writes",
        inputs={**job.model, "tuned": identity(other)},
        protocol=settings.protocol,
        batch_size=settings.batch_size,
        folds=folds,
    )


def _contributions(job: Job, other: LanguageModel, made: Ingredients, after: FoldedMeans) -> Contributions:
    """The stage `contributions`."""
    run = job.run
    return run.value(
        "contributions",
        "Contributions of all neurons",
        Contributions,
        inputs={
            **job.model,
            "tuned": identity(other),
            "made_from": [value_digest(run.folder / name) for name in ("direction", "means", "means-after")],
        },
        make=lambda: contributions(job.lm, other, made.means, after.whole, made.direction.vector),
    )


def _explanation(
    lm: LanguageModel,
    other: LanguageModel,
    made: Ingredients,
    after: FoldedMeans,
    change: Contributions,
    judge: TokenJudge,
    settings: ExplainSettings,
) -> Explanation:
    return explanation_of(
        lm,
        other,
        made.direction,
        change,
        judge=judge,
        toxic_sets=settings.toxic_neurons,
        lens_tokens=settings.lens_tokens,
        seed=settings.seed,
        parts=(made.folds, after.folds),
    )


def _browser(job: Job, other: LanguageModel, found: Explanation, settings: ExplainSettings) -> NeuronBrowser:
    job.run.reporter.stage("Tokens and activations for the neuron browser")
    return browser_of(
        job.lm,
        other,
        found,
        job.data.learn,
        lens_tokens=settings.lens_tokens,
        provenance={**library_versions(), "seed": str(settings.seed), "protocol": settings.protocol},
    )


def _write(
    out: Path,
    results: Results,
    browser: NeuronBrowser,
    prompts: Sequence[str],
    settings: dict[str, Any],
    *,
    raw: bool,
) -> None:
    run = {
        "model": results.lm.name,
        "fingerprint": results.lm.fingerprint,
        "protocol": results.scores.protocol,
    }
    tables = [table.of_run(**run) for table in (*tables_of(results), *beside_paper_tables(results))]
    pictures = pictures_of(results)
    for table in tables:
        table.save(out / "tables", raw=raw)
    write_parquet(out / "tables" / "neurons.parquet", of_run(results.explanation.contributions.to_polars(), **run))
    write_parquet(out / "claims.parquet", of_run(claims_frame(results.all_claims), **run))
    if results.interchanged.sets:
        write_parquet(out / "interchange.parquet", of_run(results.interchange, **run))
    for picture in pictures:
        picture.save(out / "figures")
    clear_others(out / "tables", {"neurons", *(table.name for table in tables)})
    clear_others(out / "figures", {picture.name for picture in pictures})
    write_json(out / "tables.json", [table.to_json() for table in tables])
    write_json(out / "explain.json", _summary(results, settings))
    write_explain_report(out / "report.html", results, browser, prompts, tables=tables, pictures=pictures)


def _summary(results: Results, settings: dict[str, Any]) -> dict[str, Any]:
    """The main numbers, for scripts."""
    found = results.explanation
    return {
        "kind": KIND,
        "settings": settings,
        "base": results.lm.name,
        "fingerprint": results.lm.fingerprint,
        "tuned": results.scores.about["tuned"],
        "tuned_fingerprint": results.scores.about["tuned_fingerprint"],
        "tuned_notes": list(results.notes),
        "protocol": results.scores.protocol,
        "groups": {
            str(share.group): {"neurons": share.neurons, "of_moved": share.of_moved, "of_sum": share.of_contribution}
            for share in found.shares.groups
        },
        "reducing": found.shares.share_reducing,
        "net": found.shares.net,
        "negative_before": found.shares.negative_before,
        "certain": len(found.contributions.certain) / found.shares.neurons,
        "vector_cosine": found.change.vector_cosine,
        "shift_percent": found.change.shift_percent,
        "share_of_dpo": {name: None if share is None else share.to_dict() for name, share in results.shares.items()},
        "stability": stability_summary(results.stability),
        "claims": [claim.to_dict() for claim in results.claims],
    }
