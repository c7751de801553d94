"""The contribution of every neuron to the change from a base model to a tuned model (paper 3.2, Eq. 2)."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import polars as pl
import torch
from torch import Tensor

from dposcope.artefacts import load_tensors, save_tensors, text_digest
from dposcope.data.pandas_frames import ToPandas
from dposcope.data.short import short_repr
from dposcope.directions.direction import Direction, vector_of
from dposcope.errors import DposcopeError
from dposcope.model.checks.given import check_lm, check_tensor
from dposcope.model.language_model import LanguageModel
from dposcope.model.tuned import check_models
from dposcope.neurons.activations import MeansFacts, NeuronMeans, check_means
from dposcope.neurons.groups import Group, cosines, group_sets, projections
from dposcope.neurons.sets import NeuronSet

CERTAIN_ERRORS = 1.96
"""Standard errors that |Δ_i| must exceed for its sign to count as certain: 95 %, two-sided, neuron by neuron."""


class Effect(StrEnum):
    """Whether tuning reduced or increased a neuron's projection on the direction."""

    REDUCES = "↓"
    """Δ_i > 0."""
    INCREASES = "↑"
    """Δ_i < 0."""


@dataclass(frozen=True)
class MovedGroup:
    """One of the paper's four groups with an effect; `str()` is `TP↓`, `AN↑` …"""

    group: Group
    effect: Effect

    __repr__ = short_repr

    def __str__(self) -> str:
        """As the paper writes it."""
        return f"{self.group}{self.effect}"


@dataclass(frozen=True)
class _Facts:
    """Beside its tensors."""

    before: MeansFacts
    after: MeansFacts
    about: dict[str, Any]


