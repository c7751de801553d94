"""What `dposcope tune` does."""

from dataclasses import replace
from pathlib import Path

from dposcope.evaluation.conditions.scores import BASE
from dposcope.evaluation.sampled.ideal import texts_read
from dposcope.evaluation.sampled.real_toxicity import NEW_TOKENS
from dposcope.jobs.dpo.settings import DpoSettings
from dposcope.jobs.estimate.dpo import Trained, dpo_stages
from dposcope.jobs.estimate.edit import TRIALS
from dposcope.jobs.estimate.measuring import (
    MEANS_TOKENS,
    Counted,
    checkpoint,
    condition,
    counted,
    direction,
    ideal,
    ideal_read,
    loading,
    means,
    search_window,
    small_files,
)
from dposcope.jobs.estimate.pairs import pairs_stages
from dposcope.jobs.estimate.start import start
from dposcope.jobs.estimate.work import Passes, Running, Stage, Texts, Work
from dposcope.jobs.ingredients.job import check_fits
from dposcope.jobs.opening import check_folder
from dposcope.jobs.tune.choice import READINGS, WINDOWS, WRITINGS
from dposcope.jobs.tune.job import check_teacher, read_inputs
from dposcope.jobs.tune.learning import TRAINED
from dposcope.jobs.tune.search import LENGTH, MOST_HARMLESS
from dposcope.jobs.tune.settings import LearningTexts, Teacher, TuneSettings
from dposcope.model.load import check_source
from dposcope.training.kept import Kept


def tune_work(model: str, out: Path, settings: TuneSettings) -> Work:
    """Check everything that can be checked without weights, and count.

    Args:
        model: its name.
        out: the run's folder.
        settings: of the command.

    Raises:
        DposcopeError: bad input, as of the command itself.
    """
    check_source(model)
    check_folder(out, "tune")
    inputs = read_inputs(settings)
    started = start(model, settings, settings)
    check_fits(started.lm, inputs.data, settings, inputs.learn_text)
    if settings.learned:
        check_teacher(started.lm, settings)
    found = counted(started.lm, inputs.data, settings.direction_spec)
    window = search_window(started.lm, inputs.learn_text)
    stages = tune_stages(
        started.running,
        settings,
        found,
        window=window,
        stored=started.stored,
        beside=started.outline.beside,
        kept=Kept(started.lm),
    )
    notes = (
        "How many pairs the samples give is not known before: the most is counted. A trial that costs too much ends "
        "before it writes.",
    )
    whole = settings.teacher == "full"
    running = replace(started.running, itemsize=4) if whole else started.running
    return Work("tune", model, running, tuple(stages), started.precision, whole, notes)


def tune_stages(
    running: Running,
    settings: TuneSettings,
    data: Counted,
    *,
    window: int,
    stored: int,
    beside: int,
    kept: Kept | None = None,
) -> list[Stage]:
    """All stages.

    Args:
        running: the model.
        settings: of the command.
        data: what is read.
        window: tokens of a window on which strengths are set.
        stored: bytes of a stored weight.
        beside: bytes of the files beside the weights.
        kept: what training keeps of the model's activations; None: as of most.
    """
    batch, spec = settings.batch_size, settings.direction_spec
    stages = _learning(running, settings, data, window=window, stored=stored, kept=kept)
    stages += [loading(running, stored), direction(running, data.comments, spec), means(running, data.learn, spec)]
    if "least-squares" in settings.computed:
        stages.append(Stage("neurons on neutral text", (_neutral(running, 4 * settings.search_windows),)))
    sampled = Texts(data.choose.lengths[:MOST_HARMLESS])
    harmless = running.reads(sampled.and_new(NEW_TOKENS), batch=64, predicted=len(sampled) * NEW_TOKENS)
    texts = running.writes(data.choose, MEANS_TOKENS, batch=batch)
    drawn = running.writes(sampled, NEW_TOKENS, batch=batch, drawn=True)
    cost = (_neutral(running, settings.search_windows), harmless)
    written = [texts]
    if settings.least_relevance > 0:
        read = Texts(data.choose.lengths[: texts_read(len(data.choose))])
        written += [running.reads(read.and_new(MEANS_TOKENS), batch=batch, predicted=len(read) * MEANS_TOKENS)] * 2
    stages.append(Stage("the plain model on the search prompts", (cost[0], *written, drawn, harmless)))
    if settings.tried:
        stages.append(Stage("trial", (*cost, *written)).times(settings.tried, f"{settings.tried} trials"))
    read = Texts.alike(WINDOWS, window)
    losses = running.reads(read, batch=1, predicted=read.tokens - len(read))
    choice = (losses, *(READINGS * (losses, *cost)), *(WRITINGS * written))
    stages.append(Stage("choice of the strength", choice))
    stages += ideal(running, data, batch=batch)
    names = [BASE, "edit", *(["control"] if settings.controls else [])]
    stages += [condition(running, data, name, batch=batch) for name in names]
    stages += ideal_read(running, data, batch=batch)
    return [*stages, checkpoint(running, beside), small_files()]


