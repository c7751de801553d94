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
from dposcope.errors import DposcopeError, plural, sentence
from dposcope.interventions.edit import Edit
from dposcope.interventions.fold import folded
from dposcope.interventions.gains import Gains
from dposcope.interventions.shipped import edit_file
from dposcope.jobs.dpo.curves import training_curves
from dposcope.jobs.dpo.settings import DpoSettings
from dposcope.jobs.dpo.setup import Base, KlTexts, differing, load_base, load_start, material_of
from dposcope.jobs.dpo.teacher import load_teacher
from dposcope.jobs.dpo.training_record import TrainedPairs, TrainingRecord, tuned_card
from dposcope.jobs.finished import CHECKPOINT
from dposcope.jobs.origin import foreign_edits
from dposcope.jobs.processes.shared_run import open_shared_run
from dposcope.jobs.record import deciding_versions
from dposcope.jobs.reporter import Quiet, Reporter
from dposcope.jobs.run import Run, RunPolicy
from dposcope.model.chat.prompts import asked_how
from dposcope.model.checks.identity import identity
from dposcope.model.devices.copies import convert_
from dposcope.model.language_model import LanguageModel
from dposcope.model.load import device_of
from dposcope.pairs.pairs import Pairs, PairSplit, load_pairs
from dposcope.processes.group import Processes
from dposcope.report.figures import save_figure
from dposcope.shipping.model_card import write_model
from dposcope.training.collator import VALIDATION, Material
from dposcope.training.lean_reference import Reads
from dposcope.training.objective import Objective
from dposcope.training.optimizers import check_optimizer
from dposcope.training.precompute import ReferenceStates, precompute_reference, shards
from dposcope.training.schedule import examples_seen, told_steps
from dposcope.training.sharing import Sharing
from dposcope.training.train import train_policy
from dposcope.training.trainable import Trainable, Tuned, all_weights, low_rank, neuron_gains


@dataclass(frozen=True)
class DpoRun:
    """What a finished run left."""

    folder: Path
    record: TrainingRecord
    """`training.json`."""


@dataclass(frozen=True, eq=False)
class Asked:
    """What the settings of a training name, read before any model is loaded."""

    pairs: Pairs
    split: PairSplit
    texts: KlTexts
    start: Gains | None
    """Where gains begin; None: at 1."""


