"""Neuron means over all prompts and over disjoint folds of them, from one generation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dposcope.artefacts import value_files
from dposcope.data.given.numbers import whole
from dposcope.data.short import short_repr
from dposcope.data.texts import listed
from dposcope.errors import DposcopeError, plural
from dposcope.memory import halving_batches
from dposcope.model.checks.given import check_lm
from dposcope.model.generate import Progress
from dposcope.model.language_model import LanguageModel
from dposcope.neurons.activations import ActivationAccumulator, NeuronMeans, accumulate, collected_how
from dposcope.neurons.mixtures.means import joined_routed


@dataclass(frozen=True, eq=False)
class FoldedMeans:
    """Means over all prompts, and over each fold of them."""

    whole: NeuronMeans
    """Means over all prompts, equal to those of `collect_means` to the bit."""
    folds: tuple[NeuronMeans, ...]
    """Over prompts k, k + K, k + 2K … for k = 0 … K−1; their moments, weighted by `count`, add up to the whole's."""

    __repr__ = short_repr

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
    prompts = sum(part.about.get("prompts", 0) for part in parts)
    facts = {**parts[0].about, "prompts": prompts, **about}
    routed = [part.routed for part in parts if part.routed is not None]
    mean, second = torch.zeros_like(parts[0].mean), torch.zeros_like(parts[0].second_moment)
    if routed:
        whole = joined_routed(routed, [part.count / count for part in parts])
        for part, of_part in zip(parts, routed, strict=True):
            share = of_part.counts.double() / whole.counts.clamp(min=1)
            mean += share * part.mean
            second += share * part.second_moment
        return NeuronMeans(mean, second, count, facts, whole, parts[0].here)
    for part in parts:
        mean.add_(part.mean, alpha=part.count / count)
        second.add_(part.second_moment, alpha=part.count / count)
    return NeuronMeans(mean, second, count, facts, here=parts[0].here)


def folded_files(stem: str | Path, folds: int) -> list[Path]:
    """The files of a saved value."""
    stems = [Path(stem), *(_fold(stem, number) for number in range(1, folds + 1))]
    return [file for one in stems for file in value_files(one).both]


def _fold(stem: str | Path, number: int) -> Path:
    return Path(f"{stem}-fold-{number}")


@halving_batches
def collect_by_fold(
    lm: LanguageModel,
    prompts: Sequence[str],
    folds: int,
    *,
    new_tokens: int = 20,
    max_prompt_tokens: int | None = 256,
    protocol: str = "strict",
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> FoldedMeans:
    """The means of `collect_means`, and the means of each fold. Prompt r is in fold r mod K.

    Every prompt is continued once, in the same batches as in `collect_means`, so the means over all prompts are equal
    to the bit. A fold costs one addition per activation.

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
    check_lm(lm)
    prompts = listed("prompts", prompts, conversations=True)
    if whole("folds", folds) < 0 or folds == 1:
        raise DposcopeError(f"{folds} folds cannot be compared; give 2 or more, or 0 for none")
    if folds > len(prompts):
        raise DposcopeError(f"{plural(len(prompts), 'prompt')} cannot make {folds} folds; give fewer, or more prompts")
    accumulator = accumulate(
        lm,
        prompts,
        ActivationAccumulator.of(lm, folds=folds),
        new_tokens=new_tokens,
        max_prompt_tokens=max_prompt_tokens,
        protocol=protocol,
        batch_size=batch_size,
        progress=progress,
    )

    def value(fold: int) -> NeuronMeans:
        own = collected_how(lm, len(range(fold, len(prompts), folds)), new_tokens=new_tokens, protocol=protocol)
        return accumulator.value({**own, "fold": fold + 1, "folds": folds}, fold=fold)

    over_all = accumulator.value(collected_how(lm, len(prompts), new_tokens=new_tokens, protocol=protocol))
    return FoldedMeans(over_all, tuple(value(fold) for fold in range(folds)))
