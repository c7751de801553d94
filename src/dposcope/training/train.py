"""Training a preference policy from pairs: the arguments of `Trainer`, resuming, the log."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from transformers import (
    EarlyStoppingCallback,
    PrinterCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from dposcope.data.short import short_repr
from dposcope.errors import DposcopeError
from dposcope.files import check_is_path
from dposcope.model.checks.given import check_lm
from dposcope.model.generate import Progress
from dposcope.model.language_model import LanguageModel
from dposcope.processes.group import Processes
from dposcope.processes.shared import check_progress
from dposcope.training.checkpoints import last_whole
from dposcope.training.collator import VALIDATION, Collator, Indices, Material
from dposcope.training.optimizers import KINDS, check_optimizer, own_overrides
from dposcope.training.precompute import ReferenceStates
from dposcope.training.schedule import Schedule
from dposcope.training.sharing import Sharing
from dposcope.training.trainable import Trainable
from dposcope.training.trainer import PreferenceTrainer, load_trained

_NO_BOUND = 1e12
"""A bound on the norm of a gradient that never acts."""


class _AfterStep(TrainerCallback):
    def __init__(self, call: Callable[[float], None]) -> None:
        self._call = call

    def on_optimizer_step(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,  # noqa: ARG002
        control: TrainerControl,  # noqa: ARG002
        **kwargs: Any,
    ) -> None:
        self._call(float(kwargs["optimizer"].param_groups[0]["lr"]))


class _Reporting(TrainerCallback):
    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def on_step_end(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002
        **kwargs: Any,  # noqa: ARG002
    ) -> None:
        self._progress(state.global_step, state.max_steps)


@dataclass(frozen=True)
class Trained:
    """The log of a training."""

    history: list[dict[str, float]]
    """The log entries in order: `step`, `loss`, `dpo`, `kl`, `accuracy`, `margin`, rewards; with the prefix `eval_` on
    validation pairs."""
    steps: int
    """Optimiser steps made."""
    best_step: int | None
    """The step with the lowest validation loss, whose parameters were taken; None: the last step was taken."""

    __repr__ = short_repr


def train_policy(
    lm: LanguageModel,
    trainable: Trainable,
    material: Material,
    schedule: Schedule,
    *,
    folder: Path,
    reference: ReferenceStates | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    save: bool = True,
    progress: Progress | None = None,
) -> Trained:
    """Train. If `folder` has a complete checkpoint, training resumes from the last one.

    On one machine with a fixed number of threads, a resumed training ends with the same bits as one that was never
    interrupted. In several processes (`torchrun`, `accelerate launch`), each process calls this function and ends with
    the weights that a single process would give, up to rounding. The main process writes checkpoints.

    Args:
        lm: the base, for tokenizer, layout and device.
        trainable: from `trainable.py`; holds the result afterwards.
        material: pairs and windows.
        schedule: optimiser, learning rate, batches.
        folder: for checkpoints; each training needs its own.
        reference: the reference's outputs, computed before; None: the reference runs during training.
        callbacks: additional callbacks.
        save: keep checkpoints; without them a training cannot resume or stop early.
        progress: called with (steps done, all steps).

    Raises:
        DposcopeError: the optimiser cannot run here; the loss or a weight becomes NaN or infinite, or the disk is full
            (the last good checkpoint is kept); or the processes cannot share a batch evenly.
    """
    check_lm(lm)
    check_progress(progress)
    _check_trainable(trainable)
    check_is_path(folder)
    folder = Path(folder)
    processes = Processes.here()
    processes.join(lm.device.type)
    objective = trainable.policy.objective
    if not material.train or not material.validation:
        raise DposcopeError("training needs at least one pair to learn from and one to validate on")
    if objective.reads_windows and not material.windows:
        raise DposcopeError(f"a KL on {objective.kl_on} text needs windows of it; give --learn-text or --harmless")
    sharing = Sharing.of(schedule, objective, processes)
    check_optimizer(schedule.optimizer, lm.device)
    takes_best = save and schedule.patience is not None
    arguments = TrainingArguments(
        output_dir=str(folder),
        # The pairs of all processes together: each process iterates over all of them and takes its share.
        per_device_train_batch_size=sharing.pairs_at_once,
        per_device_eval_batch_size=schedule.validated_at_once,
        gradient_accumulation_steps=sharing.rounds,
        max_steps=schedule.steps,
        learning_rate=schedule.learning_rate,
        lr_scheduler_type={"none": "constant_with_warmup", "linear": "linear"}[schedule.decay],
        warmup_steps=schedule.warmup_steps,
        optim=KINDS[schedule.optimizer].trainer,
        # With 0 the norm would be missing in the log.
        max_grad_norm=schedule.max_grad_norm or _NO_BOUND,
        weight_decay=0.0,
        logging_steps=_divisor(schedule.validate_every, 10),
        eval_strategy="steps",
        eval_steps=schedule.validate_every,
        save_strategy="steps" if save else "no",
        save_steps=schedule.validate_every,
        save_total_limit=None,  # `PreferenceTrainer` removes older ones itself
        load_best_model_at_end=takes_best,
        # Early stopping continues its count.
        restore_callback_states_from_checkpoint=True,
        metric_for_best_model="eval_loss",
        greater_is_better=False,
        seed=schedule.seed,
        data_seed=schedule.seed,
        bf16=schedule.autocast,
        use_cpu=lm.device.type == "cpu",
        dataloader_pin_memory=lm.device.type == "cuda",
        remove_unused_columns=False,
        ddp_find_unused_parameters=False,  # every parameter is used
        report_to="none",
        disable_tqdm=True,
        logging_nan_inf_filter=False,
        log_level="error",
        log_level_replica="error",
    )
    if len(lm.devices) > 1:
        # By this attribute Trainer and accelerate leave a model where it is, instead of on the first GPU.
        trainable.policy.hf_device_map = {str(place): str(device) for place, device in enumerate(lm.devices)}
    # With several GPUs in one process, Trainer would use DataParallel; `accelerate launch` starts a process per GPU.
    arguments._n_gpu = min(arguments._n_gpu, 1)  # pyright: ignore[reportPrivateUsage]
    collator = Collator(lm, material, objective, schedule, reference, processes)
    watchers: list[TrainerCallback] = [*callbacks]
    if takes_best and schedule.patience is not None:
        watchers.append(EarlyStoppingCallback(early_stopping_patience=schedule.patience))
    if trainable.after_step is not None:
        watchers.append(_AfterStep(trainable.after_step))
    if progress is not None:
        watchers.append(_Reporting(progress))
    trainer = PreferenceTrainer(
        model=trainable.policy,
        args=arguments,
        data_collator=collator,
        train_dataset=Indices(len(material.train)),
        eval_dataset=Indices(len(material.validation), VALIDATION),
        callbacks=watchers,
        processes=processes,
    )
    trainer.remove_callback(PrinterCallback)
    # The loss is a mean over pairs, so Trainer must divide by the number of micro-batches only.
    trainer.model_accepts_loss_kwargs = False
    found = processes.on_main(lambda: last_whole(folder, needs_best=takes_best))
    begun = processes.broadcast(None if found is None else str(found))
    state = None if begun is None else TrainerState.load_from_json(str(Path(begun) / "trainer_state.json"))
    if begun is not None and state is not None and _stopped(state):
        # Trainer would make one more step before it checks whether to stop.
        best = f"checkpoint-{state.best_global_step}"
        load_trained(trainable.policy, folder / best if takes_best else Path(begun))
    else:
        try:
            with own_overrides(schedule.optimizer):
                trainer.train(resume_from_checkpoint=begun)
        except UnpicklingError as error:
            raise DposcopeError(
                f"{begun} holds more than numbers, so reading it could run code; delete that folder and run again"
            ) from error
        state = trainer.state
    return Trained(_history(state), state.global_step, state.best_global_step if takes_best else None)


def _check_trainable(given: object) -> None:
    if not isinstance(given, Trainable):
        raise DposcopeError(
            f"trainable is a {type(given).__name__}; give what `with dposcope.neuron_gains(…) as trainable` yields"
        )


def _stopped(state: TrainerState) -> bool:
    """Whether training had ended when this state was stored."""
    stored: Any = state.stateful_callbacks  # typed as a list, but it is a dict by name
    return bool(stored["TrainerControl"]["args"]["should_training_stop"])


def _history(state: TrainerState) -> list[dict[str, float]]:
    """The log without timings, with sorted names."""
    return [
        {name: value for name, value in sorted(entry.items()) if not name.endswith(("_runtime", "_per_second"))}
        for entry in state.log_history
        if "train_runtime" not in entry
    ]


def _divisor(number: int, most: int) -> int:
    """The largest divisor of `number` up to `most`, so that every checkpoint falls on a log step."""
    return max(part for part in range(1, min(number, most) + 1) if number % part == 0)
