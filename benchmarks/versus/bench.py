"""What all rows share: the model, the data, the edit, and every text written only once."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import numpy as np
from torch import Tensor

from dposcope.data.comments import Comments
from dposcope.data.corpus import Passages
from dposcope.directions.direction import Direction
from dposcope.directions.features import residual_features
from dposcope.directions.means import mean_difference
from dposcope.evaluation.overlap import GENERATED_TOKENS
from dposcope.evaluation.perplexity import WindowLosses, window_losses
from dposcope.evaluation.scorer import Scorer
from dposcope.interventions.assign import Assign
from dposcope.interventions.gains import Gains
from dposcope.interventions.group_gains import gains_of, group_assign
from dposcope.interventions.steer import Steer
from dposcope.model.frames import Positions
from dposcope.model.generate import Continuation, generate
from dposcope.model.hooks import Intervention
from dposcope.model.language_model import LanguageModel
from dposcope.neurons.activations import NeuronMeans, collect_means
from dposcope.neurons.groups import Ranking, Selection, cosines, select_fraction
from dposcope.pairs.pairs import Pairs
from dposcope.protocols import Protocol

ALPHA, BETA = 0.01, 0.55
"""The paper's marked edit (Table 2)."""

TRIM = 80.0
"""The published code's percentile, for GPT-2."""


@dataclass(frozen=True, eq=False)
class Data:
    """Read before any model runs."""

    report: tuple[str, ...]
    """Prompts that are measured on."""
    learn: tuple[str, ...]
    """Prompts that mean activations are taken on."""
    fit: Comments
    """Comments that directions are fitted on, as many toxic as not."""
    test: Comments
    """Comments that probes are tested on, likewise."""
    neutral: str
    passages: Passages
    pairs: Pairs | None = None


@dataclass(frozen=True, eq=False)
class Bench:
    """A model, its edit, and a store of what was written and read."""

    lm: LanguageModel
    data: Data
    scorer: Scorer
    max_windows: int
    batch_size: int
    tell: Callable[[str], None]
    tuned: LanguageModel | None = None
    _written: dict[tuple[str, ...], list[Continuation]] = field(default_factory=dict)
    _losses: dict[tuple[str, str], WindowLosses] = field(default_factory=dict)

    @cached_property
    def direction(self) -> Direction:
        """Difference of means, strict."""
        self.tell("the direction")
        features = residual_features(self.lm, self.data.fit.texts, batch_size=self.batch_size)
        return mean_difference(self.lm, self.data.fit.texts, self.data.fit.labels, features=features)

    @cached_property
    def cosine(self) -> Tensor:
        """cos(v_i, W), `[L, d_mlp]`."""
        return cosines(self.lm, self.direction.vector)

    @cached_property
    def means(self) -> NeuronMeans:
        """m_i^pre, strict."""
        return self._means("strict")

    @cached_property
    def reference_means(self) -> NeuronMeans:
        """m_i^pre as the published code takes it."""
        return self._means("reference")

    def _means(self, protocol: Protocol) -> NeuronMeans:
        self.tell(f"mean activations, {protocol}")
        return collect_means(self.lm, self.data.learn, protocol=protocol, batch_size=self.batch_size)

    def selection(
        self, ranking: Ranking = "cosine", *, trim: float | None = None, mean: Tensor | None = None
    ) -> Selection:
        """Neurons of the edit."""
        mean = self.means.mean if mean is None else mean
        return select_fraction(self.cosine, mean, beta=BETA, ranking=ranking, trim_percentile=trim)

    @cached_property
    def scale(self) -> Gains:
        """The edit as the equation says."""
        return gains_of(self.selection(), alpha=ALPHA)

    def assign(self, ranking: Ranking = "cosine", *, trim: float | None = None) -> Assign:
        """The edit as the published code does it, at the positions that predict."""
        return group_assign(self.means, self.selection(ranking, trim=trim), alpha=ALPHA)

    def edits(self, name: str) -> tuple[Intervention, ...]:
        """What is done to the model under a name, the first one first."""
        match name.split():
            case ["none"]:
                return ()
            case ["scale"]:
                return (self.scale,)
            case ["assign"]:
                return (self.assign(),)
            case ["assign", "first"]:
                return (replace(self.assign(), positions=Positions.FIRST),)
            case ["assign", "trimmed"]:
                return (self.assign(trim=TRIM),)
            case ["assign", ("signed" | "activation" | "reference") as ranking]:
                return (self.assign(ranking),)
            case ["scale", "after", "assign"]:
                return (self.assign(), self.scale)
            case ["steer", ("residual" | "mlp") as site]:
                return (Steer(self.direction.vector, 1.0, site=site),)
            case _:
                raise ValueError(f"no edit {name!r}")

    def written(self, name: str, *, passages: bool = False, cut: bool = False) -> list[Continuation]:
        """20 greedy tokens after every prompt.

        Args:
            name: of the edit.
            passages: after the passages' prompts, for F1, instead of those that draw toxicity.
            cut: after the prompts' first 32 tokens, as the published code, instead of (the end of) whole prompts.
        """
        key = (name, "passages" if passages else "toxic", "cut" if cut else "whole")
        if key not in self._written:
            interventions = self.edits(name)
            self.tell(f"writing: {', '.join(key)}")
            limit, keep = _limits(passages, cut)
            prompts = self.data.passages.prompts if passages else self.data.report
            with ExitStack() as stack:
                for intervention in interventions:
                    stack.enter_context(intervention.on(self.lm))
                self._written[key] = generate(
                    self.lm,
                    prompts,
                    new_tokens=GENERATED_TOKENS,
                    max_prompt_tokens=limit,
                    keep=keep,
                    batch_size=self.batch_size,
                )
        return self._written[key]

    def texts(self, name: str, *, cut: bool = False) -> list[str]:
        """Continuations of the prompts that draw toxicity."""
        return [continuation.text for continuation in self.written(name, cut=cut)]

    def toxicity(self, name: str, *, cut: bool = False) -> np.ndarray:
        """Score of each, `[prompts]`."""
        return self.scorer(self.texts(name, cut=cut))

    def losses(self, name: str, protocol: Protocol = "strict") -> WindowLosses:
        """Log-perplexity of the first windows, as either protocol cuts them."""
        key = (name, protocol)
        if key not in self._losses:
            interventions = self.edits(name)
            self.tell(f"perplexity: {name}, {protocol} windows")
            with ExitStack() as stack:
                for intervention in interventions:
                    stack.enter_context(intervention.on(self.lm))
                self._losses[key] = window_losses(
                    self.lm, self.data.neutral, protocol=protocol, max_windows=self.max_windows
                )
        return self._losses[key]


def _limits(passages: bool, cut: bool) -> tuple[int, Literal["start", "end"]]:
    if cut:
        return 32, "start"
    return (64 if passages else 256), "end"


def overlap(one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    """Share of the neurons of the first masks, all together, that are in the second ones too."""
    chosen = sum(int(mask.sum()) for mask in one)
    both = sum(int((mine & theirs).sum()) for mine, theirs in zip(one, other, strict=True))
    return both / max(chosen, 1)


def masks(selection: Selection) -> list[Tensor]:
    """Of the four groups, always in the same order."""
    return [selection.sets[group].mask for group in sorted(selection.sets)]
