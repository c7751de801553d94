"""Hooks that are registered together, counted, and removed again, after an error too.

A site is a place in the model where a tensor `[B, T, …]` can be read or changed. Sites are
inputs and outputs of `Linear` and `Conv1D` projections, inputs of blocks and of the
final norm, and the last block's output. A change never meets a tuple. The neurons of a
mixture are read between the two projections of its experts (`mixtures/`); a hook meets
them as `[B, T, columns]` like any other.
"""

from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from itertools import chain
from threading import Thread, current_thread
from typing import Any, Literal, Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from dposcope.data.short import short_repr
from dposcope.errors import DposcopeError
from dposcope.model.checks.given import check_lm
from dposcope.model.devices.copies import copied_model
from dposcope.model.frames import Frame, FrameTracker, Positions
from dposcope.model.language_model import LanguageModel
from dposcope.model.layout.blocks import mixture_path, mlp_path, submodule
from dposcope.model.layout.projections import is_projection
from dposcope.model.mixtures.experts import Experts
from dposcope.model.mixtures.parts import Part
from dposcope.model.mixtures.routing import Pairs, Routing, listen
from dposcope.model.mixtures.shared import Always
from dposcope.model.quantised.weights import held_by
from dposcope.model.residual.streams import AllStreams, Streams, residual_streams

Change = Callable[[Tensor, Frame], Tensor | None]
"""Takes the tensor at a site, returns its replacement, or None to leave it."""


@dataclass(frozen=True)
class Site:
    """A place in the model."""

    name: str
    """For people and counts: `neurons.3`, `attention.0`, `residual.17`."""
    module: nn.Module
    side: Literal["input", "output", "between"]
    """Between the two projections of experts."""
    streams: Streams | AllStreams | None = None
    """How several residual streams are read; None where there is one."""
    columns: slice = field(default_factory=lambda: slice(None))
    """Of neurons: which columns of tables `[L, d_mlp]` it has."""
    always: Always | None = None
    """Of neurons in a mixture that no router chooses among."""

    __repr__ = short_repr


