"""The reference's outputs, computed once and read from disk: no second model in memory while training.

The files hold what the unembedding reads at the places that predict, d numbers per token. With its weights these
give the reference's whole distribution, which log-probabilities and the KL need. For Gemma-3-270m in bfloat16 that is
1.3 kB per token; logits would be a megabyte.

Each file has some hundred megabytes and is written whole or not at all. Only one is in memory at a time, and an
interrupted computation continues after the last complete file.
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from dposcope.artefacts import write_atomically, write_json
from dposcope.errors import DposcopeError
from dposcope.marks import FileMark, damage, mark_json, read_marks
from dposcope.model.generate import Progress
from dposcope.model.language_model import LanguageModel
from dposcope.processes.group import Processes
from dposcope.training.batches.examples import Example
from dposcope.training.batches.packing import pack
from dposcope.training.batches.reading import fits_one_row, row_tokens
from dposcope.training.policy import PreferencePolicy

SHARD_BYTES = 1 << 28
"""Most bytes of a file: 256 MB. A single larger batch exceeds it."""


@dataclass(frozen=True)
class Shard:
    """Consecutive examples of a part, in one file."""

    path: Path
    part: str
    start: int
    stop: int

    @property
    def mark(self) -> Path:
        """The file that says what this one was when it was made; it is written last."""
        return self.path.with_suffix(".whole")

    @property
    def is_whole(self) -> bool:
        """Whether it is there as it was made."""
        files = read_marks(self.mark)
        return bool(files) and damage(self.path.parent, files) is None


def shards(
    parts: Mapping[str, Sequence[Example]],
    folder: Path,
    *,
    width: int,
    batch_size: int = 8,
    shard_bytes: int = SHARD_BYTES,
) -> list[Shard]:
    """The files that `precompute_reference` writes, in its order.

    Args:
        parts: `train`, `validation` and `window` examples.
        folder: where the files are.
        width: d of the model.
        batch_size: examples at a time; a file holds whole batches.
        shard_bytes: most bytes of a file, unless one batch has more.
    """
    planned: list[Shard] = []
    for part, examples in parts.items():
        longest = max(map(_predicting, examples), default=1)
        batches = max(1, shard_bytes // (4 * width * longest * batch_size))
        for start in range(0, len(examples), batches * batch_size):
            stop = min(start + batches * batch_size, len(examples))
            planned.append(Shard(folder / f"{part}-{start:08}.safetensors", part, start, stop))
    return planned


def _predicting(example: Example) -> int:
    """How many of its places predict a token."""
    return sum(map(len, example.completions)) if example.completions else len(example.prompt) - 1


class ReferenceStates:
    """Reads what `precompute_reference` wrote, one pair at a time."""

    def __init__(self, folder: Path, *, validation_offset: int) -> None:
        """Open the files in `folder`; indices of validation pairs begin at `validation_offset`.

        Raises:
            DposcopeError: there is none, or one is damaged.
        """
        self._offset = validation_offset
        self._starts: dict[str, list[int]] = {}
        self._files: dict[str, list[Any]] = {}
        paths = sorted(folder.glob("*-*.safetensors"))
        if not paths:
            raise DposcopeError(
                f"{folder} holds no outputs of a reference; compute them first with precompute_reference"
            )
        for path in paths:  # a name sorts by part and start
            part, _, start = path.stem.rpartition("-")
            try:
                # Only its list of tensors is read now.
                opened: Any = safe_open(path, framework="pt")
            except (OSError, SafetensorError) as error:
                raise DposcopeError(f"cannot read {path}: {error}; delete it and run again") from error
            self._starts.setdefault(part, []).append(int(start))
            self._files.setdefault(part, []).append(opened)

    def of_batch(self, indices: Sequence[int], windows: Sequence[int]) -> Tensor:
        """`[N, d]` in the order of a packed batch: preferred completions, dispreferred completions, windows."""
        pairs = [
            ("validation", index - self._offset) if index >= self._offset else ("train", index) for index in indices
        ]
        parts = [self._of(part, row, side) for side in (0, 1) for part, row in pairs]
        return torch.cat([*parts, *(self._of("window", place, 0) for place in windows)])

    def _of(self, part: str, row: int, side: int) -> Tensor:
        place = bisect_right(self._starts[part], row) - 1
        return self._files[part][place].get_tensor(f"{row}.{side}")


def precompute_reference(
    lm: LanguageModel,
    policy: PreferencePolicy,
    parts: Mapping[str, Sequence[Example]],
    folder: Path,
    *,
    batch_size: int = 8,
    shard_bytes: int = SHARD_BYTES,
    processes: Processes = Processes(),  # noqa: B008 — frozen
    progress: Progress | None = None,
) -> None:
    """Run the reference over all examples and write its outputs; files that are as they were made are kept.

    Several processes do not wait for one another here.

    Args:
        lm: for the tokenizer's padding and the layout.
        policy: its reference runs.
        parts: `train`, `validation` and `window` examples.
        folder: for `.safetensors` files of these examples and this reference alone.
        batch_size: examples at a time.
        shard_bytes: most bytes of a file, and of the outputs in memory; a single larger batch exceeds it.
        processes: they share the files; process r writes files r, r + count, …
        progress: called after each batch, with (examples done, all examples) of this process.

    Raises:
        DposcopeError: the disk is full.
    """
    planned = shards(parts, folder, width=lm.d_model, batch_size=batch_size, shard_bytes=shard_bytes)
    mine = planned[processes.rank :: processes.count]
    total = sum(shard.stop - shard.start for shard in mine)
    missing = [shard for shard in mine if not shard.is_whole]
    done = total - sum(shard.stop - shard.start for shard in missing)
    shared = fits_one_row(lm.model, [example for examples in parts.values() for example in examples])
    for shard in missing:
        stored: dict[str, Tensor] = {}
        for start in range(shard.start, shard.stop, batch_size):
            chunk = parts[shard.part][start : min(start + batch_size, shard.stop)]
            batch = pack(chunk, pad_id=lm.pad_id, shared=shared, row_tokens=row_tokens(lm.model))
            states = policy.reference_states(batch.to(lm.device)).cpu()
            sides = 2 if chunk[0].completions else 1
            for row in range(len(chunk)):
                for side in range(sides):
                    stored[f"{start + row}.{side}"] = states[batch.sequence == side * len(chunk) + row].clone()
            done += len(chunk)
            if progress is not None:
                progress(done, total)
        with write_atomically(shard.path) as temporary:
            save_file(stored, temporary)
        write_json(shard.mark, {shard.path.name: mark_json(FileMark.of(shard.path))})