@dataclass(frozen=True, eq=False)
class Contributions(ToPandas):
    """Δ_i of every neuron, with the values that it is computed from (paper 3.2, Eq. 2).

    Tensors are `[L, d_mlp]`, float64, on the CPU. W is the direction and points towards toxicity. v_i^pre and v_i^post
    are value vectors, m_i^pre and m_i^post mean activations, of the base and the tuned model.
    """

    cosine: Tensor
    """cos(v_i^pre, W): T or A of the groups."""
    projection_before: Tensor
    """v_i^pre·W / |W|."""
    projection_after: Tensor
    """v_i^post·W / |W|."""
    vector_cosine: Tensor
    """cos(v_i^pre, v_i^post); exactly 1 if tuning did not change the vector."""
    before: NeuronMeans
    """m_i^pre, with second moments."""
    after: NeuronMeans
    """m_i^post."""
    about: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Both models and their fingerprints, the direction's digest, protocol, numbers of prompts and tokens."""

    __repr__ = short_repr

    def __post_init__(self) -> None:
        """Normalise types; check that shapes fit and that no value is NaN."""
        for name in _TABLES:
            check_tensor(name, getattr(self, name))
            object.__setattr__(self, name, _exact(getattr(self, name)))
        for name in ("before", "after"):
            means: NeuronMeans = getattr(self, name)
            check_means(means, name)
            exact = replace(means, mean=_exact(means.mean), second_moment=_exact(means.second_moment))
            object.__setattr__(self, name, exact)
        tables = self._tensors()
        if self.cosine.ndim != 2:
            raise DposcopeError(f"contributions need tables [L, d_mlp], not {list(self.cosine.shape)}")
        for name, table in tables.items():
            if table.shape != self.cosine.shape:
                raise DposcopeError(
                    f"cosine has shape {list(self.cosine.shape)} and {name} {list(table.shape)}; "
                    "take all tables from one pair of models"
                )
            if not table.isfinite().all():
                raise DposcopeError(f"{name} holds NaN or infinity; run the models in bfloat16 or float32")

    @property
    def here(self) -> Tensor | None:
        """Which columns are neurons, `[L, d_mlp]`, bool, where blocks differ; others hold 0. None: all are."""
        return self.before.here

    @property
    def everything(self) -> NeuronSet:
        """Every neuron."""
        return NeuronSet.all(*self.cosine.shape) if self.here is None else NeuronSet(self.here)

    @property
    def neurons(self) -> int:
        """How many neurons there are."""
        return self.cosine.numel() if self.here is None else int(self.here.sum())

    def each(self, table: Tensor) -> Tensor:
        """A table's values of every neuron: `[L, d_mlp]`, or `[neurons]` where blocks differ."""
        return table if self.here is None else table[self.here]

    @property
    def activation_shift(self) -> Tensor:
        """m_i^pre − m_i^post, positive where tuning lowered the activation, `[L, d_mlp]`."""
        return self.before.mean - self.after.mean

    @property
    def from_activations(self) -> Tensor:
        """The part of Δ_i that the activation's change makes, (m_i^pre − m_i^post) v_i^pre·W/|W|, `[L, d_mlp]`."""
        return (self.before.written - self.after.written) * self.projection_before

    @property
    def from_vectors(self) -> Tensor:
        """The part that the value vector's change makes, m_i^post (v_i^pre − v_i^post)·W/|W|, `[L, d_mlp]`."""
        return self.after.written * (self.projection_before - self.projection_after)

    @property
    def total(self) -> Tensor:
        """Δ_i = (m_i^pre v_i^pre − m_i^post v_i^post)·W/|W|, `[L, d_mlp]` (Eq. 2): the sum of both parts, to the bit.

        In the residual stream's own unit. A norm after the MLP (Gemma's) is not part of it, as in the paper. In a
        mixture of experts m_i stands for r m_i over all tokens (`NeuronMeans.written`), here and in both parts.
        """
        return self.from_activations + self.from_vectors

    @property
    def standard_error(self) -> Tensor:
        """Of Δ_i, `[L, d_mlp]`, from the standard errors of m_i^pre and m_i^post; weights have no error.

        The texts of both models count as separate samples, and tokens as independent. But tokens of one text are
        correlated, so true errors are larger; and both models continue the same prompts, so they are smaller.
        Infinite if a mean is over one token, which has no variance.
        """
        if min(self.before.count, self.after.count) < 2:
            return torch.full_like(self.cosine, torch.inf)
        return torch.hypot(
            self.before.written_standard_error * self.projection_before,
            self.after.written_standard_error * self.projection_after,
        )

    @property
    def reduces(self) -> NeuronSet:
        """↓: neurons with Δ_i > 0. (The caption of the paper's Table 18 has the sign reversed.)"""
        return NeuronSet(self.total > 0)

    @property
    def increases(self) -> NeuronSet:
        """↑: neurons with Δ_i < 0."""
        return NeuronSet(self.total < 0)

    @property
    def certain(self) -> NeuronSet:
        """Neurons with |Δ_i| > 1.96 standard errors. Without any change, these are 5 % of neurons, by chance."""
        return NeuronSet(self.total.abs() > CERTAIN_ERRORS * self.standard_error)

    def groups(self) -> dict[MovedGroup, NeuronSet]:
        """The paper's four groups ↓ (Table 4), then the same four ↑.

        Disjoint, and together all neurons but those whose cosine, m_i^pre or Δ_i is exactly 0.
        """
        whole = group_sets(self.cosine, self.before.mean)
        moved = {Effect.REDUCES: self.reduces, Effect.INCREASES: self.increases}
        return {
            MovedGroup(group, effect): whole[group] & neurons for effect, neurons in moved.items() for group in Group
        }

    def save(self, stem: str | Path) -> None:
        """Write `stem.safetensors` and `stem.json`."""
        facts = {side: means.facts() for side, means in (("before", self.before), ("after", self.after))}
        save_tensors(stem, "Contributions", self._tensors(), {**facts, "about": dict(self.about)})

    @classmethod
    def load(cls, stem: str | Path) -> "Contributions":
        """Read what `save` wrote."""
        saved = load_tensors(stem, "Contributions", _Facts)
        tensors, facts = saved.tensors, saved.facts
        before, after = (
            NeuronMeans.of(
                {name.removeprefix(f"{side}."): table for name, table in tensors.items() if name.startswith(side)},
                means,
            )
            for side, means in (("before", facts.before), ("after", facts.after))
        )
        return cls(**{name: tensors[name] for name in _TABLES}, before=before, after=after, about=facts.about)

    def to_polars(self) -> pl.DataFrame:
        """One row per neuron, block by block: block, index, group, effect, certain, and a column per table.

        In a mixture also expert, and count_before and count_after: the tokens that were sent to it. `index` is the
        place in the block, expert · I + index within the expert.

        `group` is TP, TN, AP or AN, null where cosine or m_i^pre is exactly 0; `effect` is ↓ or ↑, null where
        Δ_i is exactly 0.
        """
        blocks, width = self.cosine.shape
        groups = group_sets(self.cosine, self.before.mean)
        effects = {Effect.REDUCES: self.reduces, Effect.INCREASES: self.increases}
        columns = {
            "cosine": self.cosine,
            "mean_before": self.before.mean,
            "mean_after": self.after.mean,
            "projection_before": self.projection_before,
            "projection_after": self.projection_after,
            "contribution": self.total,
            "from_activations": self.from_activations,
            "from_vectors": self.from_vectors,
            "standard_error": self.standard_error,
            "vector_cosine": self.vector_cosine,
        }
        rows = pl.DataFrame(
            {
                "block": torch.arange(blocks).repeat_interleave(width).numpy(),
                "index": torch.arange(width).repeat(blocks).numpy(),
                "group": labels({group: neurons.mask for group, neurons in groups.items()}),
                "effect": labels({effect: neurons.mask for effect, neurons in effects.items()}),
                "certain": self.certain.mask.flatten().numpy(),
                **{name: table.flatten().numpy() for name, table in columns.items()},
                **self._routed_columns(),
            }
        )
        return rows if self.here is None else rows.filter(pl.Series(self.here.flatten().numpy()))

    def _routed_columns(self) -> dict[str, pl.Series]:
        if self.before.routed is None or self.after.routed is None:
            return {}
        before, after = self.before.routed.columns(), self.after.routed.columns()
        return {"expert": before["expert"], "count_before": before["count"], "count_after": after["count"]}

    def _tensors(self) -> dict[str, Tensor]:
        """All that is stored, by the names that files use."""
        moments = {
            f"{side}.{name}": table
            for side, means in (("before", self.before), ("after", self.after))
            for name, table in means.tensors().items()
        }
        return {name: getattr(self, name) for name in _TABLES} | moments


