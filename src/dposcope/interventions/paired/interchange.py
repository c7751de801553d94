"""Interchange intervention: parts of a model take the values that they have in another model on the same input.

Both models read the same tokens side by side. At every position the chosen parts of the first take the value that they
have in the second at that position; everything else follows from the first. The field calls it activation patching, or
interchange intervention. The paper patches neurons to their *mean* after tuning instead (3.3), which freezes them: a
frozen neuron no longer depends on the text. Here it does, so the text stays whole.
"""

from collections.abc import Callable, Generator, Iterable
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from threading import Thread, current_thread
from typing import Any, Protocol
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from dposcope.artefacts import tensor_fingerprint
from dposcope.data.short import short_repr
from dposcope.errors import DposcopeError
from dposcope.model.cache import cache_argument, given_cache, named_arguments, new_cache, state_places
from dposcope.model.checks.given import blocks_given, check_lm, check_tensor
from dposcope.model.frames import Frame, Positions
from dposcope.model.hooks import (
    Applied,
    Change,
    Site,
    attention_sites,
    heads_site,
    hooked,
    mlp_sites,
    neuron_sites,
    residual_site,
    shared,
)
from dposcope.model.language_model import LanguageModel
from dposcope.model.tuned import check_models
from dposcope.neurons.sets import NeuronSet, check_neurons


@dataclass(frozen=True, eq=False)
class Parts:
    """Parts of a model of L blocks; one name each, so that a set of them has a digest."""

    neurons: NeuronSet | None = None
    """Their activations m, which the MLP's output projection reads."""
    heads: Tensor | None = None
    """Attention heads, `[L, heads]`, bool: what the attention's output projection reads of them."""
    mlps: frozenset[int] = frozenset()
    """Blocks whose MLP writes the other model's output: activations and value vectors, before any norm."""
    attentions: frozenset[int] = frozenset()
    """Blocks whose attention writes the other model's output, before any norm."""
    residuals: frozenset[int] = frozenset()
    """Blocks at whose end the residual stream is the other model's, or all streams where there are several."""

    __repr__ = short_repr

    def __post_init__(self) -> None:
        """Normalise; refuse parts that are none."""
        for name in ("mlps", "attentions", "residuals"):
            object.__setattr__(self, name, frozenset(blocks_given(name, getattr(self, name))))
        if self.heads is not None:
            check_tensor("heads", self.heads)
            if self.heads.dtype != torch.bool or self.heads.ndim != 2:
                raise DposcopeError(f"heads need a bool mask [L, heads], not {self.heads.dtype} {[*self.heads.shape]}")
            object.__setattr__(self, "heads", self.heads.detach().cpu().clone())
        if self.neurons is not None:
            check_neurons(self.neurons)
        masks = [
            one.any() for one in (self.heads, None if self.neurons is None else self.neurons.mask) if one is not None
        ]
        if not (any(masks) or self.mlps or self.attentions or self.residuals):
            raise DposcopeError("an interchange needs at least one neuron, head or block")

    @classmethod
    def blocks(cls, blocks: Iterable[int]) -> "Parts":
        """All that some blocks write: their attention and their MLP."""
        chosen = frozenset(blocks_given("blocks", blocks))
        return cls(mlps=chosen, attentions=chosen)

    @property
    def digest(self) -> str:
        """Of what is chosen."""
        tensors = {
            name: torch.tensor(sorted(getattr(self, name)), dtype=torch.int64)
            for name in ("mlps", "attentions", "residuals")
        }
        if self.neurons is not None:
            tensors["neurons"] = self.neurons.mask
        if self.heads is not None:
            tensors["heads"] = self.heads
        return tensor_fingerprint(tensors)

    def __str__(self) -> str:
        """For a reader."""
        counted = [
            (0 if self.neurons is None else len(self.neurons), "neuron"),
            (0 if self.heads is None else int(self.heads.sum()), "head"),
            (len(self.mlps), "MLP"),
            (len(self.attentions), "attention"),
            (len(self.residuals), "residual stream"),
        ]
        return ", ".join(f"{count:,} {name}{'' if count == 1 else 's'}" for count, name in counted if count)

    def sites(self, lm: LanguageModel) -> list[tuple[Site, Tensor | None]]:
        """Where the parts are in a model, and which channels of each site they are; None: all.

        Raises:
            DposcopeError: a part is not in the model.
        """
        check_lm(lm)
        found: list[tuple[Site, Tensor | None]] = []
        if self.neurons is not None:
            found += [
                (site, channels)
                for block, row in enumerate(self.neurons.for_model(lm).mask)
                for site in neuron_sites(lm, block)
                for _, channels in _rows(row[site.columns].unsqueeze(0))
            ]
        if self.heads is not None:
            count = lm.n_heads
            if self.heads.shape != (lm.n_blocks, count):
                raise DposcopeError(
                    f"a set among {[*self.heads.shape]} heads does not fit a model with [{lm.n_blocks}, {count}]"
                )
            width = lm.d_attention // count
            found += [(heads_site(lm, block), c) for block, c in _rows(self.heads.repeat_interleave(width, 1))]
        whole: tuple[tuple[frozenset[int], Callable[[LanguageModel, int], list[Site]]], ...] = (
            (self.mlps, mlp_sites),
            (self.attentions, attention_sites),
            (self.residuals, lambda model, block: [residual_site(model, block, every_stream=True)]),
        )
        for blocks, sites in whole:
            here: list[Site] = []
            for block in sorted(blocks):
                if not 0 <= block < lm.n_blocks:
                    raise DposcopeError(f"no block {block} in a model of {lm.n_blocks} blocks")
                here += sites(lm, block)
            if blocks and not here:
                missing = "an MLP" if sites is mlp_sites else "attention, nor anything in its place"
                raise DposcopeError(f"none of the blocks {sorted(blocks)} of {lm.name} has {missing}; choose others")
            found += [(site, None) for site in here]
        return found


