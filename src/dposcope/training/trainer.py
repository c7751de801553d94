"""`transformers.Trainer` for a preference policy: loss, logs, and checkpoints that are complete or ignored."""

import math
import shutil
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from accelerate.data_loader import BatchSamplerShard
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import Trainer
from transformers.trainer_utils import EvalLoopOutput

from dposcope.errors import DposcopeError, first_line
from dposcope.processes.group import Processes
from dposcope.training.batches.packing import PackedBatch
from dposcope.training.checkpoints import any_whole, remove_older, seal
from dposcope.training.policy import BatchLoss, PreferencePolicy, Weights

_WEIGHTS = "trained.safetensors"


class PreferenceTrainer(Trainer):
    """`Trainer` with the preference loss; make one with `train_policy`."""

    def __init__(self, *args: Any, processes: Processes = Processes(), **kwargs: Any) -> None:  # noqa: B008 — frozen
        """As `Trainer`; `processes` train together."""
        self._notes: dict[str, list[dict[str, Tensor]]] = {}
        self._processes = processes
        super().__init__(*args, **kwargs)

    # Several processes: each reads its share of every batch, see `sharing.py`

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Every process iterates over all batches; the collator takes its share."""
        return _undivided(super().get_train_dataloader())

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader[Any]:
        """Every process iterates over all batches; `evaluation_loop` takes its share."""
        return _undivided(super().get_eval_dataloader(eval_dataset))

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> tuple[list[Any], Any]:
        """The rounds of a step, weighted as if one process read all its micro-batches."""
        rounds, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        if not self._processes.alone:
            there = sum(int(inputs["micro_batches"]) for inputs in rounds)
            # Trainer divides by the number of rounds, and DDP averages gradients over processes.
            scale = self._processes.count * len(rounds) / max(there, 1)
            for inputs in rounds:
                for name in ("pair_weights", "window_weights"):
                    inputs[name] = inputs[name] * scale
        return rounds, items

    def evaluation_loop(
        self, dataloader: DataLoader[Any], *args: Any, metric_key_prefix: str = "eval", **kwargs: Any
    ) -> EvalLoopOutput:
        """The loss on all pairs; process r evaluates batches r, r + count, …"""
        if self._processes.alone:
            return super().evaluation_loop(dataloader, *args, metric_key_prefix=metric_key_prefix, **kwargs)
        self._policy.eval()
        total, pairs = 0.0, 0
        for number, inputs in enumerate(dataloader):
            if number % self._processes.count == self._processes.rank:
                loss, _, _ = self.prediction_step(self._policy, inputs)
                count = (int(inputs["sequence"].max()) + 1 - int(inputs["windows"])) // 2
                total, pairs = total + float(loss) * count, pairs + count
        sums = self._processes.gather((total, pairs))
        loss = sum(one for one, _ in sums) / sum(one for _, one in sums)
        self._refuse(loss)
        return EvalLoopOutput(None, None, {f"{metric_key_prefix}_loss": loss}, len(dataloader.dataset))  # pyright: ignore[reportArgumentType]

    # Memory

    def create_optimizer(self, model: Any = None) -> Any:
        """As `Trainer`'s, moving one tensor after another.

        On a GPU torch would move all at once, with a further copy of them in memory. The numbers are the same.
        """
        optimizer = super().create_optimizer(model)
        for group in optimizer.param_groups:
            if "foreach" in group:
                group["foreach"] = False
        return optimizer

    # The loss

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,  # noqa: ARG002 — Trainer's signature
    ) -> Any:
        """The loss of a batch; its parts are kept for the next log entry."""
        batch = PackedBatch(**{field.name: inputs[field.name] for field in fields(PackedBatch)})
        weights = Weights(inputs["pair_weights"], inputs["window_weights"]) if "pair_weights" in inputs else None
        result: BatchLoss = model(batch, int(inputs["windows"]), inputs.get("reference_hidden"), weights)
        if weights is not None:
            # All processes stop together: otherwise the others would wait for the gradients of one that stopped.
            self._refuse(sum(self._processes.gather(float(result.loss.detach()))))
        elif self._processes.alone:
            self._refuse(float(result.loss.detach()))
        self._note(result, weights)
        return (result.loss, None) if return_outputs else result.loss

    def _refuse(self, loss: float) -> None:
        if not math.isfinite(loss):
            raise DposcopeError(
                f"the loss became {loss} at step {self.state.global_step + 1}; {self._kept()}: "
                "lower --learning-rate, or train in float32"
            )

    def _kept(self) -> str:
        kept = any_whole(Path(str(self.args.output_dir)))
        return "the last good checkpoint is kept" if kept else "there is no checkpoint yet"

    def prediction_step(self, model: Any, inputs: Any, *_: Any, **__: Any) -> tuple[Tensor, None, None]:
        """The loss alone; logits are never kept."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            return self.compute_loss(model, inputs).detach(), None, None

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the means of accuracy, rewards, margins and KL since the last log entry."""
        prefix = "eval_" if "eval_loss" in logs else ""
        if prefix or "loss" in logs:
            logs |= {f"{prefix}{name}": value for name, value in self._noted(prefix).items()}
        super().log(logs, start_time)

    def _note(self, batch: BatchLoss, weights: Weights | None) -> None:
        terms = batch.terms
        counted = torch.ones_like(terms.losses, dtype=torch.bool) if weights is None else weights.pairs > 0
        per_pair = {
            "dpo": terms.losses,
            "accuracy": terms.accuracy,
            "margin": terms.margins,
            "preferred_reward": terms.preferred_rewards,
            "dispreferred_reward": terms.dispreferred_rewards,
        }
        if self._policy.objective.loss == "likelihood":
            per_pair["likelihood"] = batch.losses
        if batch.distillation is not None:
            per_pair["distillation"] = batch.distillation
        per_pair = {name: value[counted] for name, value in per_pair.items()}
        # Each process holds a part of the divergence, scaled so that the mean over processes is the whole.
        per_pair["kl"] = batch.penalty.expand(len(terms.losses) if weights is None else 1)
        notes = self._notes.setdefault("" if self.model is not None and self.model.training else "eval_", [])
        notes.append({name: value.detach().float().cpu() for name, value in per_pair.items()})

    def _noted(self, prefix: str) -> dict[str, float]:
        notes = [note for notes in self._processes.gather(self._notes.pop(prefix, [])) for note in notes]
        return {name: float(torch.cat([note[name] for note in notes]).mean()) for name in (notes[0] if notes else {})}

    # Checkpoints

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As `Trainer`; where the main process cannot write, all raise."""
        with self._processes.failing_together():
            super().save_model(output_dir, _internal_call)

    def _save_rng_state(self, output_dir: str) -> None:
        if self.args.should_save:  # the other processes use no random numbers
            super()._save_rng_state(output_dir)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if self.args.should_save:  # the other processes have the same, and touch no folder
            super()._save_optimizer_and_scheduler(output_dir)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        folder = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"
        if not all(bool(value.isfinite().all()) for value in self._policy.trainable.values()):
            raise DposcopeError(
                f"a weight became NaN or infinite by step {self.state.global_step}; {self._kept()}: "
                "lower --learning-rate, or train in float32"
            )
        try:
            with self._processes.failing_together():
                super()._save_checkpoint(model, trial)
                if self.args.should_save:
                    seal(folder)
                    best = self.state.best_global_step if self.args.load_best_model_at_end else None
                    remove_older(folder, best=best)
        except (OSError, RuntimeError, SafetensorError) as error:
            shutil.rmtree(folder, ignore_errors=True)
            reason = first_line(error)
            raise DposcopeError(
                f"cannot write {folder}: {reason}; {self._kept()}: free some space and run again"
            ) from error

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Save the trained parameters only, as safetensors; the main process does."""
        if not self.args.should_save:
            return
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
        # By its step: the path in the state may be relative to another working directory.
        load_trained(self._policy, Path(str(self.args.output_dir)) / f"checkpoint-{self.state.best_global_step}")

    @property
    def _policy(self) -> PreferencePolicy:
        return self.accelerator.unwrap_model(self.model)  # pyright: ignore[reportReturnType, reportArgumentType]


def _undivided(loader: DataLoader[Any]) -> DataLoader[Any]:
    """Without accelerate's division of batches among processes, which would repeat pairs to fill the last batch."""
    sampler = loader.batch_sampler
    if isinstance(sampler, BatchSamplerShard):
        sampler.num_processes, sampler.process_index, sampler.even_batches = 1, 0, False
    return loader


@torch.no_grad()
def load_trained(policy: PreferencePolicy, checkpoint: Path) -> None:
    """Put a checkpoint's parameters into a policy.

    Raises:
        DposcopeError: the checkpoint is damaged, or holds other parameters.
    """
    try:
        stored = load_file(checkpoint / _WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise DposcopeError(f"cannot read {checkpoint}: {error}; delete that folder and run again") from error
    trainable = policy.trainable
    if {n: v.shape for n, v in stored.items()} != {n: v.shape for n, v in trainable.items()}:
        raise DposcopeError(f"{checkpoint} holds other parameters than this training; choose another --out")
    for name, value in trainable.items():
        value.copy_(stored[name])