def neuron_sites(lm: LanguageModel, block: int) -> list[Site]:
    """Neuron activations m of a block, `[B, T, columns]`: what its MLP output projection reads.

    One site, but two where a block has shared experts beside routed ones, which a pass computes one after the other;
    none where a block has no MLP. In a mixture, activations are 0 where a token was not sent to an expert; what a
    change gives there has no effect.
    """
    experts = lm.experts

    def site(part: Part) -> Site:
        name = f"neurons.{block}" if part.shared is None else f"neurons.{block}.shared"
        if Experts.of(part.projection) is not None:
            return Site(name, part.projection, "between", columns=part.columns)
        always = None if experts is None else Always(-(-part.width // experts.width), part.shared)
        return Site(name, part.projection, "input", columns=part.columns, always=always)

    return [site(part) for part in lm.columns.parts[block]]


def neuron_site(lm: LanguageModel, block: int) -> Site:
    """The one site of a block's neurons, `[B, T, d_mlp]`.

    Raises:
        DposcopeError: it has two or none; see `neuron_sites`.
    """
    sites = neuron_sites(lm, block)
    if not sites:
        raise DposcopeError(f"block {block} of {lm.name} has no MLP, so it has no neurons; choose another")
    if len(sites) > 1:
        raise DposcopeError(f"neurons of block {block} of {lm.name} are in two places; use neuron_sites(lm, block)")
    return sites[0]


def heads_site(lm: LanguageModel, block: int) -> Site:
    """What all heads of a block give, `[B, T, heads · width]`: the attention output projection's input."""
    lm.check_heads()
    out = lm.attention_outs[block]
    assert out is not None  # what `check_heads` refuses
    return Site(f"heads.{block}", out, "input")


def mlp_sites(lm: LanguageModel, block: int) -> list[Site]:
    """What the MLP writes, `[B, T, d]`, before any norm: its output projection, or its experts together, times their
    factor.

    One site, but two where a block adds up what its routed and its shared experts write (Granite) or norms their sum
    (A.X-K1), and none where it has no MLP (Nemotron-H).
    """
    parts = lm.columns.parts[block]
    experts = Experts.of(parts[0].projection) if parts else None
    if len(parts) <= 1 and (experts is None or experts.factor == 1):
        return [Site(f"mlp.{block}", part.after or part.projection, "output") for part in parts]
    if any(part.shared is not None and part.shared.norm is not None for part in parts):
        routed, *shared = [part.after or part.projection for part in parts]
    else:
        routed, *shared = _holders(lm, block)
    return [
        Site(f"mlp.{block}", routed, "output"),
        *(Site(f"mlp.{block}.shared", one, "output") for one in shared),
    ]


def mlp_input_sites(lm: LanguageModel, block: int) -> list[Site]:
    """What a block's MLP reads, `[B, T, d]`: the input of the module that holds it, or all of its experts.

    Several where shared experts stand beside that module, and where the block itself holds what reads: the first
    projection of OPT, the router, experts and dense MLP of Gemma 4. None where a block has no MLP.
    """
    if not lm.columns.parts[block]:
        return []
    modules = _holders(lm, block) or _readers(lm, block)
    return [Site(f"mlp-input.{block}.{place}", one, "input") for place, one in enumerate(modules)]


def _holders(lm: LanguageModel, block: int) -> list[nn.Module]:
    """The module of a block that holds its MLP output projection, or all of its experts.

    One module, but two where shared experts stand beside the module of the routed ones. None where a block has no MLP,
    or holds the projection itself.
    """
    path = mlp_path(lm.blocks[block], lm.layout)
    if path is None:
        return []
    experts = Experts.of(submodule(lm.blocks[block], path))
    parent = path.rpartition(".")[0] if experts is None else mixture_path(path, experts)
    if not parent:
        return []
    apart = [one.shared.mlp for one in lm.columns.parts[block] if one.shared is not None and one.shared.apart]
    return [submodule(lm.blocks[block], parent), *apart]


def _readers(lm: LanguageModel, block: int) -> list[nn.Module]:
    """Where a block holds its MLP itself: modules that read what the MLP reads."""
    own = [part.projection for part in lm.columns.parts[block]]
    shared = [part.shared.mlp for part in lm.columns.parts[block] if part.shared is not None]
    mixture = any(Experts.of(one) is not None for one in own)
    return [
        module
        for name, module in lm.blocks[block].named_children()
        if (module in (*own, *shared) or "rout" in name if mixture else is_projection(module) and module not in own)
    ]


def attention_sites(lm: LanguageModel, block: int) -> list[Site]:
    """What the attention's output projection writes, `[B, T, d]`, before any norm.

    One site, but two where a block has a state space beside its attention (Falcon-H1), and none where it has an MLP
    alone (Nemotron-H).
    """
    return [
        Site(f"attention.{block}.{place}" if place else f"attention.{block}", one, "output")
        for place, one in enumerate(lm.mixer_outs[block])
    ]


def residual_site(lm: LanguageModel, block: int, *, every_stream: bool = False) -> Site:
    """The residual stream at the end of a block, `[B, T, d]`: what the next block, or the final norm, reads.

    Where blocks pass on several streams, it is the one that attention and MLP read (Gemma 3n), or the mean of all
    (hyper-connections). The final norm reads one in all, or mixes them itself (Qwen 4).
    Where a pass runs the final norm elsewhere, too, or has none, the last block's stream is what that block returns.

    Args:
        lm: the model.
        block: its number.
        every_stream: all of several streams side by side, `[B, T, n · d]`, where the block passes on several.
    """
    name, streams = f"residual.{block}", residual_streams(lm.model)
    whole = streams if streams is None or not every_stream else AllStreams(streams)
    if block + 1 < lm.n_blocks:
        return Site(name, lm.blocks[block + 1], "input", whole)
    if lm.norm_repeats or lm.layout.final_norm is None:
        return Site(name, lm.blocks[block], "output")
    return Site(name, lm.final_norm, "input", whole if streams is not None and streams.read_by_norm else None)


@dataclass
class Applied:
    """What hooks did so far."""

    fired: dict[str, int] = field(default_factory=dict[str, int])
    """Site name → forward passes in which its hook ran."""

    __repr__ = short_repr

    def __str__(self) -> str:
        """For a glance at a console."""
        return ", ".join(f"{name}×{count}" for name, count in self.fired.items())


class Intervention(Protocol):
    """Something done to a model inside a context."""

    def on(self, lm: LanguageModel) -> AbstractContextManager[Applied]:
        """Apply inside the context; the model is untouched outside, to the bit."""
        ...


@contextmanager
def hooked(
    lm: LanguageModel, changes: Sequence[tuple[Site, Change]], *, positions: Positions = Positions.ALL
) -> Generator[Applied]:
    """Apply `changes` to every forward pass inside the context, at some positions of each text.

    Contexts nest: an inner one sees what an outer one left. Only handles of this context
    are removed, after an exception or a half-finished registration too. Threads may run the model at once.

    Raises:
        DposcopeError: on leaving, if a site never fired; at once, if the model is compiled.
    """
    check_lm(lm)
    _refuse_compiled(lm)
    sites = {site.name: site for site, _ in changes}
    applied = Applied(dict.fromkeys(sites, 0))
    tracker = FrameTracker(lm.model)
    with ExitStack() as stack:
        stack.enter_context(tracker.following())
        for name, site in sites.items():
            at_site = [change for other, change in changes if other.name == name]
            stack.callback(_register(site, at_site, positions, tracker, applied))
        _hooked_models.append(lm.model)
        stack.callback(_hooked_models.remove, lm.model)
        yield applied
    silent = [name for name, count in applied.fired.items() if count == 0]
    if silent:
        raise DposcopeError(
            f"never fired: {', '.join(silent[:5])}{' …' if len(silent) > 5 else ''}; "
            "run the model inside the context (or it bypasses these modules)"
        )


_hooked_models: list[PreTrainedModel] = []


def is_hooked(lm: LanguageModel) -> bool:
    """Whether a context of ours is open on the model."""
    return any(model is lm.model for model in _hooked_models)


def shared(lm: LanguageModel) -> LanguageModel:
    """A second model with the parameters and buffers of `lm`, and with hooks of its own.

    Raises:
        DposcopeError: an intervention is on `lm`; its hooks would be copied.
    """
    check_lm(lm)
    if is_hooked(lm):
        raise DposcopeError("an intervention is on this model; make the second model outside the `with`")
    tensors = chain(lm.model.parameters(), lm.model.buffers())
    memo = {**held_by(lm.model), **{id(tensor): tensor for tensor in tensors}}
    return replace(lm, model=copied_model(lm.model, memo))


def _refuse_compiled(lm: LanguageModel) -> None:
    # torch.compile(module) keeps it as `_orig_mod`; module.compile() sets a call of its own.
    wrapped = any("_orig_mod" in name.split(".") for name, _ in lm.model.named_modules())
    if wrapped or any(module._compiled_call_impl is not None for module in lm.model.modules()):  # pyright: ignore[reportPrivateUsage]
        raise DposcopeError(
            "the model is compiled, and compiled code may skip hooks: pass the plain model, "
            "or fold the edit first and compile the result"
        )


def _register(
    site: Site, changes: Sequence[Change], positions: Positions, tracker: FrameTracker, applied: Applied
) -> Callable[[], None]:
    """Begin to apply changes at a site; what it returns ends it."""

    def run(tensor: Tensor, routing: Routing | None = None) -> Tensor | None:
        applied.fired[site.name] += 1
        frame = tracker.frame(tensor.device)
        if routing is not None:
            shape = frame.positions.shape
            by_token = Routing(routing.sent.unflatten(0, shape), routing.weights.unflatten(0, shape))
            frame = replace(frame, routing=by_token)
        # OPT's MLP sees all tokens of a batch in one row.
        flat = tensor.ndim == 2
        shaped = tensor.unflatten(0, frame.positions.shape) if flat else tensor
        frame = frame.last(shaped.shape[1])
        result: Tensor | None = None
        for change in changes:
            new = change(shaped, frame)
            if new is not None:
                chosen = frame.select(positions)
                shaped = result = new if chosen is None else torch.where(chosen.unsqueeze(-1), new, shaped)
        return result.flatten(0, 1) if result is not None and flat else result

    if site.side == "output":

        def after(_module: nn.Module, _args: Any, output: Tensor | tuple[Any, ...]) -> Tensor | tuple[Any, ...] | None:
            if isinstance(output, Tensor):
                return run(output)
            new = run(output[0])  # a module of experts may tell the router's logits beside
            return None if new is None else (new, *output[1:])

        return site.module.register_forward_hook(after).remove

    if site.side == "between":
        experts = Experts.of(site.module)
        assert experts is not None  # what `neuron_sites` asks

        def between(rows: Tensor, pairs: Pairs) -> Tensor | None:
            new = run(pairs.spread(rows), pairs.routing)
            return None if new is None else pairs.gather(new)

        return listen(experts, between)

    read: WeakKeyDictionary[Thread, Tensor] = WeakKeyDictionary()

    def keep(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
        read[current_thread()] = args[0]

    def before(
        _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        # Blocks take the stream as their first argument or, in a few models, by name.
        given: Tensor = args[0] if args else kwargs["hidden_states"]
        routing = None if site.always is None else site.always.routing(given, read.pop(current_thread(), None))
        new = run(given if site.streams is None else site.streams.read(given), routing)
        if new is None:
            return None
        if site.streams is not None:
            new = site.streams.written(given, new)
        return ((new, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": new})

    removals = [site.module.register_forward_pre_hook(before, with_kwargs=True).remove]
    gated = None if site.always is None else site.always.shared
    if gated is not None and gated.gate is not None:
        removals.append(gated.mlp.register_forward_pre_hook(keep).remove)

    def remove() -> None:
        for one in removals:
            one()

    return remove
