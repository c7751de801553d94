"""Changes of activations and of value vectors, by tuning and by an edit (paper 5.1, 7, appendices E and H).

The activation shift of a neuron is m_i^pre − m_i^post: positive where the activation fell.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from scipy.stats import pearsonr
from torch import Tensor

from dposcope.data.given.numbers import number, whole
from dposcope.data.pandas_frames import ToPandas
from dposcope.data.short import short_repr
from dposcope.errors import DposcopeError
from dposcope.model.checks.given import check_tensor
from dposcope.neurons.contributions import Contributions, MovedGroup, check_change
from dposcope.neurons.groups import Group, group_sets

# How shifts are spread: Figure 4


@dataclass(frozen=True, eq=False)
class ShiftDensity(ToPandas):
    """A histogram of activation shifts. Neurons in the tails have no bin, but are counted."""

    edges: Tensor
    """`[bins + 1]`, float64, rising; a bin holds its left edge, the last one both."""
    counts: Tensor
    """Neurons per bin, `[bins]`, int64."""
    groups: Mapping[MovedGroup, Tensor]
    """The same of each group, `[bins]`, int64."""
    below: int
    """Neurons left of the first edge."""
    above: int
    """Neurons right of the last."""
    mean: float
    """Of all neurons, the cut ones too."""
    deviation: float
    """Population standard deviation, of all neurons."""

    __repr__ = short_repr

    @property
    def density(self) -> Tensor:
        """Probability density, `[bins]`, per unit of activation; its integral is the share of neurons not cut."""
        neurons = int(self.counts.sum()) + self.below + self.above
        return self.counts / (neurons * self.edges.diff())

    def to_polars(self) -> pl.DataFrame:
        """One row per bin: low, high (its edges), neurons, density, and the neurons of TP↓ … AN↑."""
        return pl.DataFrame(
            {
                "low": self.edges[:-1].numpy(),
                "high": self.edges[1:].numpy(),
                "neurons": self.counts.numpy(),
                "density": self.density.numpy(),
                **{str(group): counts.numpy() for group, counts in self.groups.items()},
            }
        )


def shift_density(c: Contributions, *, bins: int = 100, cut: float = 0.01) -> ShiftDensity:
    """How activation shifts are spread over all neurons (Figure 4), and over the groups.

    Args:
        c: contributions.
        bins: of equal width.
        cut: share of neurons without a bin, half on either side, since long tails would hide the shape.

    Raises:
        DposcopeError: bins or cut out of range.
    """
    check_change(c)
    if whole("bins", bins) < 1:
        raise DposcopeError(f"a histogram cannot have {bins} bins; ask for at least one, such as 100")
    if not 0 <= number("cut", cut) < 1:
        raise DposcopeError(f"cut {cut} is outside [0, 1); it is the share of neurons to leave out, such as 0.01")
    table = c.activation_shift
    shift = c.each(table).numpy()
    low, high = np.quantile(shift, [cut / 2, 1 - cut / 2])
    edges = np.histogram_bin_edges(shift, bins, (low, high))  # widens a range without width

    def count(values: NDArray[np.float64]) -> Tensor:
        return torch.from_numpy(np.histogram(values, edges)[0])

    return ShiftDensity(
        edges=torch.from_numpy(edges),
        counts=count(shift),
        groups={group: count(table[neurons.mask].numpy()) for group, neurons in c.groups().items()},
        below=int((shift < edges[0]).sum()),
        above=int((shift > edges[-1]).sum()),
        mean=float(shift.mean()),
        deviation=float(shift.std()),
    )


# The most toxic neurons before and after: Figure 3


@dataclass(frozen=True, eq=False)
class TopToxic(ToPandas):
    """The neurons of highest cosine with the direction, the highest first; each field is `[n]`."""

    block: Tensor
    """int64."""
    index: Tensor
    """Within the block, int64."""
    cosine: Tensor
    """cos(v_i^pre, W)."""
    before: Tensor
    """m_i^pre."""
    after: Tensor
    """m_i^post."""

    __repr__ = short_repr

    @property
    def negative_before(self) -> float:
        """Share of them with m_i^pre < 0."""
        return float((self.before < 0).double().mean())

    @property
    def negative_after(self) -> float:
        """Share of them with m_i^post < 0."""
        return float((self.after < 0).double().mean())

    def to_polars(self) -> pl.DataFrame:
        """One row per neuron: block, index, cosine, before, after."""
        return pl.DataFrame(
            {
                "block": self.block.numpy(),
                "index": self.index.numpy(),
                "cosine": self.cosine.numpy(),
                "before": self.before.numpy(),
                "after": self.after.numpy(),
            }
        )


def top_toxic(c: Contributions, n: int = 100) -> TopToxic:
    """Mean activations, before and after, of the n neurons with the highest cosine (Figure 3: 100).

    Ties go to the lower block, then index. A model with fewer neurons gives all it has.

    Raises:
        DposcopeError: n is below 1.
    """
    check_change(c)
    if whole("n", n) < 1:
        raise DposcopeError(f"cannot take the top {n:,} neurons; ask for at least one")
    cosine = c.cosine.flatten()
    ranked = cosine if c.here is None else cosine.where(c.here.flatten(), -torch.inf)
    chosen = ranked.argsort(descending=True, stable=True)[: min(n, c.neurons)]
    width = c.cosine.shape[1]
    return TopToxic(
        block=chosen // width,
        index=chosen % width,
        cosine=cosine[chosen],
        before=c.before.mean.flatten()[chosen],
        after=c.after.mean.flatten()[chosen],
    )


# What shifts go with: Table 17


@dataclass(frozen=True)
class Correlation:
    """Pearson's, over so many neurons."""

    r: float | None
    """None if one variable is constant up to rounding, or if there are fewer than two neurons."""
    p: float | None
    """Two-sided, were neurons independent."""
    neurons: int


