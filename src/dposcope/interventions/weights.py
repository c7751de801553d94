"""A tuned model in the base's place, or as a second model, so that both are measured on the same items."""

import math
from collections.abc import Container, Generator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from dposcope.data.given.numbers import number
from dposcope.data.short import short_repr
from dposcope.errors import DposcopeError
from dposcope.files import check_is_path, expanded
from dposcope.interventions.extrapolate import extrapolate
from dposcope.model.adapter import is_adapter
from dposcope.model.checks.given import check_lm
from dposcope.model.devices.copies import OF_HOOKS, forward_of_class_
from dposcope.model.devices.streamed import brought, is_brought
from dposcope.model.hooks import Applied
from dposcope.model.language_model import LanguageModel, stored_buffers
from dposcope.model.load import load
from dposcope.model.quantised.weights import is_quantised
from dposcope.model.tuned import settings_that_differ


@dataclass(frozen=True)
class OtherWeights:
    """The weights of a checkpoint or an adapter, in the precision of the base."""

    source: str | Path
    """A folder, that of an adapter among them, a bundled name or a hub id."""
    stream: Path | None = None
    """A folder on a disk, where the weights of its blocks lie while it is in use; see `load`. None: in memory."""
    strength: float = 1.0
    """How far along its tuning: s of W₀ + s (W₁ − W₀), see `extrapolate`; 1 is the model as it is."""

    __repr__ = short_repr

    def __post_init__(self) -> None:
        """Refuse a source that is no path, and a strength that is no finite number."""
        check_is_path(self.source)
        if not math.isfinite(number("strength", self.strength)):
            raise DposcopeError(f"a strength of {self.strength} is no finite number; 1 is the model as it is")

    @contextmanager
    def second_model(self, lm: LanguageModel) -> Generator[LanguageModel]:
        """The other model, as a second model with its own tokens and end-of-text tokens.

        Raises:
            DposcopeError: there is no such model, it was not tuned from `lm`, or it has no values at another strength:
                its weights are quantised or not those of `lm`, or its config computes something else from them.
        """
        yield self._beside(lm)

    def _beside(self, lm: LanguageModel) -> LanguageModel:
        """Loaded as the base was: quantised where that was quantised on loading."""
        check_lm(lm)
        path = expanded(self.source)
        merged = path.is_dir() and is_adapter(path)
        other = load(self.source, base=lm, quantise=None if merged else lm.quantise, stream=self.stream)
        if self.strength != 1:
            extrapolate(lm, other, self.strength)
        return other

    @contextmanager
    def on(self, lm: LanguageModel) -> Generator[Applied]:
        """Inside the context, `lm` has the other weights and end-of-text tokens; then its own, in the same memory.

        Raises:
            DposcopeError: the other model was not tuned from `lm`, has tokens or weights that `lm` lacks, or a config
                by which the same weights compute something else.
        """
        other = self._beside(lm)
        coded = _quantised_in_either(lm.model, other.model)
        mine, theirs = (_weights(model, beside=coded) for model in (lm.model, other.model))
        differing = mine.keys() ^ theirs.keys() or {n for n in mine if mine[n].shape != theirs[n].shape}
        differing = differing or settings_that_differ(lm, other)
        if differing or other.writer is not None:
            what = f"{sorted(differing)[0]} differs" if differing else other.notes[-1]
            raise DposcopeError(
                f"{self.source} cannot stand in the place of {lm.name} ({what}); "
                "run it beside its base instead, as dposcope.load(tuned, base=base)"
            )
        # Weights of a block that come and go do so from wherever they are; all others are where the block is.
        coming = any(is_brought(block) for one in (lm, other) for block in one.blocks)
        in_blocks = {id(one) for block in lm.blocks for one in block.parameters()} if coming else set()
        own = {name: weight.data for name, weight in mine.items()}
        ends = lm.model.generation_config
        exchanged: list[tuple[nn.Module, nn.Module]] = []
        with brought(lm) if coming else nullcontext():
            try:
                lm.model.generation_config = other.model.generation_config
                for name, own_weight in mine.items():
                    weight = theirs[name].data
                    own_weight.data = weight if id(own_weight) in in_blocks else weight.to(own_weight.device)
                for pair in coded.values():
                    _exchange(*pair)
                    exchanged.append(pair)
                yield Applied()
            finally:
                lm.model.generation_config = ends
                for name, weight in mine.items():
                    weight.data = own[name]
                for pair in exchanged:
                    _exchange(*pair)


def _quantised_in_either(one: nn.Module, other: nn.Module) -> dict[str, tuple[nn.Module, nn.Module]]:
    """Name → the layer of both models, where one of the two is quantised."""
    there = dict(other.named_modules())
    return {
        name: (module, there[name])
        for name, module in one.named_modules()
        if name in there and (is_quantised(module) or is_quantised(there[name]))
    }


def _weights(model: nn.Module, *, beside: Container[str]) -> dict[str, Tensor]:
    """Parameters and stored buffers of all layers but some."""
    named = {**dict(model.named_parameters()), **stored_buffers(model)}
    return {name: one for name, one in named.items() if name.rpartition(".")[0] not in beside}


def _exchange(one: nn.Module, other: nn.Module) -> None:
    """Let two layers be each other, without their hooks. A layer's form is a part of a quantised weight."""
    one.__class__, other.__class__ = other.__class__, one.__class__
    mine, theirs = (
        {k: v for k, v in vars(layer).items() if "hook" not in k and k not in OF_HOOKS} for layer in (one, other)
    )
    for layer, old, new in ((one, mine, theirs), (other, theirs, mine)):
        for name in old:
            del vars(layer)[name]
        vars(layer).update(new)
        forward_of_class_(layer)
