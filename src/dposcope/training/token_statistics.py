"""Log-probability and KL of every token over a large vocabulary, with the logits of only a few tokens in memory.

With a vocabulary of 262,144 the logits of 32 short pairs take a gigabyte. Here only a chunk of tokens has its logits in
memory. Where the unembedding W is frozen, the gradients of both quantities are products with W: they are formed in the
forward pass, `d` numbers per token, and the logits are not computed again. Where W is trained, the backward pass
computes a chunk's logits a second time.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dposcope.data.short import short_repr
from dposcope.errors import DposcopeError
from dposcope.model.head.unembedding import Unembedding

LOGITS_AT_ONCE = 1 << 25
"""Most logits of one model in memory: 128 MB in float32, 128 tokens of Gemma's vocabulary."""
_LOGITS_IN_CACHE = 1 << 20
"""Logits whose exponentials are taken at a time, 4 MB. They fit into the cache, which makes this five times faster."""
_ROWS_AT_ONCE = 1 << 14
"""Rows of a trained unembedding whose gradient is added at a time, if it is formed in half precision. All rows at once
would need a third of a gigabyte more."""


@dataclass(frozen=True, eq=False)
class TokenStatistics:
    """One number per token; None for a quantity that was not requested."""

    logp: Tensor | None
    """log π(target), one per target, float32 or wider."""
    reference_logp: Tensor | None
    """log π_ref(target), without gradient."""
    kl: Tensor | None
    """KL(π_ref ‖ π) over the whole vocabulary, nats, `[N − kl_from]`."""
    distillation: Tensor | None = None
    """KL(π_teacher ‖ π) at the teacher's tokens, nats."""

    __repr__ = short_repr


@dataclass(frozen=True, eq=False)
class Reference:
    """A model that the policy is compared with (reference or teacher), at the same tokens."""

    hidden: Tensor
    """Final-norm outputs, `[N, d]`."""
    head: Unembedding


