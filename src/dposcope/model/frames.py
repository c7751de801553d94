"""Which token of the current forward pass stands at which absolute position of its text.

Interventions and recorders need it, and a hook sees only a tensor `[B, T, …]`. With a
key-value cache T is one; without, it grows; padding shifts rows. Absolute positions make
the result the same in every case.
"""

from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from enum import StrEnum
from threading import Thread, current_thread
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import PreTrainedModel

from dposcope.data.short import short_repr
from dposcope.errors import DposcopeError
from dposcope.model.cache import given_cache, named_arguments
from dposcope.model.mixtures.routing import Routing


class Positions(StrEnum):
    """Where an intervention acts, for a prompt of P tokens at positions 0 … P−1."""

    ALL = "all"
    LAST = "last"
    """p ≥ P−1: the positions that predict the continuation."""
    GENERATED = "generated"
    """p ≥ P."""
    PROMPT = "prompt"
    """p < P."""
    FIRST = "first"
    """p = 0. Only the reference protocol's perplexity uses it."""

    @classmethod
    def _missing_(cls, value: object) -> "Positions":
        raise DposcopeError(f"positions {value!r} are unknown; choose from {', '.join(cls)}")


@dataclass(frozen=True, eq=False)
class Prompted:
    """What the generator knows of its batch and a hook cannot see."""

    lengths: Tensor
    """Prompt lengths P in tokens, `[B]`, integer."""
    running: Tensor | None = None
    """Rows not yet at their end of text, `[B]`, bool; None: all."""
    fresh: int | None = None
    """How many of the last positions no earlier pass has read (without a cache, a step reads all again); None: all."""
    rows: Sequence[int] | None = None
    """Which prompt each row is, B of them; None: unknown."""

    __repr__ = short_repr

    def on(self, device: torch.device) -> "Prompted":
        """The same on another device."""
        running = None if self.running is None else self.running.to(device)
        return replace(self, lengths=self.lengths.to(device), running=running)


_prompted: ContextVar[Prompted | None] = ContextVar("prompted", default=None)


@contextmanager
def prompted(
    lengths: Tensor, running: Tensor | None = None, fresh: int | None = None, rows: Sequence[int] | None = None
) -> Generator[None]:
    """Declare the prompt lengths of the batch that runs inside.

    `dposcope.generate` does it itself. Around your own `model.generate(**inputs)`, write
    `with dposcope.prompted(inputs["attention_mask"].sum(-1)): …`.

    Raises:
        DposcopeError: there is not one length for each row.
    """
    with suppress(TypeError, ValueError, RuntimeError):
        lengths = torch.as_tensor(lengths)
    _check_lengths(lengths)
    token = _prompted.set(Prompted(lengths, running, fresh, rows))
    try:
        yield
    finally:
        _prompted.reset(token)


def _check_lengths(given: object) -> None:
    if not isinstance(given, Tensor) or given.ndim != 1:
        what = f"have shape {list(given.shape)}" if isinstance(given, Tensor) else f"are a {type(given).__name__}"
        raise DposcopeError(f"lengths {what}; give one for each row of the batch, [B]")