def _check_parts(given: object) -> None:
    if not isinstance(given, Parts):
        raise DposcopeError(f"parts is a {type(given).__name__}; give dposcope.Parts(neurons=…), or other parts")


def _rows(mask: Tensor) -> list[tuple[int, Tensor | None]]:
    """Of each block with a chosen channel: its number, and the channels; None where it is all of them."""
    return [
        (block, None if row.all() else row.nonzero().squeeze(1)) for block, row in enumerate(mask) if bool(row.any())
    ]


@dataclass(frozen=True, eq=False)
class Interchange:
    """Parts take the values that they have in `source`, which reads the same tokens.

    It costs a second forward pass. Under a key-value cache the source keeps a cache of its own, so the cache must begin
    inside the context; beam search, which reorders a cache, is not supported.
    """

    source: LanguageModel
    """The other model, of the same architecture."""
    parts: Parts
    positions: Positions = Positions.ALL

    __repr__ = short_repr

    def __post_init__(self) -> None:
        """Normalise types; refuse a source that is no model, and parts that are none."""
        check_lm(self.source, "source")
        _check_parts(self.parts)
        object.__setattr__(self, "positions", Positions(self.positions))

    @contextmanager
    def on(self, lm: LanguageModel) -> Generator[Applied]:
        """Apply inside the context; neither model is changed outside.

        Raises:
            DposcopeError: the models do not belong together, a part is not in them, a forward pass has a cache that
                began outside, or embeddings in the place of tokens; or `source` takes values from `lm` itself.
        """
        check_lm(lm)
        check_models(lm, self.source)
        source = shared(lm) if self.source.model is lm.model else self.source
        values: _Values = WeakKeyDictionary()
        recorders = [(site, _record(values, site.name, channels)) for site, channels in self.parts.sites(source)]
        changes = [(site, _replace(values, site.name, channels)) for site, channels in self.parts.sites(lm)]
        with (
            hooked(source, recorders),
            _Beside(source).following(lm),
            hooked(lm, changes, positions=self.positions) as applied,
        ):
            yield applied


@dataclass(frozen=True, eq=False)
class Opened:
    """What is run, and the intervention on it."""

    lm: LanguageModel
    interchange: Interchange


class SecondModel(Protocol):
    """What a second model is made from: `OtherWeights`, `EditedModel`, or one that is held."""

    def second_model(self, lm: LanguageModel) -> AbstractContextManager[LanguageModel]:
        """The model, inside the context."""
        ...


@dataclass(eq=False)
class HeldModel:
    """A second model that is loaded when it is first asked for, and then held until a stack ends."""

    of: SecondModel
    stack: ExitStack
    model: LanguageModel | None = None

    @contextmanager
    def second_model(self, lm: LanguageModel) -> Generator[LanguageModel]:
        """The model, loaded once for all contexts."""
        if self.model is None:
            self.model = self.stack.enter_context(self.of.second_model(lm))
        yield self.model


@dataclass(frozen=True, eq=False)
class InterchangeWith:
    """An interchange with a model that is loaded when it is measured."""

    other: SecondModel
    """The tuned model, or an edit."""
    parts: Callable[[LanguageModel], Parts]
    """What is taken from it, given the model."""
    reverse: bool = False
    """The other model is run, and takes the values of the base."""

    @contextmanager
    def opened(self, lm: LanguageModel) -> Generator[Opened]:
        """Load the other model inside the context.

        Args:
            lm: the base.

        Raises:
            DposcopeError: there is no such model, or it does not fit `lm`.
        """
        parts = self.parts(lm)
        with self.other.second_model(lm) as other:
            if not self.reverse:
                yield Opened(lm, Interchange(other, parts))
                return
            if other.writer is not None:
                raise DposcopeError(
                    f"{other.name} writes tokens that {lm.name} cannot read; leave the reverse interchange out"
                )
            yield Opened(other, Interchange(lm, parts))

    @contextmanager
    def on(self, lm: LanguageModel) -> Generator[Applied]:
        """Load the other model and apply, inside the context.

        Raises:
            DposcopeError: as `opened`; or the reverse is asked for, which is not an intervention on `lm`.
        """
        if self.reverse:
            raise DposcopeError("the reverse interchange runs the other model; use `opened`")
        with self.opened(lm) as opened, opened.interchange.on(lm) as applied:
            yield applied


