"""Activations of experts during a pass, and the experts that tokens are sent to.

Between the up and the down projection, the function that computes the experts calls their module's `_apply_gate`, or
its `act_fn` where experts have no gate (Nemotron-H). The result is the activations m, one row for each pair of a token
and an expert that the router sent it to. `listen` puts itself there, or where a family of its own `Way` has them.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from threading import Thread, current_thread
from typing import Any, Final, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from dposcope.data.short import short_repr
from dposcope.model.mixtures.experts import SORTED, Experts, ExpertsModule, Way


@dataclass(frozen=True, eq=False)
class Routing:
    """Which experts tokens were sent to; `…` is `[B, T]`, or `[n]` for chosen tokens."""

    sent: Tensor
    """`[…, E]`, bool."""
    weights: Tensor
    """r, `[…, E]`; 0 where a token was not sent."""

    __repr__ = short_repr

    def at(self, tokens: Tensor) -> "Routing":
        """Of the tokens that a mask `[B, T]` chooses."""
        return Routing(self.sent[tokens], self.weights[tokens])


@dataclass(frozen=True, eq=False)
class Pairs:
    """The S pairs of a token and an expert in one pass over N tokens, in the order of the rows of activations."""

    token: Tensor
    """`[S]`, int64."""
    expert: Tensor
    """`[S]`, int64."""
    weight: Tensor
    """r, `[S]`."""
    tokens: int
    """N."""
    experts: int
    """E."""

    __repr__ = short_repr

    @cached_property
    def routing(self) -> Routing:
        """Of every token, `[N, E]`."""
        place = (self.token, self.expert)
        sent = torch.zeros(self.tokens, self.experts, dtype=torch.bool, device=self.token.device)
        weights = self.weight.new_zeros(self.tokens, self.experts)
        return Routing(
            sent.index_put(place, torch.ones_like(self.token, dtype=torch.bool)),
            weights.index_put(place, self.weight.detach()),
        )

    def spread(self, rows: Tensor) -> Tensor:
        """Activations `[S, I]` as `[N, E · I]`, 0 where a token was not sent to an expert."""
        table = rows.new_zeros(self.tokens, self.experts, rows.shape[1])
        return table.index_put((self.token, self.expert), rows).flatten(1)

    def gather(self, table: Tensor) -> Tensor:
        """The rows `[S, I]` of a table `[N, E · I]`."""
        return table.unflatten(1, (self.experts, -1))[self.token, self.expert]


Listener = Callable[[Tensor, Pairs], Tensor | None]
"""Takes activations `[S, I]`, returns their replacement, or None to leave them."""


def listen(experts: Experts, listener: Listener) -> Callable[[], None]:
    """Call `listener` in every pass, after those that were there before.

    Returns:
        What ends it.

    Raises:
        DposcopeError: the activations cannot be read; see `Experts.check`. During a pass as well.
    """
    experts.check()
    if experts.module not in _gates:
        _gates[experts.module] = _LISTENING[experts.way](experts)
    return _gates[experts.module].add(listener)


def is_listened(model: nn.Module) -> bool:
    """Whether somebody listens to experts of a model, which a copy of it would take along."""
    return any(module in _gates for module in model.modules())


class _Listening(ABC):
    """Those who listen to a module of experts; what stands in its place is there while there are any."""

    def __init__(self, experts: Experts) -> None:
        self._experts = experts
        self._listeners: list[Listener] = []

    def add(self, listener: Listener) -> Callable[[], None]:
        """Returns what ends it."""
        self._listeners.append(listener)
        return lambda: self._remove(listener)

    def _heard(self, rows: Tensor, pairs: Pairs) -> Tensor:
        for listener in self._listeners:
            new = listener(rows, pairs)
            rows = rows if new is None else new
        return rows

    def _remove(self, listener: Listener) -> None:
        self._listeners.remove(listener)
        if not self._listeners:
            self._end()
            del _gates[self._experts.module]

    @abstractmethod
    def _end(self) -> None:
        """Put the module back as it was."""


class _InPlaceOfForward(_Listening):
    """Stands in the place of a module's `forward`, and computes the same."""

    def __init__(self, experts: Experts) -> None:
        super().__init__(experts)
        # accelerate, which moves weights between devices, keeps a module's own function under this name.
        self._name = "_old_forward" if "_old_forward" in vars(experts.module) else "forward"
        self._before = vars(experts.module).get(self._name)
        setattr(experts.module, self._name, self._forward)

    @abstractmethod
    def _forward(self, *args: Tensor) -> Tensor:
        """What the module computes."""

    def _end(self) -> None:
        if self._before is None:
            delattr(self._experts.module, self._name)
        else:
            setattr(self._experts.module, self._name, self._before)


class _AllTokens(_InPlaceOfForward):
    """Llama 4's experts compute all tokens, those of others as zeros.

    The router's weights multiply what an expert reads, so it writes with weight 1.
    """

    def _forward(self, *args: Tensor) -> Tensor:
        (hidden_states,) = args
        module = self._experts.module
        count = self._experts.sizes.count
        read = hidden_states.view(count, -1, hidden_states.shape[-1])
        gate, up = torch.bmm(read, module.get_parameter("gate_up_proj")).chunk(2, dim=-1)
        activations = up * cast(Callable[[Tensor], Tensor], module.act_fn)(gate)
        place = (read != 0).any(-1).nonzero(as_tuple=True)
        expert, token = place
        pairs = Pairs(token, expert, activations.new_ones(len(token)), read.shape[1], count)
        rows = activations[place]
        new = self._heard(rows, pairs)
        if new is not rows:
            activations = activations.index_put(place, new)
        return torch.bmm(activations, self._experts.weight).view(-1, self._experts.outputs)


