"""`dposcope dpo`: from preference pairs to a tuned checkpoint (paper 3.1, appendix C).

Pairs split so that no prompt stands on both sides → token ids → a policy beside its reference → training that
resumes → an ordinary checkpoint, with gains an edit too → curves.
"""

import json
import shutil
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dposcope.artefacts import library_versions, text_digest, value_digest, value_files
from dposcope.data.corpus import load_neutral
from dposcope.errors import DposcopeError, plural
from dposcope.interventions.edit import Edit
from dposcope.interventions.fold import folded
from dposcope.interventions.gains import Gains
from dposcope.interventions.shipped import edit_file
from dposcope.jobs.dpo.curves import training_curves
from dposcope.jobs.dpo.settings import DpoSettings
from dposcope.jobs.dpo.shared_run import open_shared_run
from dposcope.jobs.dpo.teacher import load_teacher
from dposcope.jobs.dpo.training_record import TrainedPairs, TrainingRecord, tuned_card
from dposcope.jobs.run import CHECKPOINT, Quiet, Reporter, Run, RunPolicy
from dposcope.model.language_model import LanguageModel
from dposcope.model.load import load, load_native, native_bfloat16
from dposcope.pairs.pairs import PairSplit, load_pairs
from dposcope.report.figures import save_figure
from dposcope.shipping.model_card import write_model
from dposcope.training.collator import VALIDATION, Material
from dposcope.training.examples import neutral_windows, tokenise
from dposcope.training.lean_reference import Reads
from dposcope.training.objective import Objective
from dposcope.training.precompute import ReferenceStates, precompute_reference, shards
from dposcope.training.processes import Processes
from dposcope.training.schedule import examples_seen
from dposcope.training.sharing import Sharing
from dposcope.training.train import train_policy
from dposcope.training.trainable import Trainable, Tuned, all_weights, low_rank, neuron_gains


@dataclass(frozen=True)
class DpoRun:
    """What a finished run left."""

    folder: Path
    record: TrainingRecord
    """`training.json`."""


