"""From indices of pairs to a packed batch, with its windows."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.utils.data import Dataset

from dposcope.data.short import short_repr
from dposcope.model.language_model import LanguageModel
from dposcope.processes.group import Processes
from dposcope.training.batches.examples import Example, drawn
from dposcope.training.batches.packing import pack
from dposcope.training.batches.reading import fits_one_row, row_tokens
from dposcope.training.objective import Objective
from dposcope.training.precompute import ReferenceStates
from dposcope.training.schedule import Schedule
from dposcope.training.sharing import Share, Sharing

VALIDATION = 1 << 40
"""Offset of the indices of validation pairs. It gives training and validation pairs different windows."""


@dataclass(frozen=True)
class Material:
    """The examples of one training."""

    train: Sequence[Example]
    validation: Sequence[Example]
    windows: Sequence[Example] = ()
    """A pool of texts for the KL: windows of neutral text, or harmless texts with their prompts."""

    __repr__ = short_repr


class Indices(Dataset[int]):
    """A data set of indices; the collator looks up the pairs."""

    def __init__(self, count: int, offset: int = 0) -> None:
        self._count, self._offset = count, offset

    def __len__(self) -> int:
        """How many pairs."""
        return self._count

    def __getitem__(self, index: int) -> int:
        """The pair's index, plus the offset of its part."""
        return index + self._offset


class Collator:
    """Turns indices of pairs into a packed batch, with its windows."""

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
        self._windows = schedule.windows_per_batch if objective.reads_windows and material.windows else 0
        self._pad_id = lm.pad_id
        self._published = objective.protocol == "reference"
        every = [*material.train, *material.validation, *material.windows]
        self._shared = not self._published and fits_one_row(lm.model, every)
        self._row_tokens = row_tokens(lm.model)

    def __call__(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """Tensors of a batch. With several processes: of this process's share of a training batch."""
        if self._sharing is None or indices[0] >= VALIDATION:  # processes share validation by whole batches
            return self._packed(indices, self._drawn(indices))
        parts = self._sharing.micro_batches(indices)
        drawn_tokens = [{place: self._predicting(place) for place in self._drawn(part)} for part in parts]
        share: Share = self._sharing.mine(parts, drawn_tokens)
        return self._packed(share.pairs, share.windows) | {
            "pair_weights": torch.full((len(share.pairs),), share.pair_weight, dtype=torch.float64),
            "window_weights": torch.tensor(share.window_weights, dtype=torch.float64),
            "micro_batches": torch.tensor(len(parts)),
        }

    def _drawn(self, indices: Sequence[int]) -> list[int]:
        if not self._windows:
            return []
        return drawn(indices, pool=len(self._material.windows), count=self._windows, seed=self._schedule.seed)

    def _predicting(self, window: int) -> int:
        return len(self._material.windows[window].prompt) - 1

    def _packed(self, indices: Sequence[int], chosen: Sequence[int]) -> dict[str, Tensor]:
        pairs = [
            self._material.validation[index - VALIDATION] if index >= VALIDATION else self._material.train[index]
            for index in indices
        ]
        windows = [self._material.windows[place] for place in chosen]
        batch = pack(
            [*pairs, *windows],
            pad_id=self._pad_id,
            shared=self._shared,
            whole=self._published,
            row_tokens=self._row_tokens,
        )
        tensors = {field.name: getattr(batch, field.name) for field in fields(batch)}
        tensors["windows"] = torch.tensor(len(windows))
        if self._reference is not None:
            tensors["reference_hidden"] = self._reference.of_batch(indices, chosen)
        return tensors
