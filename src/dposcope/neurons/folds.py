"""Neuron means over all prompts and over disjoint folds of them, from one generation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from dposcope.artefacts import value_files
from dposcope.errors import DposcopeError, plural
from dposcope.model.generate import Progress
from dposcope.model.language_model import LanguageModel
from dposcope.neurons.activations import ActivationAccumulator, NeuronMeans, collected_how, show_activations


@dataclass(frozen=True, eq=False)
class FoldedMeans:
    """Means over all prompts, and over each fold of them."""

    whole: NeuronMeans
    """Over all: what `collect_means` gives, to the bit."""
    folds: tuple[NeuronMeans, ...]
    """Over prompts k, k + K, k + 2K … for k = 0 … K−1; their moments, weighted by `count`, add up to the whole's."""

    def save(self, stem: str | Path) -> None:
        """Write the whole at `stem`, the folds at `stem-fold-1` …"""
        self.whole.save(stem)
        for number, means in enumerate(self.folds, 1):
            means.save(_fold(stem, number))

    @classmethod
    def load(cls, stem: str | Path, folds: int) -> "FoldedMeans":
        """Read what `save` wrote, so many folds."""
        return cls(
            NeuronMeans.load(stem), tuple(NeuronMeans.load(_fold(stem, number)) for number in range(1, folds + 1))
        )


def pooled(parts: Sequence[NeuronMeans], folds: int) -> tuple[NeuronMeans, ...]:
    """Fewer folds of the same prompts: part p is of fold p mod K, so prompt r stays in fold r mod K.

    Args:
        parts: over prompts r with r mod P = p, for p = 0 … P−1.
        folds: K, a divisor of P.

    Raises:
        DposcopeError: K does not divide P.
    """
    if folds < 1 or len(parts) % folds:
        raise DposcopeError(f"{len(parts)} parts do not make {folds} folds of equal size; give a divisor")
    return tuple(
        joined(parts[fold::folds], {"fold": fold + 1, "folds": folds}) if folds < len(parts) else parts[fold]
        for fold in range(folds)
    )


def joined(parts: Sequence[NeuronMeans], about: Mapping[str, Any]) -> NeuronMeans:
    """Means over the tokens of all parts, each as often as it is given.

    Args:
        parts: one or more.
        about: replaces what the first part says of itself; `prompts` are added up.
    """
    count = sum(part.count for part in parts)
    mean, second = torch.zeros_like(parts[0].mean), torch.zeros_like(parts[0].second_moment)
    for part in parts:
        mean.add_(part.mean, alpha=part.count / count)
        second.add_(part.second_moment, alpha=part.count / count)
    prompts = sum(part.about.get("prompts", 0) for part in parts)
    return NeuronMeans(mean, second, count, {**parts[0].about, "prompts": prompts, **about})


def folded_files(stem: str | Path, folds: int) -> list[Path]:
    """The files of a saved value."""
    stems = [Path(stem), *(_fold(stem, number) for number in range(1, folds + 1))]
    return [file for one in stems for file in value_files(one).both]


def _fold(stem: str | Path, number: int) -> Path:
    return Path(f"{stem}-fold-{number}")