def check_change(given: object) -> None:
    """Refuse what is no `Contributions`, such as the whole `Explanation`.

    Raises:
        DposcopeError: it is none.
    """
    if not isinstance(given, Contributions):
        raise DposcopeError(
            f"a {type(given).__name__} is no Contributions; give those of dposcope.contributions, or of an explanation "
            "(its .contributions)"
        )


_TABLES = ("cosine", "projection_before", "projection_after", "vector_cosine")


def _exact(table: Tensor) -> Tensor:
    return table.detach().to("cpu", torch.float64)


def labels(masks: Mapping[Group, Tensor] | Mapping[Effect, Tensor]) -> pl.Series:
    """A table's column of labels: for every neuron the name of the mask that holds it, null where none does.

    Args:
        masks: label → which neurons, bool, disjoint and of one shape; flattened row by row.
    """
    names = [*(str(label) for label in masks), None]
    members = torch.stack([*masks.values()]).flatten(1)
    place = members.byte().argmax(0).where(members.any(0), len(masks))
    return pl.Series(names, dtype=pl.String).gather(place.numpy())


_SAME = ("protocol", "prompts", "new_tokens", "dtype")
"""Facts that two collections of means must share. For example, another precision would look like a change."""


def contributions(
    base: LanguageModel, tuned: LanguageModel, before: NeuronMeans, after: NeuronMeans, direction: Direction | Tensor
) -> Contributions:
    """Every neuron's contribution to the change from `base` to `tuned` (paper 3.2, Eq. 2).

    Args:
        base: the model before tuning.
        tuned: the model after it, of the same architecture and sizes.
        before: m^pre, each model on its own continuations of the same prompts.
        after: m^post.
        direction: W, or a vector `[d]`, in the base model's residual stream.

    Raises:
        DposcopeError: the models differ in architecture or tokenizer, or means are another model's or collected
            differently.
    """
    check_models(base, tuned)
    _check_means(base, before, "before")
    _check_means(tuned, after, "after")
    for setting in _SAME:
        one, other = before.about.get(setting), after.about.get(setting)
        if one is not None and other is not None and one != other:
            raise DposcopeError(
                f"means before and after differ in {setting} ({one} and {other}); collect both in the same way"
            )
    shared = {setting: before.about[setting] for setting in _SAME if setting in before.about}
    about = {
        "model": base.name,
        "fingerprint": base.fingerprint,
        "tuned": tuned.name,
        "tuned_fingerprint": tuned.fingerprint,
        "direction_digest": _digest(direction),
        **shared,
        "tokens_before": before.count,
        "tokens_after": after.count,
    }
    return Contributions(
        cosine=cosines(base, direction),
        projection_before=projections(base, direction),
        projection_after=projections(tuned, direction),
        vector_cosine=_vector_cosines(base, tuned),
        before=before,
        after=after,
        about=about,
    )