@dataclass(frozen=True)
class Correlations(ToPandas):
    """Correlations of activation shifts (Table 17)."""

    cosine: Correlation
    """With cos(v_i^pre, W)."""
    activation: Correlation
    """With m_i^pre. Regression to the mean alone makes it positive, as the paper says."""

    __repr__ = short_repr

    def to_polars(self) -> pl.DataFrame:
        """One row per property: with (cosine, activation), r, p, neurons."""
        rows = [{"with": "cosine", **asdict(self.cosine)}, {"with": "activation", **asdict(self.activation)}]
        return pl.DataFrame(rows, schema_overrides={"r": pl.Float64, "p": pl.Float64})


def correlations(c: Contributions) -> Correlations:
    """Pearson correlation of the activation shift with cosine and with m_i^pre, over all neurons (Table 17)."""
    check_change(c)
    shift, cosine, before = (c.each(table).flatten() for table in (c.activation_shift, c.cosine, c.before.mean))
    return Correlations(_pearson(shift, cosine), _pearson(shift, before))


def _pearson(one: Tensor, other: Tensor) -> Correlation:
    """Of two vectors `[n]`."""
    if _is_constant(one) or _is_constant(other):
        return Correlation(None, None, len(one))
    result: Any = pearsonr(one.numpy(), other.numpy())  # typed as a tuple without its names
    return Correlation(float(result.statistic), float(result.pvalue), len(one))


def _is_constant(values: Tensor) -> bool:
    # A spread within rounding error counts as none, since r would be noise.
    return len(values) < 2 or bool(values.max() - values.min() <= 1e-12 * values.abs().max())


# How much changed: the text of section 5.1

VECTOR_PERCENTILES = (1, 5, 25, 50, 75, 95, 99)


@dataclass(frozen=True)
class ChangeSummary(ToPandas):
    """Amounts of change of value vectors and activations by tuning (paper 5.1)."""

    vector_cosine: float
    """Mean of cos(v_i^pre, v_i^post) over all neurons (paper: 0.99)."""
    vector_cosine_min: float
    vector_cosine_percentiles: Mapping[int, float]
    """At 1, 5, 25, 50, 75, 95 and 99 per cent of neurons."""
    shift_percent: float
    """100 · mean |m_i^pre − m_i^post| / mean |m_i^pre| (the paper's 0.66 to 16.71 %, undefined there)."""
    median_shift_percent: float
    """Median of 100 · |m_i^pre − m_i^post| / |m_i^pre| over neurons with m_i^pre ≠ 0."""

    __repr__ = short_repr

    def to_polars(self) -> pl.DataFrame:
        """One row: vector_cosine, vector_cosine_min, vector_cosine_p1 …, shift_percent, median_shift_percent."""
        row = {
            "vector_cosine": self.vector_cosine,
            "vector_cosine_min": self.vector_cosine_min,
            **{f"vector_cosine_p{percent}": value for percent, value in self.vector_cosine_percentiles.items()},
            "shift_percent": self.shift_percent,
            "median_shift_percent": self.median_shift_percent,
        }
        return pl.DataFrame([row], schema=dict.fromkeys(row, pl.Float64))


def change_summary(c: Contributions) -> ChangeSummary:
    """How much value vectors and activations changed (paper 5.1).

    Raises:
        DposcopeError: every m_i^pre is 0, of which nothing is a percentage.
    """
    check_change(c)
    cosine = c.each(c.vector_cosine).numpy()
    shift, before = _sizes(c)
    active = before > 0
    percentiles = np.percentile(cosine, VECTOR_PERCENTILES).tolist()
    return ChangeSummary(
        vector_cosine=float(cosine.mean()),
        vector_cosine_min=float(cosine.min()),
        vector_cosine_percentiles=dict(zip(VECTOR_PERCENTILES, percentiles, strict=True)),
        shift_percent=_percent(shift, before),
        median_shift_percent=100 * float(np.median(shift[active] / before[active])),
    )


def shift_percent(c: Contributions) -> float:
    """That of `change_summary`, without the percentiles.

    Raises:
        DposcopeError: every m_i^pre is 0.
    """
    return _percent(*_sizes(c))


def _percent(shift: NDArray[np.float64], before: NDArray[np.float64]) -> float:
    return 100 * float(shift.mean() / before.mean())