def collect_by_fold(
    lm: LanguageModel,
    prompts: Sequence[str],
    folds: int,
    *,
    new_tokens: int = 20,
    max_prompt_tokens: int | None = 256,
    protocol: str = "strict",
    batch_size: int = 32,
    progress: Progress | None = None,
) -> FoldedMeans:
    """What `collect_means` gives, and the same of each fold: prompt r is of fold r mod K.

    Every prompt is continued once, in the batches of `collect_means`, so the whole is the same to the bit and
    a fold costs an addition per activation.

    Args:
        lm: the model.
        prompts: what it continues.
        folds: K; 0 for none.
        new_tokens: see `collect_means`, as all that follow.
        max_prompt_tokens: prompts are cut to their end (strict).
        protocol: "strict" or "reference".
        batch_size: prompts at a time.
        progress: called after each batch.

    Raises:
        DposcopeError: K is 1, negative or above the number of prompts; as `collect_means`.
    """
    if folds < 0 or folds == 1:
        raise DposcopeError(f"{folds} folds cannot be compared; give 2 or more, or 0 for none")
    if folds > len(prompts):
        raise DposcopeError(f"{plural(len(prompts), 'prompt')} cannot make {folds} folds; give fewer, or more prompts")
    whole = ActivationAccumulator(lm.n_blocks, lm.d_mlp)
    parts = _FoldSums(lm.n_blocks, lm.d_mlp, folds)

    def see(block: int, activations: Tensor, counted: Tensor, rows: Sequence[int]) -> None:
        seen = activations[counted].double()
        squares = seen.square()
        whole.add(block, seen, squares)
        if folds:
            parts.add(block, seen, squares, counted, rows)

    show_activations(
        lm,
        prompts,
        see,
        new_tokens=new_tokens,
        max_prompt_tokens=max_prompt_tokens,
        protocol=protocol,
        batch_size=batch_size,
        progress=progress,
    )

    def about(prompts: int) -> dict[str, object]:
        return collected_how(lm, prompts, new_tokens=new_tokens, protocol=protocol)

    return FoldedMeans(
        whole.value(about(len(prompts))),
        tuple(
            parts.value(fold, {**about(len(range(fold, len(prompts), folds))), "fold": fold + 1, "folds": folds})
            for fold in range(folds)
        ),
    )


class _FoldSums:
    """Adds up activations of all folds at once; an `ActivationAccumulator` for each of ten would take a tenth of the
    generation's time."""

    def __init__(self, n_blocks: int, d_mlp: int, folds: int) -> None:
        self._folds = folds
        self._sum = [torch.zeros(folds, d_mlp, dtype=torch.float64) for _ in range(n_blocks)]
        self._squares = [torch.zeros(folds, d_mlp, dtype=torch.float64) for _ in range(n_blocks)]
        self._counts = [torch.zeros(folds, 1, dtype=torch.float64) for _ in range(n_blocks)]
        self._rows: Sequence[int] = ()
        self._fold_of = torch.zeros(0, dtype=torch.long)

    def add(self, block: int, seen: Tensor, squares: Tensor, counted: Tensor, rows: Sequence[int]) -> None:
        """Add what a pass of one batch shows of one block.

        Args:
            block: its index.
            seen: `[n, d_mlp]`, float64, at the positions that count.
            squares: of these.
            counted: those positions, `[B, T]`.
            rows: which prompt each row of the batch is.
        """
        device = seen.device
        if rows is not self._rows:  # one list per batch
            self._rows, self._fold_of = rows, torch.tensor(rows, device=device) % self._folds
        fold_of = self._fold_of.unsqueeze(1).expand_as(counted)[counted]
        for sums, added in ((self._sum, seen), (self._squares, squares), (self._counts, torch.ones_like(seen[:, :1]))):
            if device.type == "cpu":
                sums[block].index_add_(0, fold_of, added)
            else:
                # A product is the same on every run; scattered additions on a GPU are not.
                sums[block] = torch.addmm(sums[block].to(device), one_hot(fold_of, self._folds).T.double(), added)

    def value(self, fold: int, about: Mapping[str, Any]) -> NeuronMeans:
        """The moments of one fold.

        Raises:
            DposcopeError: nothing of it was recorded, or blocks saw different numbers of tokens.
        """
        counts = {int(count[fold]) for count in self._counts}
        count = max(counts)
        if count == 0 or len(counts) > 1:
            raise DposcopeError("a fold was recorded with gaps; a pass was cut short, record again")
        mean, second = (
            torch.stack([sums[fold].cpu() for sums in of_blocks]) / count for of_blocks in (self._sum, self._squares)
        )
        return NeuronMeans(mean, second, count, dict(about))