def along(c: Contributions, base: LanguageModel, tuned: LanguageModel, direction: Direction | Tensor) -> Contributions:
    """The contributions of the same two models along another direction.

    Args:
        c: contributions of `base` and `tuned`.
        base: the model before tuning.
        tuned: the model after it.
        direction: W, or a vector `[d]`.

    Raises:
        DposcopeError: the direction does not fit, or the models are others than those of `c` by their sizes.
    """
    check_change(c)
    check_lm(base, "base")
    check_lm(tuned, "tuned")
    return replace(
        c,
        cosine=cosines(base, direction),
        projection_before=projections(base, direction),
        projection_after=projections(tuned, direction),
        about={**c.about, "direction_digest": _digest(direction)},
    )


def _digest(direction: Direction | Tensor) -> str:
    return text_digest(vector_of(direction).numpy().tobytes().hex())


@torch.no_grad()
def _vector_cosines(base: LanguageModel, tuned: LanguageModel) -> Tensor:
    """cos(v_i^pre, v_i^post), `[L, d_mlp]`; 0 where one of two different vectors is zero."""
    rows: list[Tensor] = []
    for block in range(base.n_blocks):
        before = base.value_vectors(block).double()
        after = tuned.value_vectors(block).to(before.device).double()
        norms = before.norm(dim=1) * after.norm(dim=1)
        cosine = (before * after).sum(1) / norms.clamp(min=torch.finfo(torch.float64).tiny)
        # Rounding may give equal vectors a cosine other than 1, and a vector of zeros has no angle with itself.
        rows.append(cosine.clamp(-1, 1).where((before != after).any(1), 1.0).cpu())
    table = torch.stack(rows)
    return table if base.here is None else table.where(base.here, 0.0)


def _check_means(lm: LanguageModel, means: NeuronMeans, side: str) -> None:
    check_means(means, side)
    shape = (lm.n_blocks, lm.d_mlp)
    if means.mean.shape != shape:
        raise DposcopeError(
            f"means {side} have shape {list(means.mean.shape)}, the neurons of {lm.name} {list(shape)}; "
            "collect them on this model"
        )
    collected_on = means.about.get("fingerprint")
    if collected_on is not None and collected_on != lm.fingerprint:
        raise DposcopeError(
            f"means {side} were collected on {means.about.get('model', 'another model')}, whose weights or precision "
            f"are not those of {lm.name}; collect them again on this model"
        )