def _sizes(c: Contributions) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """|m_i^pre − m_i^post| and |m_i^pre| of every neuron, of which some is not 0."""
    shift, before = c.each(c.activation_shift.abs()).numpy(), c.each(c.before.mean.abs()).numpy()
    if not before.any():
        raise DposcopeError("all mean activations before tuning are 0; collect means on more prompts")
    return shift, before


# An edit's shifts compared with those of tuning: sections 6 and 7


@dataclass(frozen=True)
class ShiftAgreement:
    """Agreement of an edit's shifts with those of tuning, over some neurons."""

    correlation: Correlation
    """Correlation of both shifts. Neurons that the edit does not change are included, with shift 0."""
    moved_by_both: int
    """Number of neurons whose two shifts are both not 0."""
    same_sign: float | None
    """Share of those neurons whose two shifts have the same sign; None if there are none."""
    edit_size: float | None
    """Mean |m_i^pre − m_i^edit|; None where there is no neuron."""
    tuned_size: float | None
    """Mean |m_i^pre − m_i^post|."""

    __repr__ = short_repr


@dataclass(frozen=True)
class EditAgreement(ToPandas):
    """Whether an edit moves activations as tuning did, overall and by the edit's own groups."""

    overall: ShiftAgreement
    groups: Mapping[Group, ShiftAgreement]
    """Of TP, TN, AP and AN: neurons by the signs of cos_i and m_i^pre, whichever way they moved (paper 6.1)."""

    __repr__ = short_repr

    def to_polars(self) -> pl.DataFrame:
        """One row for all neurons and one per group: group (all, TP …), neurons, r, p, moved_by_both, same_sign,
        edit_size, tuned_size."""
        named = {"all": self.overall, **{group.value: one for group, one in self.groups.items()}}
        rows = [
            {
                "group": name,
                "neurons": one.correlation.neurons,
                "r": one.correlation.r,
                "p": one.correlation.p,
                "moved_by_both": one.moved_by_both,
                "same_sign": one.same_sign,
                "edit_size": one.edit_size,
                "tuned_size": one.tuned_size,
            }
            for name, one in named.items()
        ]
        floats = ("r", "p", "same_sign", "edit_size", "tuned_size")
        return pl.DataFrame(rows, schema_overrides=dict.fromkeys(floats, pl.Float64))


def shift_of_gains(c: Contributions, gains: Tensor) -> Tensor:
    """The shift that gains make where they act, m_i^pre − g_i m_i^pre = (1 − g_i) m_i^pre, `[L, d_mlp]`, float64.

    Effects of the edit on the activations of later blocks are not included. For these, collect means of the edited
    model.

    Args:
        c: contributions, for m^pre.
        gains: g, `[L, d_mlp]`.
    """
    _check_shape(c, gains, "gains")
    return (1 - gains.detach().to("cpu", torch.float64)) * c.before.mean


def edit_agreement(c: Contributions, edit_shift: Tensor) -> EditAgreement:
    """Compare an edit's activation shifts with those of tuning: correlation, same sign, sizes.

    The paper says that its edit mimics DPO (section 6) with smaller average changes (section 7), but gives no number.
    Its edit shifts all neurons of a group in one direction. So `same_sign` of a group is the share of its neurons that
    tuning also shifted in this direction.

    Args:
        c: contributions of the tuned model.
        edit_shift: m_i^pre − m_i^edit, `[L, d_mlp]`: `c.before.mean` minus means collected on the edited model
            over the same prompts, or `shift_of_gains`.

    Raises:
        DposcopeError: the shifts are another model's, or hold NaN.
    """
    _check_shape(c, edit_shift, "edit_shift")
    edit = edit_shift.detach().to("cpu", torch.float64)
    if not edit.isfinite().all():
        raise DposcopeError("edit_shift holds NaN or infinity; run the edited model in bfloat16 or float32")
    tuned = c.activation_shift
    groups = group_sets(c.cosine, c.before.mean)
    return EditAgreement(
        overall=_agreement(c.each(edit).flatten(), c.each(tuned).flatten()),
        groups={group: _agreement(edit[neurons.mask], tuned[neurons.mask]) for group, neurons in groups.items()},
    )


def _agreement(edit: Tensor, tuned: Tensor) -> ShiftAgreement:
    """Of two vectors of shifts `[n]`."""
    # Signs, not a product: that of two tiny shifts is 0.
    both = (edit != 0) & (tuned != 0)
    same = (edit.sign() == tuned.sign())[both]
    return ShiftAgreement(
        correlation=_pearson(edit, tuned),
        moved_by_both=len(same),
        same_sign=float(same.double().mean()) if len(same) else None,
        edit_size=float(edit.abs().mean()) if len(edit) else None,
        tuned_size=float(tuned.abs().mean()) if len(tuned) else None,
    )


def _check_shape(c: Contributions, table: Tensor, name: str) -> None:
    check_change(c)
    check_tensor(name, table)
    if table.shape != c.cosine.shape:
        raise DposcopeError(
            f"{name} has shape {list(table.shape)}, contributions {list(c.cosine.shape)}; "
            "take both from models of one architecture"
        )
