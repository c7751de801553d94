"""What tuning changed, as one value: contributions, groups, toxic neurons, the toxic subspace (paper 4, 5, E to J)."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor

from dposcope.data.given.numbers import seed_of, whole
from dposcope.data.short import short_repr
from dposcope.data.texts import listed
from dposcope.directions.direction import Direction, as_direction
from dposcope.directions.judge import TokenJudge, WordListJudge, check_judge
from dposcope.directions.lens import check_count
from dposcope.errors import DposcopeError
from dposcope.model.generate import Progress
from dposcope.model.language_model import LanguageModel
from dposcope.model.tuned import check_models
from dposcope.neurons.activations import NeuronMeans
from dposcope.neurons.contributions import Contributions, contributions
from dposcope.neurons.folds import collect_by_fold
from dposcope.neurons.ranks import CumulativeReduction, RankRangeShifts, cumulative_reduction, rank_range_shifts
from dposcope.neurons.resampling import PARTS, Intervals, prompt_intervals
from dposcope.neurons.sets import NeuronSet
from dposcope.neurons.shares import GroupShares, LayerSums, group_shares, layer_sums
from dposcope.neurons.shifts import (
    ChangeSummary,
    Correlations,
    ShiftDensity,
    TopToxic,
    change_summary,
    correlations,
    shift_density,
    top_toxic,
)
from dposcope.neurons.subspace import (
    SIZES,
    AxisSigns,
    Stability,
    Subspace,
    alignment_signs,
    change_signs,
    subspace_stability,
    svd_subspace,
)
from dposcope.neurons.toxic import PromotedTokens, ToxicNeurons, promoted_tokens, toxic_neurons

TOXIC_SETS = (128, 256)
"""How many neurons of highest cosine are called toxic (Lee et al. 2024: 128; paper: 256)."""

SUBSPACE_VECTORS, SUBSPACE_AXES = 128, 3
"""Of the paper's appendix G."""


@dataclass(frozen=True, eq=False)
class Explanation:
    """All results that need only the weights and the mean activations of the two models; no intervention."""

    direction: Direction
    """W."""
    contributions: Contributions
    """Δ of every neuron (Eq. 2)."""
    intervals: Intervals
    """Over prompts, of shares of neurons and correlations; empty where prompts are too few."""
    shares: GroupShares
    """Tables 5, 13, 18; Figures 2a, 6a."""
    layers: LayerSums
    """Figures 1, 5, 8."""
    cumulative: CumulativeReduction
    """Figures 2b, 6b."""
    ranges: RankRangeShifts
    """Figures 2c, 6c, 7."""
    density: ShiftDensity
    """Figure 4."""
    top: TopToxic
    """Figure 3."""
    correlations: Correlations
    """Table 17."""
    change: ChangeSummary
    """Text of section 5.1."""
    toxic: ToxicNeurons
    """Tables 3 and 14: the largest of `toxic_sets`."""
    anti_toxic: ToxicNeurons
    """Tables 6 and 15."""
    toxic_sets: tuple[int, ...]
    """Sizes of the sets of toxic neurons, smallest first."""
    direction_tokens: PromotedTokens
    """Table 1: what W promotes."""
    subspace: Subspace
    """Appendix G."""
    axis_tokens: tuple[PromotedTokens, ...]
    """Table 16: what each axis promotes, and last what their weighted sum does."""
    stability: Stability
    alignment: AxisSigns
    """Signs of cosines along the axes (paper: 74.7 % conflict)."""
    changes: AxisSigns
    """Signs of the change of projection (paper: 74.3 % conflict)."""

    __repr__ = short_repr

    @property
    def largest_set(self) -> int:
        """The largest number of neurons that are called toxic."""
        return self.toxic_sets[-1]

    @property
    def toxic_share(self) -> float:
        """Share of all neurons that are among the largest set and promote a toxic token."""
        return len(self.toxic.with_toxic_tokens()) / self.shares.neurons

    def patch_sets(self) -> dict[str, NeuronSet]:
        """Toxic neurons to patch (Tables 2 and 3): those with toxic tokens, then the top n of each size."""
        sets = {"toxic tokens": self.toxic.with_toxic_tokens()}
        return sets | {f"top {n}": self.toxic.top(n) for n in self.toxic_sets}