def read_asked(settings: DpoSettings) -> Asked:
    """Read pairs, texts for the KL, and the gains to start from.

    Raises:
        DposcopeError: a file is missing or damaged, or there are too few pairs.
    """
    pairs = load_pairs(settings.pairs)
    kept = settings.validation_pairs(len(pairs))
    if len(pairs) < 2:
        raise DposcopeError(f"{settings.pairs} holds {plural(len(pairs), 'pair')}; training needs at least 2")
    split = pairs.split(kept, seed=settings.seed)
    texts = KlTexts.read(settings.learn_text, column=settings.learn_text_column, harmless=settings.harmless)
    return Asked(pairs, split, texts, None if settings.start is None else load_start(settings.start))


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

    In several processes (`torchrun`, `accelerate launch`) each calls this; the main process writes.

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
    reporter = (reporter if processes.is_main else None) or Quiet()
    if not checkpoint and settings.train != "gains":
        raise DposcopeError(f"--train {settings.train} leaves nothing but a checkpoint, so it is always written")
    with processes.failing_together():
        asked = read_asked(settings)
        pairs, texts, start = asked.pairs, asked.texts, asked.start
        if settings.optimizer is not None:
            check_optimizer(settings.optimizer, device_of(settings.device))  # now, not after the model is loaded
    with open_shared_run(
        out, "dpo", described(model, settings), processes=processes, reporter=reporter, policy=policy
    ) as run:
        for note in pairs.notes:
            reporter.note(sentence(note))
        reporter.stage(f"Loading {model}")
        with processes.failing_together():
            base = load_base(
                model,
                settings.chat_options,
                whole=settings.train == "full",
                **settings.loading,
            )
            lm, named = base.lm, settings.teacher
            teacher = None if named is None else load_teacher(lm, named, settings.teacher_strength)
            begins = [] if settings.start is None else [("--start", edit_file(settings.start))]
            for note in foreign_edits(begins, lm, model):
                reporter.note(f"{note}.")
        with processes.failing_together():
            told = differing(lm, asked.split, settings.cut)
        split = told.split
        if told.equal:
            reporter.note(
                f"{plural(told.equal, 'pair')} with the same first {settings.cut.completion} tokens on both sides "
                f"{'is' if told.equal == 1 else 'are'} left out; --max-completion-tokens cuts later."
            )
        # Gains do not fold into quantised weights; a LoRA adapter is merged into dequantised ones.
        written = checkpoint and not (lm.quantised and settings.train == "gains")
        objective = settings.objective(lm.model.config.get_text_config().model_type.removesuffix("_text"))
        schedule = settings.schedule(len(split.train), autocast=base.autocast)
        Sharing.of(schedule, objective, processes)  # now, not after the base has read all pairs
        fingerprint = lm.fingerprint  # now: training in place changes it
        inputs = {
            "model": identity(lm),
            "device": lm.device.type,
            **asked_how(lm),
            "pairs": pairs.digest,
            **texts.digests,
            "objective": vars(objective),
            "schedule": vars(schedule),
            **settings.beyond_schedule(),
            "start": None if settings.start is None else value_digest(edit_file(settings.start)),
            "teacher": None if teacher is None else identity(teacher),
        }
        # Checkpoints of other settings, data or libraries, left by a run that failed or was killed, must not be gone
        # on from.
        begun = text_digest(json.dumps([inputs, run.settings, deciding_versions()], sort_keys=True, default=str))

        def make() -> None:
            material = material_of(lm, told, texts, objective, settings.cut, settings.neutral_windows)
            with _policy(base, objective, settings, material, start, teacher) as trainable:
                reference = None
                if settings.precompute_reference:
                    states = out / f"reference-{begun[:12]}"
                    reference = _reference(run, base, trainable, material, inputs=inputs, folder=states)
                read = told_steps(schedule.steps, pairs=len(split.train), batch_size=schedule.batch_size)
                reporter.stage(f"Training: {read}")
                trained = train_policy(
                    lm,
                    trainable,
                    material,
                    schedule,
                    folder=out / "checkpoints" / begun,
                    reference=reference,
                    progress=reporter.progress,
                )
                if not processes.is_main:
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
                asking=asked_how(lm).get("asking"),
            )
            reporter.stage("Writing the checkpoint")
            _write(out, tuned, base.stored, record, checkpoint=written)

        product = [out / CHECKPOINT] if written else []
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
        # Only now: a kill before this costs a moment, not a training.
        if processes.is_main:
            run.release("reference")
            for scratch in (out / "checkpoints", *out.glob("reference-*")):
                shutil.rmtree(scratch, ignore_errors=True)
        return DpoRun(out, TrainingRecord.load(out / "training.json"))


def described(model: str, settings: DpoSettings) -> dict[str, Any]:
    """What decides a training, as its run names it."""
    return {"model": model, **settings.model_dump(mode="json")}


def _policy(
    base: Base,
    objective: Objective,
    settings: DpoSettings,
    material: Material,
    start: Gains | None,
    teacher: LanguageModel | None,
) -> AbstractContextManager[Trainable]:
    """What is trained, with its reference: gains, a LoRA adapter, or all weights."""
    lm = base.lm
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
                products = torch.bfloat16 if base.autocast else None
                reads = Reads.of(every, pad_id=lm.pad_id, products=products)
            return all_weights(
                lm, objective, reference_dtype=lower, in_place=True, reads=reads, recompute=settings.recompute
            )


def _reference(
    run: Run, base: Base, trainable: Trainable, material: Material, *, inputs: dict[str, Any], folder: Path
) -> ReferenceStates:
    """The stage `reference`: the base's states of all pairs and windows, each in a part of its own."""
    parts = {"train": material.train, "validation": material.validation, "window": material.windows}

    def make() -> None:
        processes = Processes.here()
        with (
            processes.failing_together(),  # the main process marks the files of all
            torch.autocast(base.lm.device.type, torch.bfloat16, enabled=base.autocast),
        ):
            precompute_reference(
                base.lm, trainable.policy, parts, folder, processes=processes, progress=run.reporter.progress
            )

    return run.stage(
        "reference",
        "The base reads all pairs",
        inputs=inputs,
        files=[shard.path for shard in shards(parts, folder, width=base.lm.d_model)],
        make=make,
        load=lambda: ReferenceStates(folder, validation_offset=VALIDATION),
    )


def _write(out: Path, tuned: Tuned, stored: torch.dtype, record: TrainingRecord, *, checkpoint: bool) -> None:
    save_figure(
        training_curves(
            record.curves,
            pairs=record.pairs.train,
            batch_size=record.schedule.batch_size,
            best_step=record.best_step,
        ),
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
        convert_(tuned.lm.model, stored)
        write_model(tuned.lm, out / CHECKPOINT, card=card)
    record.save(out / "training.json")