_Values = WeakKeyDictionary[Thread, dict[str, Tensor]]
"""Site → what the source has there, in the pass of each thread."""


def _record(values: _Values, name: str, channels: Tensor | None) -> Change:
    def change(tensor: Tensor, _frame: Frame) -> None:
        # A copy in either case: Falcon adds what attention wrote into what the MLP wrote.
        value = tensor.clone() if channels is None else tensor[..., channels.to(tensor.device)]
        values.setdefault(current_thread(), {})[name] = value

    return change


def _replace(values: _Values, name: str, channels: Tensor | None) -> Change:
    def change(tensor: Tensor, _frame: Frame) -> Tensor:
        # The source reads every token; Gemma 4's last blocks only those whose logits are asked for.
        value = values[current_thread()].pop(name)[:, -tensor.shape[1] :].to(tensor.device, tensor.dtype)
        if channels is None:
            return value.expand_as(tensor)
        return tensor.index_copy(-1, channels.to(tensor.device), value)

    return change


@dataclass(eq=False)
class _Beside:
    """Runs the source before each forward pass of a model, on the same tokens."""

    source: LanguageModel
    caches: WeakKeyDictionary[Any, DynamicCache] = field(default_factory=WeakKeyDictionary[Any, DynamicCache])
    """The model's cache → the source's."""
    outer: WeakKeyDictionary[Thread, nn.Module] = field(default_factory=WeakKeyDictionary[Thread, nn.Module])
    """The module whose pass is under way in a thread: a model calls its base model, which must not start the source
    again."""
    reading: WeakSet[Thread] = field(default_factory=WeakSet[Thread])
    """Threads in which the source's pass is under way."""
    kept: WeakKeyDictionary[Any, list[Any]] = field(default_factory=WeakKeyDictionary[Any, list[Any]])
    """The model's cache → what the source's blocks keep of that text in themselves."""

    @contextmanager
    def following(self, lm: LanguageModel) -> Generator[None]:
        """Run beside `lm` inside the context."""
        models = [lm.model] if lm.model.base_model is lm.model else [lm.model, lm.model.base_model]
        with ExitStack() as stack:
            for model in models:
                stack.callback(model.register_forward_pre_hook(self._begin, with_kwargs=True).remove)
                stack.callback(model.register_forward_hook(self._end, always_call=True).remove)
            yield

    def _begin(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if current_thread() in self.reading:
            raise DposcopeError("two interchanges take values from each other; leave one of them before the other")
        if current_thread() in self.outer:
            return
        self.outer[current_thread()] = module
        every = named_arguments(module, args, kwargs)
        tokens = every.get("input_ids")
        if tokens is None:
            raise DposcopeError("an interchange needs tokens, not embeddings: call the model with input_ids")
        given = {name: every[name] for name in ("attention_mask", "position_ids") if every.get(name) is not None}
        device = self.source.device
        cache = given_cache(every)
        with torch.no_grad(), self._own_states(cache):
            self.source.model.base_model(
                input_ids=tokens.to(device),
                **{name: tensor.to(device) for name, tensor in given.items()},
                **self._cache(cache),
            )

    @contextmanager
    def _own_states(self, theirs: Any) -> Generator[None]:
        """What the source's blocks keep in themselves is of this text inside, as others may read with it, too."""
        places = state_places(self.source.model)
        before = [getattr(module, name) for module, name in places]
        mine = before if theirs is None else self.kept.get(theirs, before)
        for (module, name), state in zip(places, mine, strict=True):
            setattr(module, name, state)
        self.reading.add(current_thread())
        try:
            yield
            if theirs is not None and places:
                self.kept[theirs] = [getattr(module, name) for module, name in places]
        finally:
            self.reading.discard(current_thread())
            for (module, name), state in zip(places, before, strict=True):
                setattr(module, name, state)

    def _end(self, module: nn.Module, *_: Any) -> None:
        if module is self.outer.get(current_thread()):
            del self.outer[current_thread()]

    def _cache(self, theirs: Any) -> dict[str, Any]:
        if theirs is None:
            return {"use_cache": False}
        if theirs not in self.caches:
            if theirs.get_seq_length() > 0:
                raise DposcopeError(
                    "the key-value cache began outside the interchange, so the other model has not read its tokens; "
                    "begin the text inside the `with`"
                )
            self.caches[theirs] = new_cache(self.source.model)
        return {cache_argument(self.source.model.base_model): self.caches[theirs], "use_cache": True}
