"""Log-probability and KL of every token over a large vocabulary, its logits held for a few tokens at a time.

A vocabulary of 262,144 makes the logits of 32 short pairs a gigabyte. Here they exist for a chunk of tokens, and what
a backward pass needs of them is kept in residual width: with a frozen unembedding W both quantities have gradients
that are a product with W, so those are formed at once and the logits are never computed again; where W is trained, a
chunk's logits are computed once more.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers import PreTrainedModel

from dposcope.errors import DposcopeError
from dposcope.model.layout import logit_softcap

LOGITS_AT_ONCE = 1 << 25
"""Most logits of one model in memory: 128 MB in float32, 128 tokens of Gemma's vocabulary."""
_LOGITS_IN_CACHE = 1 << 20
"""Logits whose exponentials are taken at a time, 4 MB: from memory it takes five times as long."""
_ROWS_AT_ONCE = 1 << 14
"""Rows of a trained unembedding whose gradient is added at a time, where it is formed in half precision: a whole one
would be a third of a gigabyte beside the gradient itself."""


@dataclass(frozen=True, eq=False)
class Unembedding:
    """The head that turns final-norm outputs into logits: `cap·tanh((x Wᵀ + b)/cap)`."""

    weight: Tensor
    """W, `[V, d]`."""
    bias: Tensor | None = None
    """b, `[V]`."""
    softcap: float | None = None
    """Gemma 2's cap on logits."""

    @classmethod
    def of(cls, model: PreTrainedModel) -> "Unembedding":
        """A model's own.

        Raises:
            DposcopeError: its head is not one linear map.
        """
        head: nn.Module | None = model.get_output_embeddings()
        if not isinstance(head, nn.Linear):
            raise DposcopeError(
                f"the unembedding of {type(model).__name__} is {type(head).__name__}, not one linear map; "
                "leave the head out of what is adapted"
            )
        return cls(head.weight, head.bias, logit_softcap(model))


@dataclass(frozen=True, eq=False)
class TokenStatistics:
    """One number per token asked about; None for what was not asked."""

    logp: Tensor | None
    """log π(target), as many as targets, at least float32."""
    reference_logp: Tensor | None
    """log π_ref(target), without gradient."""
    kl: Tensor | None
    """KL(π_ref ‖ π) over the whole vocabulary, nats, `[N − kl_from]`."""
    imitation: Tensor | None = None
    """KL(π_teacher ‖ π) at the teacher's tokens, nats."""


@dataclass(frozen=True, eq=False)
class Reference:
    """The model that the policy is compared with, at the same tokens."""

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
        hidden: the policy's final-norm outputs at positions that predict, `[N, d]`.
        head: the policy's.
        targets: the token that each of the first positions should predict, at most `[N]`; None: no log-probabilities.
        reference: the reference at the same positions; None: policy only.
        kl: whether to compute the KL; needs a reference.
        kl_from: positions before this one have no KL. One call for pairs and windows forms one gradient of a trained
            head instead of two.
        teacher: another model, at the first positions, as many as it has; the policy's own logits there are formed once
            for all that is asked.
        logits_at_once: bound on the logits of one model in memory, tokens × vocabulary.

    Raises:
        DposcopeError: KL without a reference.
    """
    if kl and reference is None:
        raise DposcopeError("a KL needs a reference; give one, or set kl=False")
    tokens = max(1, logits_at_once // len(head.weight))
    ask = _Ask(head.softcap, reference, targets, kl_from if kl else None, teacher, tokens, _precision(hidden))
    logp, reference_logp, divergence, imitation = _TokenStatistics.apply(hidden, head.weight, head.bias, ask)
    return TokenStatistics(
        None if targets is None else logp,
        None if targets is None or reference is None else reference_logp,
        divergence if kl else None,
        None if teacher is None else imitation,
    )


@dataclass(frozen=True, eq=False)
class _Ask:
    """What does not take part in differentiation."""

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
    def named(self) -> int:
        """How many tokens have a target: the first."""
        return 0 if self.targets is None else len(self.targets)

    @property
    def taught(self) -> int:
        """How many tokens the teacher has read: the first."""
        return 0 if self.teacher is None else len(self.teacher.hidden)

    def chunks(self, count: int) -> Iterator["_Chunk"]:
        """Runs of at most `tokens` tokens that are all asked the same."""
        bounds = sorted({0, self.named, self.taught, count if self.kl_from is None else self.kl_from, count})
        for first, last in pairwise(bounds):
            for start in range(first, last, self.tokens):
                rows = slice(start, min(start + self.tokens, last))
                kl = None
                if self.kl_from is not None and start >= self.kl_from:
                    kl = slice(start - self.kl_from, rows.stop - self.kl_from)
                targets = self.targets[rows] if self.targets is not None and start < self.named else None
                yield _Chunk(rows, targets, kl, start < self.taught)


@dataclass(frozen=True, eq=False)
class _Chunk:
    """Some tokens and what is asked of them."""

    rows: slice
    targets: Tensor | None
    kl: slice | None
    """Their places among the tokens that have a KL."""
    taught: bool
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
    # What is only summed may stay as it is; what is bent by a cap is bent in float32.
    return logits if head.softcap is None else _wide(logits).div_(head.softcap).tanh_().mul_(head.softcap)


@dataclass(frozen=True, eq=False)
class _Reading:
    """One model's distributions over one chunk of tokens."""

    logits: Tensor
    """`[n, V]`, as the product left them, or capped."""
    log_sum: Tensor
    """log Σ exp of the logits, `[n]`, float32 at least."""
    probabilities: Tensor
    """`[n, V]`, float32 at least; `[n, 0]` where nobody asked for them."""

    def logp(self, targets: Tensor) -> Tensor:
        """`[n]`."""
        return _wide(self.logits.gather(1, targets.unsqueeze(1)).squeeze(1)) - self.log_sum


