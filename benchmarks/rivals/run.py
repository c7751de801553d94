"""The comparison as a run: what is needed is made, every rival swept, tables and figure written."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.rivals.lines import Rival
from benchmarks.rivals.options import Options
from benchmarks.rivals.price import minutes, peak_stage, run_time
from benchmarks.rivals.report import Price, at_costs, evaluations, main_table, paired_tables
from benchmarks.rivals.roster import OF_FEATURES, OF_NEURONS, Fitted, features_stage, of_features, of_neurons, trained
from benchmarks.rivals.sweep import SINGLE, Bench, Sweep, position_zero, sweep

from dposcope.artefacts import library_versions, write_json, write_text
from dposcope.data.comments import Comments, load_comments
from dposcope.errors import DposcopeError
from dposcope.evaluation.conditions.scores import BASE
from dposcope.evaluation.perplexity import count_windows
from dposcope.jobs.ingredients.data import read_data
from dposcope.jobs.ingredients.job import Job
from dposcope.jobs.ingredients.prepared import prepare, prepare_judge
from dposcope.jobs.measuring.measure import measure_condition
from dposcope.jobs.opening import open_run
from dposcope.jobs.reporter import Quiet, Reporter
from dposcope.jobs.run import RunPolicy
from dposcope.jobs.tune.search import neutral_moments
from dposcope.model.load import load_native
from dposcope.report.figures import save_figure
from dposcope.report.table import write_parquet

_SENTENCES = 500
"""Pairs of sentences that features are read of, as ProFS' published settings."""
_MOMENTS = 128
"""Windows of neutral text that moments are read of, as `dposcope tune` by default."""


def compare_rivals(options: Options, *, reporter: Reporter | None = None) -> list[Sweep]:
    """Do the whole comparison in the folder `options.out`; started again after any interruption, it goes on.

    Raises:
        DposcopeError: bad input, or a folder that holds something else.
    """
    reporter = reporter or Quiet()
    settings = options.settings
    data = read_data(settings)
    data = replace(data, report=replace(data.report, prompts=data.report.prompts[: options.limit]))
    pairs = None if options.sentence_pairs is None else _sentences(load_comments(options.sentence_pairs))
    by_training = trained(
        options.edits if "edit" in options.methods else (),
        options.tuned if "tuned" in options.methods else (),
        options.obtained,
        shuffled="shuffled" in options.methods,
        seed=settings.seed,
    )
    described: dict[str, Any] = {
        "model": options.model,
        **settings.model_dump(mode="json", exclude={"condition"}),
        "limit": options.limit,
        "sentence_pairs": options.sentence_pairs,
    }
    # Evaluations do not decide each other: more rivals, or more of each, may join a folder.
    with open_run(options.out, "rivals", described, reporter=reporter, policy=RunPolicy(adopt=True)) as run:
        reporter.stage(f"Loading {options.model}")
        job = Job(run, load_native(options.model, dtype=settings.dtype, device=settings.device), data)
        judge = prepare_judge(job, settings.seed)
        # All fitting comes before any evaluation, whose memory would be taken for theirs.
        free = _training_free(options, job, pairs)
        gigabytes = peak_stage(job, "peak")
        rivals = [*by_training, *free]
        if not rivals:
            raise DposcopeError("no rival takes part; name methods, --edit or --tuned")
        windows = min(options.windows, count_windows(job.lm, data.report.neutral) - options.placing_windows)
        if windows < 1:
            raise DposcopeError(
                f"the neutral text has no window beside the {options.placing_windows} that place strengths; "
                "give a longer --neutral"
            )
        materials = replace(data.report, judge=judge, protocol="strict", max_windows=windows)
        base = measure_condition(job, BASE, None, materials)
        _tell_costs(reporter, rivals, run.seconds().get("measure-none", 0.0), options)
        bench = Bench(job, materials, base, options.placing_windows, options.evaluations)

        known: dict[str, dict[str, Any]] = {}

        def ended(sweeps: Sequence[Sweep]) -> None:
            write_parquet(run.folder / "rivals.parquet", evaluations(sweeps, options.model, known))

        prices: dict[str, Price] = {}
        for rival in rivals:
            found = sweep(bench, rival, ended=ended)
            bench.done.append(found)
            first = found.measured[0]
            line = next(line for line in rival.lines if line.name == first.line)
            ratio = run_time(job, rival, line, first.strength)
            told = rival.obtained if rival.trained else (minutes(run.seconds, rival), gigabytes)
            prices[rival.name] = Price(ratio, *told)
            if rival.position_zero:
                other = position_zero(bench, found)
                bench.done.append(other)
                prices[other.rival.name] = prices[rival.name]
        ended(bench.done)
        _write(options, bench, prices)
        return bench.done


