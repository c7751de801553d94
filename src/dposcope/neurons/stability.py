"""Stability of neuron groups when prompts, comments or directions are varied.

The paper uses one direction and one set of prompts (5.2), and does not report how stable its groups are. Here the
contributions of the same two models are computed again with one thing varied, and all pairs of results are compared.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import cast

import numpy as np
import polars as pl
import torch
from scipy.stats import rankdata
from torch import Tensor

from dposcope.data.given.numbers import whole
from dposcope.data.pandas_frames import ToPandas
from dposcope.data.short import short_repr
from dposcope.errors import DposcopeError
from dposcope.neurons.agreement import Agreement, Among, Labels, agreement, labels_of, weights_of
from dposcope.neurons.contributions import Contributions, check_change

TOXIC_NEURONS = 256
"""Neurons of highest cosine whose overlap is measured (paper 5.2)."""
TOP_SHARE = 0.01
"""Share of all neurons, those of largest |Δ_i|, whose overlap is measured."""


@dataclass(frozen=True)
class Overlap:
    """Two sets of n neurons each: |A ∩ B| / |A ∪ B|."""

    size: int
    """n."""
    jaccard: float
    chance: float
    """The overlap expected by chance: the expected intersection of two random sets, divided by its union."""


@dataclass(frozen=True)
class PairAgreement:
    """A comparison of two repetitions."""

    first: str
    second: str
    agreements: tuple[Agreement, ...]
    """Every `Among` of every `Labels`, in their order."""
    rank_correlation: float | None
    """Spearman's, of Δ_i over all neurons; None where one side is the same for all."""
    toxic: Overlap
    """Of the neurons of highest cosine."""
    top: Overlap
    """Of the neurons of largest |Δ_i|."""

    __repr__ = short_repr

    def of(self, labels: Labels, among: Among) -> Agreement:
        """One of the agreements."""
        return next(one for one in self.agreements if (one.labels, one.among) == (labels, among))


@dataclass(frozen=True)
class Spread:
    """Mean and range of a number over the pairs of one source. Pairs are not independent: no confidence interval."""

    mean: float
    low: float
    """The lowest pair."""
    high: float
    """The highest."""
    pairs: int


@dataclass(frozen=True, eq=False)
class Repetitions:
    """Contributions of one pair of models that differ in one thing."""

    source: str
    """What differs: `prompts`, `comments` …"""
    names: tuple[str, ...]
    """Of each repetition."""
    changes: tuple[Contributions, ...]

    __repr__ = short_repr

    def __post_init__(self) -> None:
        """Check that the repetitions can be compared."""
        if len(self.changes) < 2 or len(self.names) != len(self.changes):
            raise DposcopeError(
                f"{len(self.changes)} repetitions of {self.source} under {len(self.names)} names; "
                "give at least two, and a name for each"
            )
        for change in self.changes:
            check_change(change)
        shapes = {tuple(change.cosine.shape) for change in self.changes}
        if len(shapes) > 1:
            raise DposcopeError(
                f"repetitions of {self.source} are of models of different sizes, {sorted(shapes)}; repeat one pair"
            )


@dataclass(frozen=True)
class SourceStability:
    """All pairs of repetitions of one source."""

    source: str
    repetitions: int
    neurons: int
    """L·d_mlp."""
    pairs: tuple[PairAgreement, ...]

    __repr__ = short_repr

    def kept(self, labels: Labels, among: Among) -> Spread | None:
        """Share of neurons that keep their label, over pairs."""
        return _spread(pair.of(labels, among).kept for pair in self.pairs)

    def chance(self, labels: Labels, among: Among) -> Spread | None:
        """The same expected of independent labels."""
        return _spread(pair.of(labels, among).chance for pair in self.pairs)

    def kappa(self, labels: Labels, among: Among) -> Spread | None:
        """Cohen's κ, over pairs."""
        return _spread(pair.of(labels, among).kappa for pair in self.pairs)

    def counted(self, among: Among) -> Spread | None:
        """How many neurons count."""
        return _spread(float(pair.of(Labels.MOVED, among).neurons) for pair in self.pairs)

    def over(self, read: Callable[[PairAgreement], float | None]) -> Spread | None:
        """Any other number of a pair, over pairs."""
        return _spread(map(read, self.pairs))


