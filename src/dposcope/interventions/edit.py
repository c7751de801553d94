"""An edit: gains and ablations together, as one value that folds, saves and loads."""

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, cast

import torch
from torch import Tensor

from dposcope.artefacts import check_facts, load_tensors, save_tensors, value_files
from dposcope.data.given.numbers import number, whole
from dposcope.data.short import short_repr
from dposcope.errors import DposcopeError
from dposcope.interventions.ablate import Ablation
from dposcope.interventions.gains import Gains
from dposcope.interventions.origin import Trained, checked_facts
from dposcope.model.checks.given import check_lm
from dposcope.model.frames import Positions
from dposcope.model.hooks import Applied, Change, Site, hooked
from dposcope.model.language_model import LanguageModel
from dposcope.neurons.sets import NeuronSet


@dataclass(frozen=True)
class _AblationFacts:
    """An ablation beside its tensor."""

    weight: float
    blocks: tuple[int, ...] | None
    mlp: bool
    attention: bool


@dataclass(frozen=True)
class _Facts:
    """Beside its tensors; see `checked_facts`."""

    ablations: list[_AblationFacts]
    about: dict[str, Any]
    trained: str


@dataclass(frozen=True, eq=False)
class Edit:
    """An edit of a model: gains act on the inputs of output projections, then ablations act in turn on the outputs."""

    gains: Gains | None = None
    """Gains of neurons."""
    ablations: tuple[Ablation, ...] = ()
    about: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """How it was made: model, fingerprint, settings."""
    head_gains: Gains | None = None
    """Gains of channels of attention heads."""
    trained: Trained = "nothing"
    """What was trained to make it."""

    __repr__ = short_repr

    def __post_init__(self) -> None:
        """Refuse parts that are none, and gains at some positions only, since an edit must fold."""
        check_facts(self.about)
        _check_given(self.gains, self.head_gains, self.ablations)
        object.__setattr__(self, "ablations", tuple(self.ablations))
        for gains, of in ((self.gains, "neurons"), (self.head_gains, "heads")):
            if gains is not None and gains.positions is not Positions.ALL:
                raise DposcopeError("an Edit's gains act at all positions; apply positional gains with Gains.on")
            if gains is not None and gains.of != of:
                raise DposcopeError(f"gains of {gains.of} stand where an Edit has those of {of}; make it by Edit.of")

    @classmethod
    def of(cls, *parts: "Gains | Ablation | Edit", about: Mapping[str, Any] | None = None) -> "Edit":
        """Join parts; gains multiply, ablations follow one another.

        `about` joins what the parts say, but for the strength of a part, which is not that of the whole.

        Raises:
            DposcopeError: gains of two parts are of different shapes, or act at some positions only; or a part is none
                of these.
        """
        check_facts({} if about is None else about)
        joined: dict[str, Gains] = {}
        ablations: tuple[Ablation, ...] = ()
        facts: dict[str, Any] = {}
        trained: Trained = "nothing"
        for part in parts:
            if isinstance(part, Ablation):
                ablations += (part,)
                continue
            _check_part(part)
            # `cls` refuses gains that act only at some positions.
            whole = part if isinstance(part, Edit) else cls(part) if part.of == "neurons" else cls(head_gains=part)
            facts |= {name: fact for name, fact in whole.about.items() if name != _SCALED or len(parts) == 1}
            trained = "gains" if whole.trained == "gains" else trained
            ablations += whole.ablations
            for new in (whole.gains, whole.head_gains):
                if new is not None:
                    old = joined.get(new.of)
                    joined[new.of] = new if old is None else _product(old, new)
        return cls(joined.get("neurons"), ablations, {**facts, **(about or {})}, joined.get("heads"), trained)

    def strength(self, factor: float) -> "Edit":
        """The same edit, weaker or stronger: gains 1 + s(g − 1), ablation weights s·w; `about` says so.

        Raises:
            DposcopeError: the factor is no finite number.
        """
        factor = number("strength", factor)
        if not math.isfinite(factor):
            raise DposcopeError(f"a strength of {factor} is no finite number; 1 is the edit as it is")
        if factor == 1:
            return self
        return replace(
            self,
            about={**self.about, _SCALED: factor * self.about.get(_SCALED, 1)},
            gains=None if self.gains is None else self.gains.strength(factor),
            head_gains=None if self.head_gains is None else self.head_gains.strength(factor),
            ablations=tuple(ablation.strength(factor) for ablation in self.ablations),
        )

    @property
    def origin(self) -> str:
        """One sentence for model cards: what was trained."""
        if self.trained == "gains":
            return "Its gains were learned from preference pairs; nothing else in it was trained."
        return "No training took place."

    def gains_alone(self) -> "Edit":
        """The edit with only its gains of neurons, which every file format can store.

        Raises:
            DposcopeError: it has no gains of neurons.
        """
        if self.gains is None:
            raise DposcopeError("the edit has no gains of neurons, so nothing of it would be left")
        return replace(self, ablations=(), head_gains=None)

    def control(self, seed: int, *, among: NeuronSet | None = None) -> "Edit":
        """A control that should have no effect.

        The same gains shuffled among the neurons of each block, and random directions ablated at the same weights and
        sites.

        Args:
            seed: of both.
            among: every neuron of the model, see `NeuronSet.of`; None: blocks do not differ.
        """
        seed = whole("seed", seed)
        gains = None if self.gains is None else self.gains.shuffled(seed, among=among)
        of_heads = None if self.head_gains is None else self.head_gains.shuffled(seed)
        stream = torch.Generator().manual_seed(seed)
        random = tuple(
            replace(ablation, direction=torch.randn(ablation.direction.shape, generator=stream, dtype=torch.float64))
            for ablation in self.ablations
        )
        return Edit(gains, random, {"control_of": str(self), "seed": seed}, of_heads)

    def changes(self, lm: LanguageModel) -> list[tuple[Site, Change]]:
        """Its hooks."""
        check_lm(lm)
        changes = [change for one in (self.gains, self.head_gains) if one is not None for change in one.changes(lm)]
        for ablation in self.ablations:
            changes += ablation.changes(lm)
        return changes

    def on(self, lm: LanguageModel) -> AbstractContextManager[Applied]:
        """Apply inside a context; the model itself stays as it is."""
        return hooked(lm, self.changes(lm))

    def save(self, stem: str | Path) -> None:
        """Write `stem.safetensors` and `stem.json`."""
        tensors: dict[str, Tensor] = {}
        if self.gains is not None:
            tensors["gains"] = self.gains.values
        if self.head_gains is not None:
            tensors["head_gains"] = self.head_gains.values
        for index, ablation in enumerate(self.ablations):
            tensors[f"ablation.{index}"] = ablation.direction
        settings = [
            {"weight": a.weight, "blocks": a.blocks, "mlp": a.mlp, "attention": a.attention} for a in self.ablations
        ]
        facts = {"ablations": settings, "about": dict(self.about), "trained": self.trained}
        save_tensors(stem, "Edit", tensors, facts)

    @classmethod
    def load(cls, stem: str | Path) -> "Edit":
        """Read what `save` wrote.

        Raises:
            DposcopeError: it is missing, damaged, or says of its making what no edit says; see `checked_facts`.
        """
        saved = load_tensors(stem, "Edit", _Facts)
        tensors, facts = saved.tensors, saved.facts
        about, trained = checked_facts(facts.about, facts.trained, value_files(stem).about)
        gains = Gains(tensors["gains"]) if "gains" in tensors else None
        of_heads = Gains(tensors["head_gains"], of="heads") if "head_gains" in tensors else None
        ablations = tuple(
            _stored_ablation(tensors[f"ablation.{index}"], settings) for index, settings in enumerate(facts.ablations)
        )
        return cls(gains, ablations, about, of_heads, trained)

    def told(self, lm: LanguageModel | None = None) -> str:
        """A summary in one line.

        Args:
            lm: the model that it is for, to tell how many neurons that has; None: not told, as blocks may differ in
                width.
        """
        if lm is not None:
            check_lm(lm)
        parts: list[str] = []
        if self.gains is not None:
            touched, count = self.gains.touched, f"{len(self.gains.touched):,}"
            if lm is not None and touched.mask.shape == (lm.n_blocks, lm.d_mlp):
                count = f"{len(touched & NeuronSet.of(lm)):,} of {lm.n_neurons:,}"
            parts.append(f"gains on {count} neurons")
        if self.head_gains is not None:
            heads = self.head_gains
            parts.append(f"gains on {len(heads.touched):,} of {heads.values.numel():,} channels of heads")
        parts += [f"ablation w = {a.weight:.3g}" for a in self.ablations]
        return " + ".join(parts) or "no change"

    def __str__(self) -> str:
        """A summary in one line, of any model."""
        return self.told()