@dataclass(frozen=True, eq=False)
class Frame:
    """One forward pass: T tokens of each of B texts."""

    positions: Tensor
    """Absolute position of each token, `[B, T]`; −1 marks padding."""
    prompt: Prompted | None
    cached: bool = False
    """Whether a key-value cache was handed in, as when generating."""
    routing: Routing | None = None
    """At the neurons of a mixture: which experts each token was sent to."""

    __repr__ = short_repr

    def on(self, device: torch.device) -> "Frame":
        """The same for tensors on a device, as blocks of one model may be on several; itself where it is there."""
        if self.positions.device == device:
            return self
        prompt = None if self.prompt is None else self.prompt.on(device)
        return replace(self, positions=self.positions.to(device), prompt=prompt)

    def last(self, tokens: int) -> "Frame":
        """The frame of the last tokens. Gemma 4's last blocks read only those whose logits are asked for."""
        return self if tokens == self.positions.shape[1] else replace(self, positions=self.positions[:, -tokens:])

    def select(self, where: Positions) -> Tensor | None:
        """Mask `[B, T]` of tokens at `where`; None where that is every token, padding too.

        On a text without a declared prompt every position counts for `last`, `generated`
        and `prompt`.
        """
        match where:
            case Positions.ALL:
                return None
            case Positions.FIRST:
                return self.positions == 0
            case _:
                lengths = self._lengths()
        if lengths is None:
            return None
        match where:
            case Positions.LAST:
                return self.positions >= lengths - 1
            case Positions.GENERATED:
                return self.positions >= lengths
            case Positions.PROMPT:
                return (self.positions >= 0) & (self.positions < lengths)

    def predicting(self) -> Tensor:
        """Mask `[B, T]` of positions that predict a new token of the continuation: p ≥ P−1, row still running.

        Without a declared prompt: every real token.
        """
        lengths = self._lengths()
        if self.prompt is None or lengths is None:
            return self.positions >= 0
        mask = self.positions >= lengths - 1
        if self.prompt.running is not None:
            mask = mask & self.prompt.running.to(mask.device).unsqueeze(1)
        if self.prompt.fresh is not None:
            mask[:, : -self.prompt.fresh] = False
        return mask

    def _lengths(self) -> Tensor | None:
        if self.prompt is None:
            if self.cached:
                # Without its length the prompt would pass for continuation, in silence.
                raise DposcopeError(
                    "the prompt's length is unknown inside model.generate: use dposcope.generate, or wrap the "
                    'call in `with dposcope.prompted(inputs["attention_mask"].sum(-1)):`, or use positions="all"'
                )
            return None
        if len(self.prompt.lengths) != len(self.positions):
            raise DposcopeError(
                f"lengths of {len(self.prompt.lengths)} prompts were declared, but the batch has {len(self.positions)} "
                "rows; beams and several sequences per prompt need one length per row"
            )
        return self.prompt.lengths.to(self.positions.device).unsqueeze(1)


@dataclass(frozen=True, eq=False)
class _Pass:
    """A forward pass, and its frame on other devices."""

    frame: Frame
    elsewhere: dict[torch.device, Frame] = field(default_factory=dict[torch.device, Frame])

    def on(self, device: torch.device) -> Frame:
        """Its frame on a device."""
        if self.frame.positions.device == device:
            return self.frame
        if device not in self.elsewhere:
            self.elsewhere[device] = self.frame.on(device)
        return self.elsewhere[device]


class FrameTracker:
    """Follows a model's forward passes; `.frame` gives the current one of the thread that asks."""

    def __init__(self, model: PreTrainedModel) -> None:
        # Perplexity calls the base model alone, and a few heads (OPT's) bypass it.
        self._models = [model] if model.base_model is model else [model, model.base_model]
        self._passes: WeakKeyDictionary[Thread, _Pass] = WeakKeyDictionary()
        # Threads of autograd, which run blocks again for their gradients, begin no pass.
        self._latest: _Pass | None = None

    def frame(self, device: torch.device) -> Frame:
        """The pass under way, for tensors on a device."""
        now = self._passes.get(current_thread(), self._latest)
        if now is None:
            raise DposcopeError(
                "a block ran outside its model's forward pass, so positions are unknown: "
                "call the model itself, or leave the intervention's `with` first"
            )
        return now.on(device)

    @contextmanager
    def following(self) -> Generator["FrameTracker"]:
        """Follow the model inside this context; only this tracker's own handle is removed."""
        handles = [model.register_forward_pre_hook(self._look, with_kwargs=True) for model in self._models]
        try:
            yield self
        finally:
            for handle in handles:
                handle.remove()
            self._passes.clear()
            self._latest = None

    def _look(self, module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = named_arguments(module, args, kwargs)
        tokens = given.get("input_ids")
        if tokens is None:
            tokens = given["inputs_embeds"]
        batch, length = tokens.shape[:2]
        cache = given_cache(given)
        mask = given.get("attention_mask")
        if isinstance(mask, Tensor) and mask.ndim == 2:
            # Left padding: a token's position is the number of real tokens before it.
            positions = (mask.long().cumsum(-1) - 1).masked_fill(mask == 0, -1)[:, -length:]
        else:
            past = cache.get_seq_length() if cache is not None else 0
            positions = torch.arange(past, past + length, device=tokens.device).expand(batch, length)
        self._latest = _Pass(Frame(positions, _prompted.get(), cached=cache is not None))
        self._passes[current_thread()] = self._latest