@dataclass(frozen=True)
class NeuronStability(ToPandas):
    """How stable groups, ranks and toxic neurons are, source by source."""

    sources: tuple[SourceStability, ...]

    __repr__ = short_repr

    def to_polars(self) -> pl.DataFrame:
        """One row per source, pair, labels and among: source, first, second, labels, among, neurons, kept, chance,
        kappa."""
        rows = [
            {
                "source": source.source,
                "first": pair.first,
                "second": pair.second,
                "labels": str(one.labels),
                "among": str(one.among),
                "neurons": one.neurons,
                "kept": one.kept,
                "chance": one.chance,
                "kappa": one.kappa,
            }
            for source in self.sources
            for pair in source.pairs
            for one in pair.agreements
        ]
        texts = dict.fromkeys(("source", "first", "second", "labels", "among"), pl.String)
        floats = dict.fromkeys(("kept", "chance", "kappa"), pl.Float64)
        return pl.DataFrame(rows, schema={**texts, "neurons": pl.Int64, **floats})

    def ranks(self) -> pl.DataFrame:
        """One row per source and pair: source, first, second, rank_correlation, toxic_neurons, toxic_overlap,
        toxic_chance, top_neurons, top_overlap, top_chance."""
        rows = [
            {
                "source": source.source,
                "first": pair.first,
                "second": pair.second,
                "rank_correlation": pair.rank_correlation,
                "toxic_neurons": pair.toxic.size,
                "toxic_overlap": pair.toxic.jaccard,
                "toxic_chance": pair.toxic.chance,
                "top_neurons": pair.top.size,
                "top_overlap": pair.top.jaccard,
                "top_chance": pair.top.chance,
            }
            for source in self.sources
            for pair in source.pairs
        ]
        texts = dict.fromkeys(("source", "first", "second"), pl.String)
        numbers = {
            "rank_correlation": pl.Float64,
            **{
                f"{part}_{name}": kind
                for part in ("toxic", "top")
                for name, kind in (("neurons", pl.Int64), ("overlap", pl.Float64), ("chance", pl.Float64))
            },
        }
        return pl.DataFrame(rows, schema={**texts, **numbers})


def stability(sources: Sequence[Repetitions], *, toxic: int = TOXIC_NEURONS) -> NeuronStability:
    """Compare every pair of repetitions of each source.

    Args:
        sources: contributions of the same two models, each source with one thing varied.
        toxic: neurons of highest cosine whose overlap is measured; a smaller model gives all it has.

    Raises:
        DposcopeError: `toxic` is below 1.
    """
    _check_sources(sources)
    if whole("toxic", toxic) < 1:
        raise DposcopeError(f"cannot compare the top {toxic} neurons; ask for at least one, such as {TOXIC_NEURONS}")
    return NeuronStability(tuple(_source(one, toxic) for one in sources))


def _check_sources(given: object) -> None:
    several = cast(Sequence[object], given) if isinstance(given, list | tuple) else [None]
    if not all(isinstance(one, Repetitions) for one in several):
        raise DposcopeError("sources are no list of Repetitions; give some, one in brackets: […]")


class _Repetition:
    """One repetition, with everything that all of its pairs need."""

    def __init__(self, change: Contributions, toxic: int) -> None:
        total = change.each(change.total).flatten()
        self.change = change
        self.labels = labels_of(change)
        # Ranks once per repetition: sorting is most of the work.
        ranks = rankdata(total.numpy())
        self.ranks = ranks - ranks.mean()
        self.norm = float(np.sqrt(self.ranks @ self.ranks))
        self.toxic = _top(change.each(change.cosine).flatten(), toxic)
        self.top = _top(total.abs(), math.ceil(TOP_SHARE * len(total)))


def _source(repeated: Repetitions, toxic: int) -> SourceStability:
    parts = [_Repetition(change, toxic) for change in repeated.changes]
    return SourceStability(
        repeated.source,
        len(parts),
        repeated.changes[0].neurons,
        tuple(
            _compare(repeated.names[one], repeated.names[other], parts[one], parts[other])
            for one, other in combinations(range(len(parts)), 2)
        ),
    )


def _compare(first: str, second: str, one: _Repetition, other: _Repetition) -> PairAgreement:
    weights = weights_of(one.change, other.change)
    norm = one.norm * other.norm
    return PairAgreement(
        first,
        second,
        tuple(
            agreement(labels, among, one.labels[labels], other.labels[labels], weights[among])
            for labels in Labels
            for among in Among
        ),
        float(one.ranks @ other.ranks) / norm if norm > 0 else None,
        _overlap(one.toxic, other.toxic),
        _overlap(one.top, other.top),
    )


def _top(scores: Tensor, n: int) -> Tensor:
    """The n of highest score, `[n_neurons]`, bool; ties go to the lower block, then index."""
    mask = torch.zeros(len(scores), dtype=torch.bool)
    mask[scores.argsort(descending=True, stable=True)[:n]] = True
    return mask


def _overlap(one: Tensor, other: Tensor) -> Overlap:
    size, neurons = int(one.sum()), len(one)
    shared = size * size / neurons
    return Overlap(size, int((one & other).sum()) / int((one | other).sum()), shared / (2 * size - shared))


def _spread(values: Iterable[float | None]) -> Spread | None:
    known = [value for value in values if value is not None]
    return Spread(sum(known) / len(known), min(known), max(known), len(known)) if known else None
