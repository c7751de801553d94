"""`transformers.Trainer` for a preference policy: its loss, its logs, checkpoints that a kill cannot half-write."""

import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from accelerate.data_loader import BatchSamplerShard
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from transformers import (
    EarlyStoppingCallback,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_utils import EvalLoopOutput

from dposcope.artefacts import write_text
from dposcope.errors import DposcopeError
from dposcope.model.generate import Progress
from dposcope.model.language_model import LanguageModel
from dposcope.training.examples import Example, drawn
from dposcope.training.objective import Objective
from dposcope.training.packing import PackedBatch, fits_one_row, pack
from dposcope.training.policy import BatchLoss, PreferencePolicy, Weights
from dposcope.training.precompute import ReferenceStates
from dposcope.training.processes import Processes
from dposcope.training.schedule import Schedule
from dposcope.training.sharing import Share, Sharing
from dposcope.training.trainable import Trainable

WHOLE = "whole"
"""A file of this name is written last into each checkpoint; one without it was cut short."""
_WEIGHTS = "trained.safetensors"
_NO_BOUND = 1e12
"""On a gradient's norm."""
VALIDATION = 1 << 40
"""Added to the index of a validation pair, so that both parts draw their own windows."""


@dataclass(frozen=True)
class Material:
    """What is learned from and checked on."""

    train: Sequence[Example]
    validation: Sequence[Example]
    windows: Sequence[Example] = ()
    """A pool of neutral windows."""


class _Indices(Dataset[int]):
    """The collator needs to know which pair is which; the rest it looks up."""

    def __init__(self, count: int, offset: int = 0) -> None:
        self._count, self._offset = count, offset

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> int:
        return index + self._offset


class Collator:
    """Indices of pairs to a packed batch, with the windows that go with them."""

    def __init__(
        self,
        lm: LanguageModel,
        material: Material,
        objective: Objective,
        schedule: Schedule,
        reference: ReferenceStates | None,
        processes: Processes = Processes(),  # noqa: B008 — frozen
    ) -> None:
        """See `train_policy`."""
        self._material, self._schedule, self._reference = material, schedule, reference
        self._sharing = None if processes.alone else Sharing.of(schedule, objective, processes)
        self._windows = (
            schedule.windows_per_batch
            if objective.kl_on == "neutral" and objective.kl_weight > 0 and material.windows
            else 0
        )
        self._pad_id = lm.pad_id
        self._published = objective.protocol == "reference"
        every = [*material.train, *material.validation, *material.windows]
        self._shared = not self._published and fits_one_row(lm.model, every)

    def __call__(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """Tensors of a batch; of several processes, of this one's share of a batch to learn from."""
        if self._sharing is None or indices[0] >= VALIDATION:  # validation is shared by whole batches
            return self._packed(indices, self._drawn(indices))
        parts = self._sharing.micro_batches(indices)
        share: Share = self._sharing.mine(parts, [self._drawn(part) for part in parts])
        return self._packed(share.pairs, share.windows) | {
            "pair_weights": torch.full((len(share.pairs),), share.pair_weight, dtype=torch.float64),
            "window_weights": torch.full((len(share.windows),), share.window_weight, dtype=torch.float64),
            "micro_batches": torch.tensor(len(parts)),
        }

    def _drawn(self, indices: Sequence[int]) -> list[int]:
        if not self._windows:
            return []
        return drawn(indices, pool=len(self._material.windows), count=self._windows, seed=self._schedule.seed)

    def _packed(self, indices: Sequence[int], chosen: Sequence[int]) -> dict[str, Tensor]:
        pairs = [
            self._material.validation[index - VALIDATION] if index >= VALIDATION else self._material.train[index]
            for index in indices
        ]
        windows = [self._material.windows[place] for place in chosen]
        batch = pack([*pairs, *windows], pad_id=self._pad_id, shared=self._shared, whole=self._published)
        tensors = {field.name: getattr(batch, field.name) for field in fields(batch)}
        tensors["windows"] = torch.tensor(len(windows))
        if self._reference is not None:
            tensors["reference_hidden"] = self._reference.of_batch(indices, chosen)
        return tensors


class PreferenceTrainer(Trainer):
    """`Trainer` with the preference loss; make one with `train_policy`."""

    def __init__(self, *args: Any, processes: Processes = Processes(), **kwargs: Any) -> None:  # noqa: B008 — frozen
        """As `Trainer`; `processes` train together."""
        self._notes: dict[str, list[dict[str, Tensor]]] = {}
        self._processes = processes
        super().__init__(*args, **kwargs)

    # Several processes: each reads its share of every batch, see `sharing.py`

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Every process goes through all batches; the collator takes its share."""
        return _unparted(super().get_train_dataloader())

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader[Any]:
        """Every process goes through all batches; `evaluation_loop` takes its share."""
        return _unparted(super().get_eval_dataloader(eval_dataset))

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> tuple[list[Any], Any]:
        """The rounds of a step, with weights as if one process read all its micro-batches."""
        rounds, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        if not self._processes.alone:
            there = sum(int(inputs["micro_batches"]) for inputs in rounds)
            # Trainer divides by the number of rounds, and the exchange of gradients by that of processes.
            scale = self._processes.count * len(rounds) / max(there, 1)
            for inputs in rounds:
                for name in ("pair_weights", "window_weights"):
                    inputs[name] = inputs[name] * scale
        return rounds, items

    def evaluation_loop(
        self, dataloader: DataLoader[Any], *args: Any, metric_key_prefix: str = "eval", **kwargs: Any
    ) -> EvalLoopOutput:
        """The loss on all pairs, to which each process gives every so many batches."""
        if self._processes.alone:
            return super().evaluation_loop(dataloader, *args, metric_key_prefix=metric_key_prefix, **kwargs)
        self._policy.eval()
        total, pairs = 0.0, 0
        for number, inputs in enumerate(dataloader):
            if number % self._processes.count == self._processes.rank:
                loss, _, _ = self.prediction_step(self._policy, inputs)
                count = (int(inputs["sequence"].max()) + 1 - int(inputs["windows"])) // 2
                total, pairs = total + float(loss) * count, pairs + count
        sums = self._processes.gathered((total, pairs))
        loss = sum(one for one, _ in sums) / sum(one for _, one in sums)
        self._refuse(loss)
        return EvalLoopOutput(None, None, {f"{metric_key_prefix}_loss": loss}, len(dataloader.dataset))  # pyright: ignore[reportArgumentType]

    # The loss

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,  # noqa: ARG002 — Trainer's signature
    ) -> Any:
        """The loss of a batch; its parts are kept for the next log."""
        batch = PackedBatch(**{field.name: inputs[field.name] for field in fields(PackedBatch)})
        weights = Weights(inputs["pair_weights"], inputs["window_weights"]) if "pair_weights" in inputs else None
        found: BatchLoss = model(batch, int(inputs["windows"]), inputs.get("reference_hidden"), weights)
        if weights is not None:
            # All stop together: one that waits for the gradients of another that gave up would wait for long.
            self._refuse(sum(self._processes.gathered(float(found.loss.detach()))))
        elif self._processes.alone:
            self._refuse(float(found.loss.detach()))
        self._note(found, weights)
        return (found.loss, None) if return_outputs else found.loss

    def _refuse(self, loss: float) -> None:
        if not math.isfinite(loss):
            raise DposcopeError(
                f"the loss became {loss} at step {self.state.global_step + 1}; {self._kept()}: "
                "lower --learning-rate, or train in float32"
            )

    def _kept(self) -> str:
        whole = next(Path(str(self.args.output_dir)).glob(f"checkpoint-*/{WHOLE}"), None)
        return "there is no checkpoint yet" if whole is None else "the last good checkpoint is kept"

    def prediction_step(self, model: Any, inputs: Any, *_: Any, **__: Any) -> tuple[Tensor, None, None]:
        """Loss alone; logits are never held."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            return self.compute_loss(model, inputs).detach(), None, None

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add accuracy, rewards, margins and KL since the last log."""
        prefix = "eval_" if "eval_loss" in logs else ""
        if prefix or "loss" in logs:
            logs |= {f"{prefix}{name}": value for name, value in self._noted(prefix).items()}
        super().log(logs, start_time)

    def _note(self, found: BatchLoss, weights: Weights | None) -> None:
        terms = found.terms
        counted = torch.ones_like(terms.losses, dtype=torch.bool) if weights is None else weights.pairs > 0
        per_pair = {
            "dpo": terms.losses,
            "accuracy": terms.accuracy,
            "margin": terms.margins,
            "preferred_reward": terms.preferred_rewards,
            "dispreferred_reward": terms.dispreferred_rewards,
        }
        per_pair = {name: value[counted] for name, value in per_pair.items()}
        # A part of a batch has a part of its divergence, whose scale makes the mean over processes the whole.
        per_pair["kl"] = found.penalty.expand(len(terms.losses) if weights is None else 1)
        notes = self._notes.setdefault("" if self.model is not None and self.model.training else "eval_", [])
        notes.append({name: value.detach().float().cpu() for name, value in per_pair.items()})

    def _noted(self, prefix: str) -> dict[str, float]:
        notes = [note for notes in self._processes.gathered(self._notes.pop(prefix, [])) for note in notes]
        return {name: float(torch.cat([note[name] for note in notes]).mean()) for name in (notes[0] if notes else {})}

    # Checkpoints

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As `Trainer`; where the first process cannot write, all know."""
        with self._processes.agreeing():
            super().save_model(output_dir, _internal_call)

    def _save_rng_state(self, output_dir: str) -> None:
        if self.args.should_save:  # nothing is random in the others
            super()._save_rng_state(output_dir)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        folder = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"
        if not all(bool(value.isfinite().all()) for value in self._policy.trainable.values()):
            raise DposcopeError(
                f"a weight became NaN or infinite by step {self.state.global_step}; {self._kept()}: "
                "lower --learning-rate, or train in float32"
            )
        try:
            with self._processes.agreeing():
                super()._save_checkpoint(model, trial)
                if self.args.should_save:
                    write_text(folder / WHOLE, "")
                    self._forget_all_but(folder)
        except (OSError, RuntimeError, SafetensorError) as error:
            shutil.rmtree(folder, ignore_errors=True)
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error).splitlines()[0]
            raise DposcopeError(
                f"cannot write {folder}: {reason}; {self._kept()}: free some space and run again"
            ) from error

    def _forget_all_but(self, newest: Path) -> None:
        """Remove older checkpoints, the best one excepted where it is wanted; only now that the newest is whole."""
        kept = {newest.name}
        if self.args.load_best_model_at_end:
            kept.add(f"checkpoint-{self.state.best_global_step}")
        for checkpoint in newest.parent.glob("checkpoint-*"):
            if checkpoint.name not in kept:
                # Its mark goes first: a kill while the rest goes must not leave a part that looks whole.
                (checkpoint / WHOLE).unlink(missing_ok=True)
                shutil.rmtree(checkpoint, ignore_errors=True)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Only what is trained, as safetensors."""
        folder = Path(output_dir or str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        trainable = self._policy.trainable
        source: Mapping[str, Tensor] = trainable
        if state_dict is not None:  # gathered from several devices
            source = {name: state_dict[f"trained.{name}"] for name in trainable}
        save_file({name: value.detach().cpu().contiguous() for name, value in source.items()}, folder / _WEIGHTS)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:  # noqa: ARG002
        load_trained(self._policy, Path(resume_from_checkpoint))

    def _load_best_model(self) -> None:
        # By its step: the path that the state remembers may be relative to another working directory.
        load_trained(self._policy, Path(str(self.args.output_dir)) / f"checkpoint-{self.state.best_global_step}")

    @property
    def _policy(self) -> PreferencePolicy:
        return self.accelerator.unwrap_model(self.model)  # pyright: ignore[reportReturnType, reportArgumentType]


def _unparted(loader: DataLoader[Any]) -> DataLoader[Any]:
    """Without accelerate's division of batches among processes, which fills up what is left over with other pairs."""
    sampler = loader.batch_sampler
    if isinstance(sampler, BatchSamplerShard):
        sampler.num_processes, sampler.process_index, sampler.even_batches = 1, 0, False
    return loader


@torch.no_grad()
def load_trained(policy: PreferencePolicy, checkpoint: Path) -> None:
    """Put a checkpoint's parameters into a policy.

    Raises:
        DposcopeError: it is damaged or of another kind of training.
    """
    try:
        stored = load_file(checkpoint / _WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise DposcopeError(f"cannot read {checkpoint}: {error}; delete that folder and run again") from error
    trainable = policy.trainable
    if {n: v.shape for n, v in stored.items()} != {n: v.shape for n, v in trainable.items()}:
        raise DposcopeError(f"{checkpoint} holds other parameters than are trained; choose another --out")
    for name, value in trainable.items():
        value.copy_(stored[name])


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
    """How training went."""

    history: list[dict[str, float]]
    """What was logged, in order: `step`, `loss`, `dpo`, `kl`, `accuracy`, `margin`, rewards; with `eval_` in front on
    validation pairs."""
    steps: int
    """Optimiser steps made."""
    best_step: int | None
    """The step whose parameters were taken, where the best was; None: the last."""


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
    """Train; from the last whole checkpoint in `folder` where there is one.

    On one machine with a fixed number of threads an interrupted training ends with the same bits as an undisturbed one.
    Started in several processes (`torchrun`, `accelerate launch`), each calls this and ends with the weights that one
    process alone would have found, up to rounding; the first writes checkpoints.

    Args:
        lm: the base, for tokenizer, layout and device.
        trainable: from `trainable.py`; holds the result afterwards.
        material: pairs and windows.
        schedule: how.
        folder: for checkpoints; one training each.
        reference: the reference's outputs, computed before; None: it runs beside the policy.
        callbacks: further ones of yours.
        save: keep checkpoints; without them there is no resuming and no patience.
        progress: called with (steps done, all steps).

    Raises:
        DposcopeError: the loss or a weight is no number any more, or the disk is full; the last good checkpoint stays.
            Or several processes cannot share a batch.
    """
    processes = Processes.here()
    processes.join(lm.device.type)
    objective = trainable.policy.objective
    if not material.train or not material.validation:
        raise DposcopeError("training needs at least one pair to learn from and one to validate on")
    if objective.kl_on == "neutral" and objective.kl_weight > 0 and not material.windows:
        raise DposcopeError("a KL on neutral text needs neutral windows; give --neutral")
    sharing = Sharing.of(schedule, objective, processes)
    optimizer = {"rmsprop": "rmsprop", "adamw": "adamw_torch"}[schedule.optimizer]
    takes_best = save and schedule.patience is not None
    arguments = TrainingArguments(
        output_dir=str(folder),
        # What all processes read at a time: each goes through all of it and takes its share.
        per_device_train_batch_size=sharing.pairs_at_once,
        per_device_eval_batch_size=sharing.micro,
        gradient_accumulation_steps=sharing.rounds,
        max_steps=schedule.steps,
        learning_rate=schedule.learning_rate,
        lr_scheduler_type={"none": "constant_with_warmup", "linear": "linear"}[schedule.decay],
        warmup_steps=schedule.warmup_steps,
        optim=optimizer,
        # Not 0, which would leave the norm out of the log.
        max_grad_norm=schedule.max_grad_norm or _NO_BOUND,
        weight_decay=0.0,
        logging_steps=_divisor(schedule.validate_every, 10),
        eval_strategy="steps",
        eval_steps=schedule.validate_every,
        save_strategy="steps" if save else "no",
        save_steps=schedule.validate_every,
        save_total_limit=None,  # `PreferenceTrainer` removes older ones itself
        load_best_model_at_end=takes_best,
        # Early stopping counts on where it was.
        restore_callback_states_from_checkpoint=True,
        metric_for_best_model="eval_loss",
        greater_is_better=False,
        seed=schedule.seed,
        data_seed=schedule.seed,
        bf16=schedule.autocast,
        use_cpu=lm.device.type == "cpu",
        dataloader_pin_memory=lm.device.type == "cuda",
        remove_unused_columns=False,
        ddp_find_unused_parameters=False,  # every one is used
        report_to="none",
        disable_tqdm=True,
        logging_nan_inf_filter=False,
        log_level="error",
        log_level_replica="error",
    )
    # Several GPUs in one process would be DataParallel; `accelerate launch` gives each a process.
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
        train_dataset=_Indices(len(material.train)),
        eval_dataset=_Indices(len(material.validation), VALIDATION),
        callbacks=watchers,
        processes=processes,
    )
    trainer.remove_callback(PrinterCallback)
    # The loss is a mean over pairs already; Trainer then only divides by the number of micro-batches.
    trainer.model_accepts_loss_kwargs = False
    begun = processes.told(processes.by_first(lambda: last_whole(folder)))
    state = None if begun is None else TrainerState.load_from_json(str(Path(begun) / "trainer_state.json"))
    if begun is not None and state is not None and _stopped(state):
        # Trainer would make one step more before it asks whether to stop.
        best = f"checkpoint-{state.best_global_step}"
        load_trained(trainable.policy, folder / best if takes_best else Path(begun))
    else:
        trainer.train(resume_from_checkpoint=begun)
        state = trainer.state
    return Trained(_history(state), state.global_step, state.best_global_step if takes_best else None)


def _stopped(state: TrainerState) -> bool:
    """Whether training was at its end when this was stored."""
    stored: Any = state.stateful_callbacks  # typed as the list that it is made from; it is a dict by name
    return bool(stored["TrainerControl"]["args"]["should_training_stop"])


def _history(state: TrainerState) -> list[dict[str, float]]:
    """What was logged, without what depends on the machine's speed; in the order in which it is stored."""
    return [
        {name: value for name, value in sorted(entry.items()) if not name.endswith(("_runtime", "_per_second"))}
        for entry in state.log_history
        if "train_runtime" not in entry
    ]


def last_whole(folder: Path) -> str | None:
    """The newest checkpoint that was written to its end; those cut short are removed."""
    found: list[tuple[int, Path]] = []
    for checkpoint in folder.glob("checkpoint-*"):
        if (checkpoint / WHOLE).exists():
            found.append((int(checkpoint.name.rpartition("-")[2]), checkpoint))
        else:
            shutil.rmtree(checkpoint, ignore_errors=True)
    return str(max(found)[1]) if found else None


def _divisor(number: int, most: int) -> int:
    """The largest divisor that is at most `most`: what is logged since a checkpoint is then nothing."""
    return max(part for part in range(1, min(number, most) + 1) if number % part == 0)
