"""What `dposcope tune` makes before its search: sampled pairs, a teacher, and gains learned by DPO.

Each is a run in a subfolder of the search, and continues after an interruption like any other run.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from dposcope.artefacts import value_files, write_text
from dposcope.errors import DposcopeError
from dposcope.interventions.edit import Edit
from dposcope.jobs.dpo.job import run_dpo
from dposcope.jobs.dpo.settings import DpoSettings
from dposcope.jobs.pairs.job import harmless_file, run_pairs
from dposcope.jobs.pairs.settings import PairsSettings
from dposcope.jobs.run import CHECKPOINT, Run, RunPolicy
from dposcope.jobs.tune.search import learned_stem
from dposcope.jobs.tune.settings import TuneSettings
from dposcope.jobs.tune.teacher import allowed_strength

TRAINED = ("full", "lora")
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
        settings: see `TuneSettings`.

    Returns:
        Name of the source → its gains.
    """
    if not settings.learned:
        return {}
    run.reporter.stage("Pairs sampled from the model")
    _write_lines(_prompts(run), "prompt", prompts)
    run_pairs(model, _pairs(run), _pair_settings(run, settings), run.reporter, policy=_ADOPT)
    _write_lines(_neutral(run), "text", learn_text.split("\n\n"))
    teacher = settings.teacher if settings.distilled else None
    if teacher in TRAINED:
        run.reporter.stage(f"Training the teacher: {teacher}")
        folder = run.folder / "teacher"
        of_teacher = DpoSettings(train=teacher, **_training(run, settings))
        run_dpo(model, folder, of_teacher, reporter=run.reporter, policy=_ADOPT)
        teacher = str(folder / CHECKPOINT)
    imitated: dict[str, Any] = {}
    if teacher is not None:
        strength = settings.teacher_strength
        if strength is None:
            bound = settings.max_logppl_increase
            strength = allowed_strength(run, model, teacher, text=learn_text, bound=bound, settings=settings)
        imitated = {"teacher": teacher, "teacher_strength": strength}
    return {name: _learn(model, run, name, weight, settings, **imitated) for name, weight in settings.learned.items()}


def already_learned(run: Run, names: Iterable[str]) -> dict[str, Edit]:
    """Load the gains that another process has learned, to join its search.

    Raises:
        DposcopeError: some are not learned yet.
    """
    stems = {name: learned_stem(run, name) for name in names}
    if not all(value_files(stem).about.exists() for stem in stems.values()):
        raise DposcopeError(f"the run in {run.folder} is still learning gains; join it when its search has begun")
    return {name: Edit.load(stem) for name, stem in stems.items()}


def _learn(model: str, run: Run, name: str, kl_weight: float, settings: TuneSettings, **imitated: Any) -> Edit:
    stem = learned_stem(run, name)
    run.reporter.stage(f"Learning gains, λ = {kl_weight:g}")
    of_run = DpoSettings(
        train="gains",
        kl_weight=kl_weight,
        heads=settings.heads,
        # With distillation the learning rate falls to 0, so that the gains converge without noise.
        epochs=settings.epochs or (2.0 if imitated else 3.0),
        decay="linear" if imitated else "none",
        **imitated,
        **_training(run, settings),
    )
    run_dpo(model, stem.parent, of_run, reporter=run.reporter, policy=_ADOPT, checkpoint=False)
    return Edit.load(stem)


def _write_lines(path: Path, column: str, texts: Iterable[str]) -> None:
    write_text(path, "".join(json.dumps({column: text}) + "\n" for text in texts))


def _prompts(run: Run) -> Path:
    return run.folder / "learn-prompts.jsonl"


def _pairs(run: Run) -> Path:
    return run.folder / "pairs.jsonl"


def _neutral(run: Run) -> Path:
    return run.folder / "neutral.jsonl"


def _machine(settings: TuneSettings) -> dict[str, Any]:
    return {"dtype": settings.dtype, "device": settings.device, "seed": settings.seed}


def _training(run: Run, settings: TuneSettings) -> dict[str, Any]:
    """Settings that the teacher's training and the gains' training share."""
    return {
        "pairs": str(_pairs(run)),
        "neutral": str(_neutral(run)),
        **_kl_texts(run, settings),
        "micro_batch_size": settings.micro_batch_size,
        # The validation loss selects nothing here, and each validation costs as much as eight steps.
        "validate_every": 400,
        **_machine(settings),
    }


def _kl_texts(run: Run, settings: TuneSettings) -> dict[str, Any]:
    harmless = harmless_file(_pairs(run))
    if settings.kl_on == "neutral" or not harmless.exists():  # extremes may be pairs without a harmless side
        return {}
    return {"kl_on": settings.kl_on, "harmless": str(harmless)}


def _pair_settings(run: Run, settings: TuneSettings) -> PairsSettings:
    named = {name: getattr(settings, name) for name in ("concept", "scorer")}
    if settings.second_scorer:
        named |= {
            name: getattr(settings, name) for name in ("comments", "text_column", "label_column", "positive_label")
        }
    given = {name: value for name, value in named.items() if value is not None}
    return PairsSettings(
        method="sample",
        prompts=str(_prompts(run)),
        use="all",
        samples=settings.sampled,
        pairs_per_prompt=2 if settings.quick else 4,
        pairing=settings.pairing,
        min_gap=settings.min_gap,
        batch_size=settings.batch_size,
        shuffled=True if settings.negative_control == "shuffled-scores" else None,
        **given,
        **_machine(settings),
    )