def _neutral(running: Running, windows: int) -> Passes:
    read = Texts.alike(windows, LENGTH)
    return running.reads(read, batch=8, predicted=read.tokens - len(read))


def _learning(
    running: Running, settings: TuneSettings, data: Counted, *, window: int, stored: int, kept: Kept | None
) -> list[Stage]:
    """Pairs, the teacher, and the gains of every λ."""
    if not settings.learned:
        return []
    sampling = settings.of_pairs(Path("prompts"))
    _, sampled = pairs_stages(running, sampling, data.learn, Texts(), Texts(), stored=stored)
    texts = _material(settings, data, most=sampling.pairs_per_prompt)
    named = LearningTexts(Path("pairs"), Path("neutral"), Path("harmless") if settings.kl_on != "neutral" else None)
    stages, teacher = [sampled], None
    if settings.distilled and settings.teacher is not None:
        if settings.teacher in TRAINED:
            own = settings.of_training(settings.teacher, named)
            stages += _named(_trained(running, own, texts, stored=stored, kept=kept), f"teacher: {settings.teacher}")
        if settings.teacher_strength is None:
            read = Texts.alike(WINDOWS * (1 + TRIALS), window)
            passes = running.reads(read, batch=1, predicted=read.tokens - len(read))
            stages.append(Stage("strength of the teacher", (passes,), models=3.0))
        teacher = Teacher("teacher", settings.teacher_strength or 1.0)
    for weight in settings.learned.values():
        gains = _trained(running, settings.of_gains(weight, named, teacher), texts, stored=stored, kept=kept)
        stages += _named(gains[:-1], f"gains, λ = {weight:g}")
    return stages


def _trained(running: Running, settings: DpoSettings, texts: Trained, *, stored: int, kept: Kept | None) -> list[Stage]:
    schedule = settings.schedule(len(texts.train), autocast=settings.train == "full")
    return dpo_stages(running, settings, texts, schedule, stored=stored, beside=0, kept=kept)


def _named(stages: list[Stage], name: str) -> list[Stage]:
    """The training among them, by its name here; its checkpoint stays, too."""
    return [one.called(name) if one.steps else one for one in stages if one.name != "loading"]


def _material(settings: TuneSettings, data: Counted, *, most: int) -> Trained:
    """As if every prompt gave as many pairs as it may, with completions of full length."""
    new = 2 * (MEANS_TOKENS - 1)
    pairs = data.learn.times(most).and_new(new)
    kept = min(64, max(1, len(pairs) // 10))
    windows = data.learn.times(settings.sampled // 2).and_new(MEANS_TOKENS - 1)
    if settings.kl_on == "neutral":
        windows = Texts.alike(512, LENGTH - 1)
    return Trained(Texts(pairs.lengths[kept:]), Texts(pairs.lengths[:kept]), 2.0 * MEANS_TOKENS, windows)