def token_statistics(
    hidden: Tensor,
    head: Unembedding,
    *,
    targets: Tensor | None = None,
    reference: Reference | None = None,
    kl: bool = False,
    kl_from: int = 0,
    teacher: Reference | None = None,
    logits_at_once: int = LOGITS_AT_ONCE,
) -> TokenStatistics:
    """Log-probabilities of `targets` under the policy and the reference, and KL(reference ‖ policy) (paper 3.1).

    Gradients flow to `hidden` and, where they are trained, to the head's weights; never to reference or teacher.

    Args:
        hidden: what the policy's unembedding reads at positions that predict, `[N, d]`.
        head: the policy's unembedding.
        targets: the tokens that the first positions should predict, at most `[N]`; None: no log-probabilities.
        reference: the reference at the same positions; None: policy only.
        kl: whether to compute the KL; needs a reference.
        kl_from: first position with a KL. It lets one call serve pairs and windows, so that a trained head gets one
            gradient instead of two.
        teacher: the teacher at the first positions, as many as it has. The policy's logits are formed only once for all
            quantities.
        logits_at_once: bound on the logits of one model in memory, tokens × vocabulary.

    Raises:
        DposcopeError: KL without a reference.
    """
    if kl and reference is None:
        raise DposcopeError("a KL needs a reference; give one, or set kl=False")
    tokens = max(1, logits_at_once // len(head.weight))
    # A model may be spread over several devices: logits are where the head is, and the results where the states are.
    place, back = head.weight.device, hidden.device
    hidden, head = _unscaled(hidden.to(place), head)
    reference, teacher = (
        None if one is None else Reference(*_unscaled(one.hidden.to(place), one.head.on(place)))
        for one in (reference, teacher)
    )
    targets = None if targets is None else targets.to(place)
    request = _Request(head.softcap, reference, targets, kl_from if kl else None, teacher, tokens, _precision(hidden))
    logp, reference_logp, divergence, distillation = _TokenStatistics.apply(hidden, head.weight, head.bias, request)
    return TokenStatistics(
        None if targets is None else logp.to(back),
        None if targets is None or reference is None else reference_logp.to(back),
        divergence.to(back) if kl else None,
        None if teacher is None else distillation.to(back),
    )


def _unscaled(hidden: Tensor, head: Unembedding) -> tuple[Tensor, Unembedding]:
    """The same logits from a head without a scale: it is moved to hidden states and bias."""
    if head.scale == 1:
        return hidden, head
    bias = None if head.bias is None else head.bias * head.scale
    return hidden * head.scale, replace(head, bias=bias, scale=1.0)


@dataclass(frozen=True, eq=False)
class _Request:
    """The inputs that need no gradient."""

    softcap: float | None
    reference: Reference | None
    targets: Tensor | None
    kl_from: int | None
    """None: nowhere."""
    teacher: Reference | None
    tokens: int
    """Per chunk."""
    precision: torch.dtype
    """Of matrix products; sums over the vocabulary are float32 at least."""

    @property
    def with_target(self) -> int:
        """How many tokens have a target. They come first."""
        return 0 if self.targets is None else len(self.targets)

    @property
    def with_teacher(self) -> int:
        """How many tokens the teacher has read. They come first."""
        return 0 if self.teacher is None else len(self.teacher.hidden)

    def chunks(self, count: int) -> Iterator["_Chunk"]:
        """Runs of at most `tokens` tokens that all need the same quantities."""
        bounds = sorted(
            {0, self.with_target, self.with_teacher, count if self.kl_from is None else self.kl_from, count}
        )
        for first, last in pairwise(bounds):
            for start in range(first, last, self.tokens):
                rows = slice(start, min(start + self.tokens, last))
                kl = None
                if self.kl_from is not None and start >= self.kl_from:
                    kl = slice(start - self.kl_from, rows.stop - self.kl_from)
                targets = self.targets[rows] if self.targets is not None and start < self.with_target else None
                yield _Chunk(rows, targets, kl, start < self.with_teacher)


@dataclass(frozen=True, eq=False)
class _Chunk:
    """Some tokens, and the quantities that are computed for them."""

    rows: slice
    targets: Tensor | None
    kl: slice | None
    """Their places among the tokens that have a KL."""
    with_teacher: bool
    """Whether the teacher has read them."""


def _precision(hidden: Tensor) -> torch.dtype:
    kind = hidden.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype


def _wide(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _logits(hidden: Tensor, head: Unembedding) -> Tensor:
    logits = hidden.to(head.weight.dtype) @ head.weight.T
    if head.bias is not None:
        logits += head.bias.to(logits.dtype)
    # A cap is applied in float32; without a cap the logits keep their precision, as they are only summed.
    return logits if head.softcap is None else _wide(logits).div_(head.softcap).tanh_().mul_(head.softcap)


@dataclass(frozen=True, eq=False)
class _Reading:
    """One model's distributions over one chunk of tokens."""

    logits: Tensor
    """`[n, V]`, as the product gives them, or capped."""
    log_sum: Tensor
    """log Σ exp of the logits, `[n]`, float32 at least."""
    probabilities: Tensor
    """`[n, V]`, float32 at least; `[n, 0]` if they were not requested."""

    def logp(self, targets: Tensor) -> Tensor:
        """`[n]`."""
        return _wide(self.logits.gather(1, targets.unsqueeze(1)).squeeze(1)) - self.log_sum


class _TokenStatistics(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, request: _Request) -> tuple[Tensor, ...]:
        """See `token_statistics`."""
        wide = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        diverging = 0 if request.kl_from is None else len(hidden) - request.kl_from
        logp, reference_logp = (hidden.new_zeros(request.with_target, dtype=wide) for _ in range(2))
        divergence = hidden.new_zeros(diverging, dtype=wide)
        distillation = hidden.new_zeros(request.with_teacher, dtype=wide)
        cast, reference, teacher = _cast(weight, bias, request)
        head_is_trained = weight.requires_grad or (bias is not None and bias.requires_grad)
        forms_gradients = hidden.requires_grad and not head_is_trained
        # d logp / d hidden, d KL / d hidden and d distillation / d hidden, one row per token.
        toward_logp = toward_kl = toward_distillation = None
        if forms_gradients:
            toward_logp, toward_kl, toward_distillation = (
                hidden.new_zeros(count, hidden.shape[1], dtype=wide)
                for count in (request.with_target, diverging, request.with_teacher)
            )
        for chunk in request.chunks(len(hidden)):
            rows = chunk.rows
            here = _read(hidden[rows], cast, probabilities=forms_gradients)
            there = _read_reference(reference, rows, probabilities=chunk.kl is not None)
            slope = _slope(here.logits, request.softcap) if forms_gradients else None
            if chunk.targets is not None:
                logp[rows] = here.logp(chunk.targets)
                if there is not None:
                    reference_logp[rows] = there.logp(chunk.targets)
            if chunk.kl is not None and there is not None:
                divergence[chunk.kl] = _divergence(there, here)
                if toward_kl is not None:
                    toward_kl[chunk.kl] = _through(here.probabilities - there.probabilities, slope, cast.weight)
            if chunk.with_teacher:
                del there  # only one other model's logits in memory
                teachers = _read_reference(teacher, rows, probabilities=True)
                assert teachers is not None
                distillation[rows] = _divergence(teachers, here)
                if toward_distillation is not None:
                    pull = torch.sub(here.probabilities, teachers.probabilities, out=teachers.probabilities)
                    toward_distillation[rows] = _through(pull, slope, cast.weight)
            if chunk.targets is not None and toward_logp is not None:
                toward_logp[rows] = _through(_one_hot_minus(here.probabilities, chunk.targets), slope, cast.weight)
        ctx.request, ctx.head_is_trained = request, head_is_trained
        ctx.save_for_backward(hidden, weight, bias, toward_logp, toward_kl, toward_distillation)
        ctx.mark_non_differentiable(reference_logp)
        return logp, reference_logp, divergence, distillation

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Gradients of hidden, weight and bias."""
        for_logp, _, for_kl, for_distillation = gradients
        hidden, weight, bias, toward_logp, toward_kl, toward_distillation = ctx.saved_tensors
        request: _Request = ctx.request
        if not ctx.head_is_trained:
            total = hidden.new_zeros(hidden.shape, dtype=for_logp.dtype)
            if toward_logp is not None:
                total[: len(toward_logp)] += for_logp.unsqueeze(1) * toward_logp
            if toward_kl is not None:
                total[len(total) - len(toward_kl) :] += for_kl.unsqueeze(1) * toward_kl
            if toward_distillation is not None:
                total[: len(toward_distillation)] += for_distillation.unsqueeze(1) * toward_distillation
            return total.to(hidden.dtype), None, None, None
        return *_recompute(hidden, weight, bias, request, (for_logp, for_kl, for_distillation)), None


def _recompute(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, request: _Request, gradients: tuple[Tensor, Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor | None]:
    for_logp, for_kl, for_distillation = gradients
    cast, reference, teacher = _cast(weight, bias, request)
    wide = torch.float64 if hidden.dtype == torch.float64 else torch.float32
    for_hidden = hidden.new_zeros(hidden.shape, dtype=wide)
    for_weight = torch.zeros_like(weight)
    for_bias = None if bias is None else torch.zeros_like(bias)
    for chunk in request.chunks(len(hidden)):
        rows = chunk.rows
        here = _read(hidden[rows], cast, probabilities=True)
        # g_kl (p − q) + g_imitation (p − t) + g_logp (1[target] − p), in the memory of p, q and t.
        pull = torch.zeros(len(here.logits), dtype=wide, device=hidden.device)
        if chunk.kl is not None:
            pull += for_kl[chunk.kl]
        if chunk.with_teacher:
            pull += for_distillation[rows]
        if chunk.targets is not None:
            pull -= for_logp[rows]
        toward = here.probabilities.mul_(pull.unsqueeze(1))
        there = _read_reference(reference, rows, probabilities=True) if chunk.kl is not None else None
        if there is not None:
            toward -= there.probabilities.mul_(for_kl[chunk.kl].unsqueeze(1))
        del there
        teachers = _read_reference(teacher, rows, probabilities=True) if chunk.with_teacher else None
        if teachers is not None:
            toward -= teachers.probabilities.mul_(for_distillation[rows].unsqueeze(1))
        if chunk.targets is not None:
            toward[torch.arange(len(toward), device=toward.device), chunk.targets] += for_logp[rows]
        slope = _slope(here.logits, request.softcap)
        if slope is not None:
            toward *= slope
        if for_bias is not None:
            for_bias += toward.sum(0).to(for_bias.dtype)
        toward = toward.to(cast.weight.dtype)
        for_hidden[rows] = _wide(toward @ cast.weight)
        _add_product(for_weight, toward.T, hidden[rows].to(cast.weight.dtype))
    return for_hidden.to(hidden.dtype), for_weight, for_bias


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """total += left @ right."""
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    else:
        for start in range(0, len(total), _ROWS_AT_ONCE):
            rows = slice(start, start + _ROWS_AT_ONCE)
            total[rows] += left[rows] @ right


def _cast(
    weight: Tensor, bias: Tensor | None, request: _Request
) -> tuple[Unembedding, Reference | None, Reference | None]:
    """The policy's head, the reference and the teacher, in the precision of products; shared weights once."""
    cast = Unembedding(weight.to(request.precision), bias, request.softcap)
    known = {weight.data_ptr(): cast.weight}

    def in_precision(other: Reference | None) -> Reference | None:
        if other is None:
            return None
        head, place = other.head, other.head.weight.data_ptr()
        if place not in known:
            known[place] = head.weight.to(request.precision)
        return Reference(other.hidden, Unembedding(known[place], head.bias, head.softcap))

    return cast, in_precision(request.reference), in_precision(request.teacher)


def _read(hidden: Tensor, head: Unembedding, *, probabilities: bool) -> _Reading:
    logits = _logits(hidden, head)
    wide = torch.float64 if logits.dtype == torch.float64 else torch.float32
    log_sum = logits.new_empty(len(logits), dtype=wide)
    kept = logits.new_empty(logits.shape if probabilities else (len(logits), 0), dtype=wide)
    for rows in _in_cache(logits):
        part = _wide(logits[rows])
        top = part.amax(1, keepdim=True)
        exponentials = (part - top).exp_()
        total = exponentials.sum(1, keepdim=True)
        log_sum[rows] = (total.log() + top).squeeze(1)
        if probabilities:
            torch.div(exponentials, total, out=kept[rows])
    return _Reading(logits, log_sum, kept)


def _in_cache(logits: Tensor) -> Iterator[slice]:
    """Runs of rows that fit into the cache of a CPU; a GPU takes all rows at once."""
    size = max(1, _LOGITS_IN_CACHE // logits.shape[1]) if logits.device.type == "cpu" else max(1, len(logits))
    for start in range(0, len(logits), size):
        yield slice(start, start + size)


def _read_reference(reference: Reference | None, rows: slice, *, probabilities: bool) -> _Reading | None:
    return None if reference is None else _read(reference.hidden[rows], reference.head, probabilities=probabilities)


def _divergence(there: _Reading, here: _Reading) -> Tensor:
    """Σ q (log q − log p), `[n]`; exactly 0 where both have the same logits."""
    total = torch.empty_like(there.log_sum)
    for rows in _in_cache(there.logits):
        gap = _wide(there.logits[rows]) - here.logits[rows]
        # Not `torch.dot`: autocast treats it as a matrix product and would round it.
        total[rows] = gap.mul_(there.probabilities[rows]).sum(1)
    return total + (here.log_sum - there.log_sum)


def _one_hot_minus(probabilities: Tensor, targets: Tensor) -> Tensor:
    """d logp / d logits: 1 at the target, minus p everywhere."""
    gradient = probabilities.neg()
    gradient[torch.arange(len(targets), device=targets.device), targets] += 1
    return gradient


def _slope(logits: Tensor, softcap: float | None) -> Tensor | None:
    """d capped / d uncapped = 1 − tanh²."""
    return None if softcap is None else 1 - (logits / softcap).square_()


def _through(gradient: Tensor, slope: Tensor | None, weight: Tensor) -> Tensor:
    """From a gradient on logits to one on hidden, `[n, d]`."""
    if slope is not None:
        gradient = gradient * slope
    return _wide(gradient.to(weight.dtype) @ weight)