def run_dpo(
    model: str,
    out: Path,
    settings: DpoSettings,
    *,
    reporter: Reporter | None = None,
    policy: RunPolicy = RunPolicy(),  # noqa: B008 — frozen
    checkpoint: bool = True,
) -> DpoRun:
    """Train in the folder `out`; started again after any interruption, it goes on.

    In several processes (`torchrun`, `accelerate launch`) each calls this; the first writes.

    Args:
        model: a bundled name, a folder, a GGUF file or a hub id.
        out: the run's folder.
        settings: see `DpoSettings`.
        reporter: told of progress.
        policy: what to do about what is in the folder already.
        checkpoint: whether to write the tuned model; only gains, which are an edit, can go without.

    Raises:
        DposcopeError: bad input, a folder that holds something else, a loss that is no number, a full disk.
    """
    processes = Processes.here()
    processes.join(settings.device)
    reporter = (reporter if processes.first else None) or Quiet()
    if not checkpoint and settings.train != "gains":
        raise DposcopeError(f"--train {settings.train} leaves nothing but a checkpoint, so it is always written")
    with processes.agreeing():
        pairs = load_pairs(settings.pairs)
        kept = settings.validation_pairs(len(pairs))
        if len(pairs) < 2:
            raise DposcopeError(f"{settings.pairs} holds {plural(len(pairs), 'pair')}; training needs at least 2")
        split = pairs.split(kept, seed=settings.seed)
        neutral = load_neutral(settings.neutral, column=settings.neutral_column)
        start = None if settings.start is None else _start(settings.start)
    with open_shared_run(
        out, "dpo", described(model, settings), processes=processes, reporter=reporter, policy=policy
    ) as run:
        reporter.stage(f"Loading {model}")
        with processes.agreeing():
            lm, stored = _load(model, settings)
            teacher = (
                None if settings.teacher is None else load_teacher(lm, settings.teacher, settings.teacher_strength)
            )
        objective = settings.objective(lm.model.config.get_text_config().model_type.removesuffix("_text"))
        schedule = settings.schedule(len(split.train), autocast=_autocasts(lm, settings))
        Sharing.of(schedule, objective, processes)  # now, not after the base has read all pairs
        fingerprint = lm.fingerprint  # now: training in place changes it
        inputs = {
            "model": fingerprint,
            "device": lm.device.type,
            "pairs": pairs.digest,
            "neutral": text_digest(neutral),
            "objective": vars(objective),
            "schedule": vars(schedule),
            **settings.beyond_schedule(),
            **({} if settings.start is None else {"start": value_digest(edit_file(settings.start))}),
            **({} if teacher is None else {"teacher": teacher.fingerprint}),
        }

        # Checkpoints of other settings or data, left by a run that failed or was killed, must not be gone on from.
        begun = text_digest(json.dumps({**inputs, "settings": run.settings}, sort_keys=True, default=str))

        kept_states = f"reference-{begun[:12]}"

        def make() -> None:
            material = _material(lm, split, neutral, objective, settings)
            with _policy(lm, objective, settings, material, start, teacher) as trainable:
                reference = _reference(run, lm, trainable, material, settings, inputs, out / kept_states)
                reporter.stage(f"Training: {plural(schedule.steps, 'step')} of {schedule.batch_size} pairs")
                trained = train_policy(
                    lm,
                    trainable,
                    material,
                    schedule,
                    folder=out / "checkpoints" / begun,
                    reference=reference,
                    progress=reporter.progress,
                )
                if not processes.first:
                    return
                tuned = trainable.export()
            record = TrainingRecord(
                model=lm.name,
                fingerprint=fingerprint,
                pairs=TrainedPairs(
                    settings.pairs, split.train.format, len(split.train), len(split.validation), pairs.dropped
                ),
                objective=objective,
                schedule=schedule,
                settings=settings,
                steps=trained.steps,
                examples=examples_seen(trained.steps, pairs=len(split.train), batch_size=schedule.batch_size),
                best_step=trained.best_step,
                gains_changed=None if tuned.gains is None else len(tuned.gains.touched),
                curves=trained.history,
                versions=library_versions(),
            )
            reporter.stage("Writing the checkpoint")
            _write(out, tuned, stored, record, checkpoint=checkpoint)

        product = [out / CHECKPOINT / "config.json"] if checkpoint else []
        if settings.train == "gains":
            product += value_files(out / "edit").both
        run.stage(
            "train",
            "Training",
            inputs=inputs,
            files=[*product, out / "training.json", out / "training.svg"],
            make=make,
            load=lambda: None,
            revision=2,
        )
        # Only now: a kill between the two lines costs a moment, not a training.
        if processes.first:
            shutil.rmtree(out / "checkpoints", ignore_errors=True)
            for states in out.glob("reference-*"):
                shutil.rmtree(states, ignore_errors=True)
        return DpoRun(out, TrainingRecord.load(out / "training.json"))


def described(model: str, settings: DpoSettings) -> dict[str, Any]:
    """What decides a training, as its run names it."""
    return {"model": model, **settings.model_dump(mode="json")}


def _load(model: str, settings: DpoSettings) -> tuple[LanguageModel, torch.dtype]:
    """The base in the precision that its training needs, and the precision to ship."""
    if settings.train != "full":
        lm = load_native(model, dtype=settings.dtype, device=settings.device)
        return lm, lm.dtype
    lm = load(model, dtype="auto", device=settings.device)
    stored = lm.dtype
    # Small updates vanish in half precision; what is computed in it is decided by autocast.
    lm.model.to(torch.float32)  # pyright: ignore[reportArgumentType]
    return lm, stored


def _autocasts(lm: LanguageModel, settings: DpoSettings) -> bool:
    if settings.train != "full":
        return False
    return settings.dtype == "bfloat16" or (settings.dtype == "auto" and native_bfloat16(lm.device))