def _training_free(options: Options, job: Job, pairs: Comments | None) -> list[Rival]:
    """Of the methods that learn nothing; those made of features in every block are made of pairs and of comments."""
    methods, settings, folder = options.methods, options.settings, job.run.folder
    if not {*OF_NEURONS, *OF_FEATURES} & set(methods):
        return []
    fitted: Sequence[Fitted] = ()
    if set(OF_FEATURES) & set(methods):
        comments = _sentences(job.data.direction_comments)
        given = [("features", comments if pairs is None else pairs, "")]
        if pairs is not None:
            given.append(("comment-features", comments, ", by comments"))
        fitted = [
            Fitted(stage, features_stage(job, sentences, settings.batch_size, stage), suffix)
            for stage, sentences, suffix in given
        ]
    ingredients = prepare(job, settings.direction_spec)
    half = job.data.report.neutral[len(job.data.report.neutral) // 2 :]  # its beginning is for measuring
    disturbed = neutral_moments(job, half, _MOMENTS) if "least-squares" in methods else None
    rivals = of_neurons(methods, folder, ingredients, disturbed, options.evaluations)
    for one in fitted:
        # The edits' direction is fitted on the comments, too.
        direction = None if one.stage == "features" and pairs is not None else ingredients.direction
        rivals += of_features(methods, folder, one, direction, options.evaluations)
    return rivals


def _sentences(found: Comments) -> Comments:
    """As many toxic as other sentences; row i of one class answers row i of the other where they are pairs."""
    return found.balanced().first(2 * _SENTENCES).balanced()


def _tell_costs(reporter: Reporter, rivals: Sequence[Rival], seconds: float, options: Options) -> None:
    count = sum(min(SINGLE, options.evaluations) if len(rival.lines) == 1 else options.evaluations for rival in rivals)
    total = count * seconds / 60
    reporter.stage(f"{len(rivals)} rivals, up to {count} evaluations at {seconds:.0f} s, about {total:.0f} minutes")


def _write(options: Options, bench: Bench, prices: dict[str, Price]) -> None:
    # Imported late: drawing is heavy, and a run that is killed before never needs it.
    from benchmarks.rivals.figure import tradeoffs

    folder, materials, sweeps = Path(options.out), bench.materials, bench.done
    ours = next((one.name for one in options.edits if "edit" in options.methods), None)
    frame = at_costs(sweeps, ours, options.model)
    concept = materials.concept
    notes = (
        f"{options.model}, {str(bench.job.lm.dtype).removeprefix('torch.')}, strict protocol; scorer "
        f"{materials.scorer.name}; {len(materials.prompts)} prompts, {materials.max_windows} windows, "
        f"{len(materials.passages)} passages; 95 % bootstrap intervals over prompts, the cost held fixed.",
        "A method may spend less than the cost; between measured strengths scores are interpolated, from the plain "
        "model on. Every point of a sweep is measured on these prompts and this text, and the best line and strength "
        "are chosen by them, which flatters rivals of many lines.",
        f"Strengths are placed on {bench.placing_windows} other windows of neutral text. Minutes: to fit and place, "
        "without the evaluations; of what was trained before, as its folder or the user tells. GB: peak resident "
        "memory, the model's own included.",
        *(f"{found.rival.name}: {found.rival.what}." for found in sweeps),
    )
    table = main_table(frame, sweeps, prices, ours, notes)
    tables = [table, *(paired_tables(frame, ours, concept) if ours is not None else [])]
    write_text(folder / "rivals.md", "\n".join(one.markdown() for one in tables))
    write_parquet(folder / "rivals-at-costs.parquet", frame)
    drawn = tradeoffs(sweeps, ours, concept)
    for kind in ("svg", "png"):
        save_figure(drawn, folder / f"rivals.{kind}")
    rows = {
        found.rival.name: {
            "what": found.rival.what,
            "evaluations": [one.label for one in found.measured],
            "run_time": prices[found.rival.name].run_time,
            "minutes": prices[found.rival.name].minutes,
            "gigabytes": prices[found.rival.name].gigabytes,
        }
        for found in sweeps
    }
    about = {"ours": ours, "options": options.to_json(), "rivals": rows, "versions": library_versions()}
    write_json(folder / "rivals.json", about)