class _TokenStatistics(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, ask: _Ask) -> tuple[Tensor, ...]:
        """See `token_statistics`."""
        wide = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        diverging = 0 if ask.kl_from is None else len(hidden) - ask.kl_from
        logp, reference_logp = (hidden.new_zeros(ask.named, dtype=wide) for _ in range(2))
        divergence = hidden.new_zeros(diverging, dtype=wide)
        imitation = hidden.new_zeros(ask.taught, dtype=wide)
        cast, reference, teacher = _cast(weight, bias, ask)
        head_is_trained = weight.requires_grad or (bias is not None and bias.requires_grad)
        forms_gradients = hidden.requires_grad and not head_is_trained
        # d logp / d hidden, d KL / d hidden and d imitation / d hidden, one row per token.
        toward_logp = toward_kl = toward_imitation = None
        if forms_gradients:
            toward_logp, toward_kl, toward_imitation = (
                hidden.new_zeros(count, hidden.shape[1], dtype=wide) for count in (ask.named, diverging, ask.taught)
            )
        for chunk in ask.chunks(len(hidden)):
            rows = chunk.rows
            here = _read(hidden[rows], cast, probabilities=forms_gradients)
            there = _read_reference(reference, rows, probabilities=chunk.kl is not None)
            slope = _slope(here.logits, ask.softcap) if forms_gradients else None
            if chunk.targets is not None:
                logp[rows] = here.logp(chunk.targets)
                if there is not None:
                    reference_logp[rows] = there.logp(chunk.targets)
            if chunk.kl is not None and there is not None:
                divergence[chunk.kl] = _divergence(there, here)
                if toward_kl is not None:
                    toward_kl[chunk.kl] = _through(here.probabilities - there.probabilities, slope, cast.weight)
            if chunk.taught:
                del there  # one other model's logits at a time
                taught = _read_reference(teacher, rows, probabilities=True)
                assert taught is not None
                imitation[rows] = _divergence(taught, here)
                if toward_imitation is not None:
                    pull = torch.sub(here.probabilities, taught.probabilities, out=taught.probabilities)
                    toward_imitation[rows] = _through(pull, slope, cast.weight)
            if chunk.targets is not None and toward_logp is not None:
                toward_logp[rows] = _through(_one_hot_minus(here.probabilities, chunk.targets), slope, cast.weight)
        ctx.ask, ctx.head_is_trained = ask, head_is_trained
        ctx.save_for_backward(hidden, weight, bias, toward_logp, toward_kl, toward_imitation)
        ctx.mark_non_differentiable(reference_logp)
        return logp, reference_logp, divergence, imitation

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Gradients of hidden, weight and bias."""
        for_logp, _, for_kl, for_imitation = gradients
        hidden, weight, bias, toward_logp, toward_kl, toward_imitation = ctx.saved_tensors
        ask: _Ask = ctx.ask
        if not ctx.head_is_trained:
            total = hidden.new_zeros(hidden.shape, dtype=for_logp.dtype)
            if toward_logp is not None:
                total[: len(toward_logp)] += for_logp.unsqueeze(1) * toward_logp
            if toward_kl is not None:
                total[len(total) - len(toward_kl) :] += for_kl.unsqueeze(1) * toward_kl
            if toward_imitation is not None:
                total[: len(toward_imitation)] += for_imitation.unsqueeze(1) * toward_imitation
            return total.to(hidden.dtype), None, None, None
        return *_recompute(hidden, weight, bias, ask, (for_logp, for_kl, for_imitation)), None


def _recompute(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, ask: _Ask, gradients: tuple[Tensor, Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor | None]:
    for_logp, for_kl, for_imitation = gradients
    cast, reference, teacher = _cast(weight, bias, ask)
    wide = torch.float64 if hidden.dtype == torch.float64 else torch.float32
    for_hidden = hidden.new_zeros(hidden.shape, dtype=wide)
    for_weight = torch.zeros_like(weight)
    for_bias = None if bias is None else torch.zeros_like(bias)
    for chunk in ask.chunks(len(hidden)):
        rows = chunk.rows
        here = _read(hidden[rows], cast, probabilities=True)
        # g_kl (p − q) + g_imitation (p − t) + g_logp (1[target] − p), in the memory of p, q and t.
        pull = torch.zeros(len(here.logits), dtype=wide, device=hidden.device)
        if chunk.kl is not None:
            pull += for_kl[chunk.kl]
        if chunk.taught:
            pull += for_imitation[rows]
        if chunk.targets is not None:
            pull -= for_logp[rows]
        toward = here.probabilities.mul_(pull.unsqueeze(1))
        there = _read_reference(reference, rows, probabilities=True) if chunk.kl is not None else None
        if there is not None:
            toward -= there.probabilities.mul_(for_kl[chunk.kl].unsqueeze(1))
        del there
        taught = _read_reference(teacher, rows, probabilities=True) if chunk.taught else None
        if taught is not None:
            toward -= taught.probabilities.mul_(for_imitation[rows].unsqueeze(1))
        if chunk.targets is not None:
            toward[torch.arange(len(toward), device=toward.device), chunk.targets] += for_logp[rows]
        slope = _slope(here.logits, ask.softcap)
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


def _cast(weight: Tensor, bias: Tensor | None, ask: _Ask) -> tuple[Unembedding, Reference | None, Reference | None]:
    """The policy's head, the reference and the teacher, in the precision of products; shared weights once."""
    cast = Unembedding(weight.to(ask.precision), bias, ask.softcap)
    known = {weight.data_ptr(): cast.weight}

    def in_precision(other: Reference | None) -> Reference | None:
        if other is None:
            return None
        head, place = other.head, other.head.weight.data_ptr()
        if place not in known:
            known[place] = head.weight.to(ask.precision)
        return Reference(other.hidden, Unembedding(known[place], head.bias, head.softcap))

    return cast, in_precision(ask.reference), in_precision(ask.teacher)


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
    """Runs of rows that a processor's cache holds; a graphics card takes all at once."""
    size = max(1, _LOGITS_IN_CACHE // logits.shape[1]) if logits.device.type == "cpu" else max(1, len(logits))
    for start in range(0, len(logits), size):
        yield slice(start, start + size)


def _read_reference(reference: Reference | None, rows: slice, *, probabilities: bool) -> _Reading | None:
    return None if reference is None else _read(reference.hidden[rows], reference.head, probabilities=probabilities)


def _divergence(there: _Reading, here: _Reading) -> Tensor:
    """Σ q (log q − log p), `[n]`; exactly 0 where both are the same numbers."""
    total = torch.empty_like(there.log_sum)
    for rows in _in_cache(there.logits):
        gap = _wide(there.logits[rows]) - here.logits[rows]
        # Not a product of vectors: that is a matrix product to autocast, which would round it.
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
