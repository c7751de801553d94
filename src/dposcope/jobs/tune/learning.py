"""What `dposcope tune` makes before its search: sampled pairs, a teacher, and gains learned by DPO.

Each is a run in a subfolder of the search, and continues after an interruption like any other run.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from dposcope.artefacts import value_files, write_text
from dposcope.errors import DposcopeError
from dposcope.interventions.edit import Edit
from dposcope.jobs.dpo.job import run_dpo
from dposcope.jobs.finished import CHECKPOINT
from dposcope.jobs.pairs.job import harmless_file, run_pairs
from dposcope.jobs.run import Run, RunPolicy
from dposcope.jobs.tune.search import learned_stem
from dposcope.jobs.tune.settings import LearningTexts, Teacher, TuneSettings
from dposcope.jobs.tune.teacher import allowed_strength
from dposcope.processes.group import Processes
from dposcope.training.sharing import Sharing

TRAINED: Final = ("full", "lora")
"""Ways to train a teacher here."""
_ADOPT = RunPolicy(adopt=True)


def learn_gains(
    model: str, run: Run, prompts: Sequence[str], learn_text: str, settings: TuneSettings
) -> dict[str, Edit]:
    """Sample pairs, train the teacher if there is one, and learn the gains of every λ.

    Args:
        model: name of the base.
        run: of the search.
        prompts: to sample pairs on.
        learn_text: neutral text for the KL.
        settings: of the search; the settings of pairs and trainings follow from them.

    Returns:
        Name of the source → its gains.
    """
    if not settings.learned:
        return {}
    folder = run.folder
    asked, pairs, neutral = (folder / name for name in ("learn-prompts.jsonl", "pairs.jsonl", "neutral.jsonl"))
    run.reporter.stage("Pairs sampled from the model")
    run.write(lambda: _write_lines(asked, "prompt", prompts))
    run_pairs(model, pairs, settings.of_pairs(asked), run.reporter, policy=_ADOPT)
    run.write(lambda: _write_lines(neutral, "text", learn_text.split("\n\n")))
    texts = LearningTexts(pairs, neutral, _harmless_beside(pairs) if settings.kl_on != "neutral" else None)
    teacher = _teacher(model, run, texts, learn_text, settings)
    learned: dict[str, Edit] = {}
    for name, kl_weight in settings.learned.items():
        run.reporter.stage(f"Learning gains, λ = {kl_weight:g}")
        stem, of_run = learned_stem(run, name), settings.of_gains(kl_weight, texts, teacher)
        run_dpo(model, stem.parent, of_run, reporter=run.reporter, policy=_ADOPT, checkpoint=False)
        learned[name] = Edit.load(stem)
    return learned


def check_sharing(settings: TuneSettings, processes: Processes) -> None:
    """Refuse as many processes as cannot share the batches of a training evenly, before hours of sampling.

    Args:
        settings: of the search.
        processes: that will train.

    Raises:
        DposcopeError: they cannot; or the pairs in memory at a time are no divisor of a batch.
    """
    if not settings.learned:
        return
    training = settings.of_gains(1.0, LearningTexts(Path("pairs"), Path("neutral"), None), None)
    schedule = training.schedule(1, autocast=False)
    try:
        Sharing.of(schedule, training.objective(""), processes)
    except DposcopeError as error:
        raise DposcopeError(
            f"gains are learned from batches of {schedule.batch_size} pairs, which {processes.count} processes cannot "
            f"share evenly; start 2, 4 or {schedule.batch_size}"
        ) from error


def _harmless_beside(pairs: Path) -> Path | None:
    """The harmless texts that were sampled with pairs; None where no side is harmless, as pairs of extremes may be."""
    beside = harmless_file(pairs)
    return beside if beside.exists() else None


def _teacher(model: str, run: Run, texts: LearningTexts, learn_text: str, settings: TuneSettings) -> Teacher | None:
    """The teacher, trained here or named, at the strength that neutral text allows; None without one."""
    named = settings.teacher
    if named is None or not settings.distilled:
        return None
    if named in TRAINED:
        run.reporter.stage(f"Training the teacher: {named}")
        folder = run.folder / "teacher"
        run_dpo(model, folder, settings.of_training(named, texts), reporter=run.reporter, policy=_ADOPT)
        named = str(folder / CHECKPOINT)
    strength = settings.teacher_strength
    if strength is None:
        bound = settings.max_logppl_increase
        strength = allowed_strength(
            run,
            model,
            named,
            text=learn_text,
            bound=bound,
            dtype=settings.dtype,
            device=settings.device,
            device_map=settings.device_map,
        )
    return Teacher(named, strength)


def already_learned(run: Run, names: Iterable[str]) -> dict[str, Edit]:
    """Load the gains that another process has learned, to join its search.

    Raises:
        DposcopeError: some are not learned yet.
    """
    stems = {name: learned_stem(run, name) for name in names}
    if not all(value_files(stem).about.exists() for stem in stems.values()):
        raise DposcopeError(f"the run in {run.folder} is still learning gains; join it when its search has begun")
    return {name: Edit.load(stem) for name, stem in stems.items()}


def _write_lines(path: Path, column: str, texts: Iterable[str]) -> None:
    write_text(path, "".join(json.dumps({column: text}) + "\n" for text in texts))
