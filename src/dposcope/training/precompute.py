"""The reference's outputs, computed once and read from disk: no second model in memory while training.

Kept are final-norm outputs at the places that predict, d numbers per token: with the reference's unembedding they give
its whole distribution, which log-probabilities and the KL need. That is 1.3 kB per token for Gemma-3-270m in
bfloat16, against a megabyte for its logits.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from dposcope.artefacts import write_atomically
from dposcope.errors import DposcopeError
from dposcope.model.generate import Progress
from dposcope.model.language_model import LanguageModel
from dposcope.training.examples import Example
from dposcope.training.packing import fits_one_row, pack
from dposcope.training.policy import PreferencePolicy


class ReferenceStates:
    """Reads what `precompute_reference` wrote, one pair at a time."""

    def __init__(self, path: Path, *, validation_offset: int) -> None:
        """Open `path`; indices of validation pairs begin at `validation_offset`."""
        self._offset = validation_offset
        try:
            self._file: Any = safe_open(path, framework="pt")
        except (OSError, SafetensorError) as error:
            raise DposcopeError(f"cannot read {path}: {error}; delete it and run again") from error

    def of_batch(self, indices: Sequence[int], windows: Sequence[int]) -> Tensor:
        """`[N, d]` in the order of a packed batch: preferred ones, dispreferred ones, windows."""
        names = [
            f"validation.{index - self._offset}" if index >= self._offset else f"train.{index}" for index in indices
        ]
        parts = [self._file.get_tensor(f"{name}.{side}") for side in (0, 1) for name in names]
        return torch.cat([*parts, *(self._file.get_tensor(f"window.{place}.0") for place in windows)])


def precompute_reference(
    lm: LanguageModel,
    policy: PreferencePolicy,
    parts: dict[str, Sequence[Example]],
    path: Path,
    *,
    batch_size: int = 8,
    progress: Progress | None = None,
) -> None:
    """Run the reference over all examples and write its outputs, atomically.

    Args:
        lm: for the tokenizer's padding and the layout.
        policy: its reference runs.
        parts: `train`, `validation` and `window` examples.
        path: a .safetensors file.
        batch_size: examples at a time.
        progress: called after each batch.

    Raises:
        DposcopeError: the disk is full.
    """
    stored: dict[str, Tensor] = {}
    total, done = sum(map(len, parts.values())), 0
    every = [example for examples in parts.values() for example in examples]
    shared = fits_one_row(lm.model, every)
    for name, examples in parts.items():
        for start in range(0, len(examples), batch_size):
            chunk = examples[start : start + batch_size]
            batch = pack(chunk, pad_id=lm.pad_id, shared=shared)
            states = policy.reference_states(batch.to(lm.device)).cpu()
            sides = 2 if chunk[0].branches else 1
            for row in range(len(chunk)):
                for side in range(sides):
                    stored[f"{name}.{start + row}.{side}"] = states[batch.sequence == side * len(chunk) + row].clone()
            done += len(chunk)
            if progress is not None:
                progress(done, total)
    with write_atomically(path) as temporary:
        save_file(stored, temporary)