class _OneByOne(_InPlaceOfForward):
    """DBRX's experts each compute their tokens; weights are `[E · I, d]`."""

    def _forward(self, *args: Tensor) -> Tensor:
        hidden_states, chosen, weights = args
        glu = self._experts.module.get_submodule("mlp")
        gates, ups, downs = (self._experts.stacked(glu.get_parameter(name)) for name in ("w1", "v1", "w2"))
        states = hidden_states.reshape(-1, hidden_states.shape[-1])
        # Of each expert: which of a token's choices it is, and the token.
        places = [(chosen.mT == expert).nonzero(as_tuple=True) for expert in range(len(gates))]
        activation = cast(Callable[[Tensor], Tensor], glu.activation_fn)
        rows = [
            activation(read.matmul(gate.T)) * read.matmul(up.T)
            for read, gate, up in zip((states[token] for _, token in places), gates, ups, strict=True)
        ]
        token, weight = (
            torch.cat(parts)
            for parts in zip(*((token, weights[token, choice]) for choice, token in places), strict=True)
        )
        counts = [len(token) for _, token in places]
        expert = torch.arange(len(counts), device=token.device).repeat_interleave(token.new_tensor(counts))
        heard = self._heard(torch.cat(rows), Pairs(token, expert, weight, len(states), len(counts)))
        written = torch.zeros_like(states)
        for (choice, token), own, down in zip(places, heard.split(counts), downs, strict=True):
            written.index_add_(0, token, own.matmul(down) * weights[token, choice, None])
        return written.view(hidden_states.shape[0], -1, hidden_states.shape[-1])


class _SortedRows(_Listening):
    """Sees what the module of JetMoE's down projections reads: rows in the order that the router tells."""

    def __init__(self, experts: Experts) -> None:
        super().__init__(experts)
        self._pairs: WeakKeyDictionary[Thread, Pairs] = WeakKeyDictionary()
        self._removals = [
            experts.module.get_submodule("router").register_forward_hook(self._routed),
            experts.module.get_submodule("output_linear").register_forward_pre_hook(self._reads),
        ]

    def _routed(self, _module: nn.Module, args: tuple[Tensor, ...], told: tuple[Any, ...]) -> None:
        _, token, weight, sizes, _ = told
        count = torch.tensor(sizes, device=token.device)
        expert = torch.arange(len(sizes), device=token.device).repeat_interleave(count)
        self._pairs[current_thread()] = Pairs(token, expert, weight, len(args[0]), len(sizes))

    def _reads(self, _module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (self._heard(args[0], self._pairs[current_thread()]), *args[1:])

    def _end(self) -> None:
        for one in self._removals:
            one.remove()


class _Between(_Listening):
    """Sees what a module's `_apply_gate` or `act_fn` returns while somebody listens."""

    def __init__(self, experts: Experts) -> None:
        super().__init__(experts)
        # Threads may run the model at once.
        self._pairs: WeakKeyDictionary[Thread, Pairs] = WeakKeyDictionary()
        self._before = experts.module.register_forward_pre_hook(self._begin)
        self._after: RemovableHandle | None = None
        if experts.gated:
            self._own = cast(ExpertsModule, experts.module)._apply_gate  # pyright: ignore[reportPrivateUsage]
            cast(ExpertsModule, experts.module)._apply_gate = self._gate  # pyright: ignore[reportPrivateUsage]
        else:
            activation = experts.module.get_submodule("act_fn")
            self._after = activation.register_forward_hook(self._activated)

    def _begin(self, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        states, chosen, weights = args
        expert = chosen.reshape(-1)
        token = torch.arange(len(states), device=expert.device).repeat_interleave(chosen.shape[-1])
        weight = weights.reshape(-1)
        if self._experts.factor != 1:
            weight = weight * self._experts.factor
        self._experts.check()
        if cast(ExpertsModule, module).config._experts_implementation == SORTED:
            # Rows are sorted by expert, by this very call.
            expert, order = torch.sort(expert)
            token, weight = token[order], weight[order]
        self._pairs[current_thread()] = Pairs(token, expert, weight, len(states), self._experts.sizes.count)

    def _gate(self, projected: Tensor) -> Tensor:
        return self._seen(self._own(projected))

    def _activated(self, _module: nn.Module, _args: tuple[Tensor, ...], rows: Tensor) -> Tensor:
        return self._seen(rows)

    def _seen(self, rows: Tensor) -> Tensor:
        # Its own: the module was called, as every model does.
        return self._heard(rows, self._pairs[current_thread()])

    def _end(self) -> None:
        self._before.remove()
        if self._after is None:
            del self._experts.module._apply_gate
        else:
            self._after.remove()


_LISTENING: Final[dict[Way, type[_Listening]]] = {
    Way.INTERFACE: _Between,
    Way.ALL_TOKENS: _AllTokens,
    Way.ONE_BY_ONE: _OneByOne,
    Way.SORTED_ROWS: _SortedRows,
}
_gates: WeakKeyDictionary[nn.Module, _Listening] = WeakKeyDictionary()