_SCALED: Final = "scaled_by"
"""The fact that tells the strength of an edit that was made weaker or stronger."""


def _check_given(gains: object, head_gains: object, ablations: object) -> None:
    for one in (gains, head_gains):
        if one is not None and not isinstance(one, Gains):
            raise DposcopeError(f"a {type(one).__name__} stands where an Edit has gains; make it by Edit.of")
    if not isinstance(ablations, tuple | list):
        raise DposcopeError(f"a {type(ablations).__name__} stands where an Edit has a list of ablations; use Edit.of")
    for one in cast(Sequence[object], ablations):
        if not isinstance(one, Ablation):
            raise DposcopeError(f"a {type(one).__name__} stands where an Edit has an ablation; make it by Edit.of")


def _check_part(part: object) -> None:
    if isinstance(part, str | Path):
        raise DposcopeError(f"{str(part)!r} is the name of an edit; load it first, with dposcope.Edit.load")
    if not isinstance(part, Edit | Gains):
        raise DposcopeError(
            f"a {type(part).__name__} is no part of an Edit; give gains, ablations and edits one after the other, and "
            "apply others beside it: `with edit.on(lm), other.on(lm):`"
        )


def _product(one: Gains, other: Gains) -> Gains:
    if one.values.shape != other.values.shape:
        shapes = " and ".join(str(list(gains.values.shape)) for gains in (one, other))
        raise DposcopeError(f"gains of {shapes} {one.of} cannot be joined; join edits of one model")
    return replace(one, values=one.values * other.values)


def _stored_ablation(direction: Tensor, settings: _AblationFacts) -> Ablation:
    ablation = Ablation(direction, settings.weight, settings.blocks, settings.mlp, settings.attention)
    # Normalising a unit vector again may change its last bit, so restore the saved vector. Another program may have
    # written one that is not of length 1.
    if torch.allclose(ablation.direction, direction.to(torch.float32), rtol=0, atol=1e-6):
        object.__setattr__(ablation, "direction", direction.to(torch.float32))
    return ablation