def _material(
    lm: LanguageModel, split: PairSplit, neutral: str, objective: Objective, settings: DpoSettings
) -> Material:
    train, validation = (
        tokenise(
            lm,
            part,
            max_prompt_tokens=settings.max_prompt_tokens,
            max_completion_tokens=settings.max_completion_tokens,
        )
        for part in (split.train, split.validation)
    )
    if not objective.reads_neutral:
        return Material(train, validation)
    windows = neutral_windows(
        lm, neutral, count=settings.window_pool, length=settings.window_tokens, seed=settings.seed
    )
    return Material(train, validation, windows)


def _policy(
    lm: LanguageModel,
    objective: Objective,
    settings: DpoSettings,
    material: Material,
    start: Gains | None,
    teacher: LanguageModel | None,
) -> AbstractContextManager[Trainable]:
    match settings.train:
        case "gains":
            among = None
            if start is not None:
                start.changes(lm)  # refuses gains of another shape, before their neurons are counted
                among = None if settings.neurons is None else start.furthest(settings.neurons)
            return neuron_gains(
                lm,
                objective,
                start=start,
                among=among,
                sparsity=settings.sparsity,
                heads=settings.heads,
                teacher=teacher,
            )
        case "lora":
            return low_rank(
                lm,
                objective,
                rank=settings.lora_rank,
                alpha=settings.lora_alpha,
                seed=settings.seed,
                recompute=settings.recompute,
                teacher=teacher,
            )
        case "full":
            lower = torch.bfloat16 if settings.reference_dtype == "bfloat16" else None
            reads = None
            if not settings.precompute_reference:
                every = [*material.train, *material.validation, *material.windows]
                products = torch.bfloat16 if _autocasts(lm, settings) else None
                reads = Reads.of(every, pad_id=lm.pad_id, products=products)
            return all_weights(
                lm, objective, reference_dtype=lower, in_place=True, reads=reads, recompute=settings.recompute
            )


def _start(named: str) -> Gains:
    """Where gains begin.

    Raises:
        DposcopeError: there is no such edit, or it holds more than gains of neurons.
    """
    edit = Edit.load(edit_file(named))
    if edit.gains is None or edit.ablations or edit.head_gains is not None:
        raise DposcopeError(
            f"{named} holds {edit}, and only gains of neurons can be gone on from; choose another --start"
        )
    return edit.gains


def _reference(
    run: Run,
    lm: LanguageModel,
    trainable: Trainable,
    material: Material,
    settings: DpoSettings,
    inputs: dict[str, Any],
    folder: Path,
) -> ReferenceStates | None:
    if not settings.precompute_reference:
        return None
    parts = {"train": material.train, "validation": material.validation, "window": material.windows}

    def make() -> None:
        with torch.autocast(lm.device.type, torch.bfloat16, enabled=_autocasts(lm, settings)):
            precompute_reference(
                lm, trainable.policy, parts, folder, processes=Processes.here(), progress=run.reporter.progress
            )

    return run.stage(
        "reference",
        "The base reads all pairs",
        inputs=inputs,
        files=[shard.path for shard in shards(parts, folder, width=lm.d_model)],
        make=make,
        load=lambda: ReferenceStates(folder, validation_offset=VALIDATION),
    )


def _write(out: Path, tuned: Tuned, stored: torch.dtype, record: TrainingRecord, *, checkpoint: bool) -> None:
    save_figure(
        training_curves(record.curves, batch_size=record.schedule.batch_size, best_step=record.best_step),
        out / "training.svg",
    )
    card = tuned_card(record)
    if tuned.gains is not None:
        edit = Edit(tuned.gains, (), record.about_edit(), tuned.head_gains, trained="gains")
        edit.save(out / "edit")
        if checkpoint:
            with folded(tuned.lm, edit):
                write_model(tuned.lm, out / CHECKPOINT, card=card, edit=edit)
    else:
        for stale in value_files(out / "edit").both:  # of gains that were trained here before
            stale.unlink(missing_ok=True)
        tuned.lm.model.to(stored)  # pyright: ignore[reportArgumentType]
        write_model(tuned.lm, out / CHECKPOINT, card=card)
    record.save(out / "training.json")