def explain(
    base: LanguageModel,
    tuned: LanguageModel,
    direction: Direction | Tensor,
    prompts: Sequence[str],
    *,
    judge: TokenJudge | None = None,
    toxic_sets: Sequence[int] = TOXIC_SETS,
    lens_tokens: int = 10,
    new_tokens: int = 20,
    protocol: str = "strict",
    batch_size: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Explanation:
    """Explain what tuning changed, neuron by neuron (paper 3.2, 4, 5).

    Two generations, one per model, and no more: activations are collected while the models write, and memory does
    not grow with the prompts.

    Args:
        base: the model before tuning.
        tuned: the model after it.
        direction: W, such as `fit_probe(…)` (paper) or `mean_difference(…)`, or a vector `[d]`, in the base model's
            stream.
        prompts: both models continue them (paper: 1,199).
        judge: says which tokens are toxic; default: the built-in word list (paper: GPT-4o).
        toxic_sets: how many neurons of highest cosine are called toxic.
        lens_tokens: tokens per vector.
        new_tokens: of each continuation (paper: 20).
        protocol: "strict" or "reference", see `collect_means`.
        batch_size: prompts at a time.
        seed: of random axes.
        progress: called after each batch, for each model.

    Raises:
        DposcopeError: the models do not belong together, or the direction does not fit.
    """
    check_models(base, tuned)
    prompts = listed("prompts", prompts, conversations=True)
    direction = as_direction(direction, base)
    judge = WordListJudge() if judge is None else judge
    # What is wrong is told before both models write.
    check_judge(judge)
    toxic_sets, seed = _sizes(toxic_sets, base), seed_of(seed)
    check_count(base, lens_tokens)
    parts = PARTS if len(prompts) >= PARTS else 0
    how: Any = {"new_tokens": new_tokens, "protocol": protocol, "batch_size": batch_size, "progress": progress}
    before, after = (collect_by_fold(lm, prompts, parts, **how) for lm in (base, tuned))
    change = contributions(base, tuned, before.whole, after.whole, direction)
    return explanation_of(
        base,
        tuned,
        direction,
        change,
        judge=judge,
        toxic_sets=toxic_sets,
        lens_tokens=lens_tokens,
        seed=seed,
        parts=(before.folds, after.folds),
    )


def explanation_of(
    base: LanguageModel,
    tuned: LanguageModel,
    direction: Direction,
    change: Contributions,
    *,
    judge: TokenJudge | None = None,
    toxic_sets: Sequence[int] = TOXIC_SETS,
    lens_tokens: int = 10,
    seed: int = 0,
    parts: tuple[Sequence[NeuronMeans], Sequence[NeuronMeans]] = ((), ()),
) -> Explanation:
    """The explanation from contributions that were made before; see `explain`.

    `parts`: means of both models over parts of the prompts, for intervals.
    """
    judge = judge or WordListJudge()
    sizes = _sizes(toxic_sets, base)
    subspace = svd_subspace(
        base, direction, vectors=min(SUBSPACE_VECTORS, base.n_neurons), axes=min(SUBSPACE_AXES, base.d_model)
    )
    rank = subspace.axes.shape[1]
    vectors = [*subspace.axes.T, subspace.combined.vector]
    return Explanation(
        direction=direction,
        contributions=change,
        intervals=prompt_intervals(change, *parts),
        shares=group_shares(change),
        layers=layer_sums(change),
        cumulative=cumulative_reduction(change),
        ranges=rank_range_shifts(change),
        density=shift_density(change),
        top=top_toxic(change),
        correlations=correlations(change),
        change=change_summary(change),
        toxic=toxic_neurons(base, direction.vector, judge, n=sizes[-1], k=lens_tokens),
        anti_toxic=toxic_neurons(base, direction.vector, judge, n=sizes[-1], k=lens_tokens, side="anti-toxic"),
        toxic_sets=sizes,
        direction_tokens=promoted_tokens(base, direction.vector, judge, k=lens_tokens)[0],
        subspace=subspace,
        axis_tokens=tuple(
            tokens for vector in vectors for tokens in promoted_tokens(base, vector, judge, k=lens_tokens)
        ),
        stability=subspace_stability(base, direction, sizes=_stable_sizes(base.n_neurons, rank), axes=rank, seed=seed),
        alignment=alignment_signs(base, subspace, seed=seed),
        changes=change_signs(base, tuned, change, subspace, seed=seed),
    )


def _sizes(toxic_sets: object, lm: LanguageModel) -> tuple[int, ...]:
    """Sizes of the sets of toxic neurons, smallest first, none above the number of neurons."""
    if not isinstance(toxic_sets, Iterable):
        raise DposcopeError(f"toxic_sets {toxic_sets!r:.40} is no list; write the number in brackets: [256]")
    given = [whole("toxic_sets: size", size) for size in cast(Iterable[object], toxic_sets)]
    sizes = tuple(sorted({min(size, lm.n_neurons) for size in given}))
    if not sizes or sizes[0] < 1:
        raise DposcopeError(f"toxic_sets {given} name no number of neurons; give such as 128 and 256")
    return sizes


def _stable_sizes(neurons: int, rank: int) -> tuple[int, ...]:
    """The usual sizes, or smaller ones that a small model has."""
    fitting = [size for size in SIZES if rank <= size <= neurons]
    return tuple(fitting) if len(fitting) > 1 else (max(rank, neurons // 2), neurons)
