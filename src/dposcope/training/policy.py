"""A policy and its reference in one module: the preference loss of a batch (paper 3.1, appendix C)."""

from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from dposcope.errors import DposcopeError
from dposcope.model.head.unembedding import Unembedding
from dposcope.training.batches.packing import PackedBatch
from dposcope.training.batches.reading import read
from dposcope.training.loss import DpoTerms, dpo_terms, likelihood_losses, mean_by, sum_by
from dposcope.training.objective import Objective
from dposcope.training.token_statistics import Reference, TokenStatistics, token_statistics


@dataclass(frozen=True)
class Arm:
    """A model that takes part in the loss (policy, reference or teacher), and the context that it runs in."""

    model: PreTrainedModel
    applied: Callable[[], AbstractContextManager[Any]] = nullcontext
    head: Unembedding | None = None
    """Turns its outputs into logits; None: the model's own head."""
    changed_by_training: bool = False
    """For a reference: training changes its weights, so its outputs must be computed before training."""
    recompute: Sequence[nn.Module] = ()
    """Blocks whose activations are computed again in the backward pass instead of kept."""


@dataclass(frozen=True, eq=False)
class BatchLoss:
    """The loss of a batch, and the parts of it that are logged."""

    loss: Tensor
    """Scalar: mean of `losses` + λ · penalty + κ · mean distillation."""
    losses: Tensor
    """Of each pair, `[pairs]`: DPO's, or its likelihood's."""
    terms: DpoTerms
    """Per pair."""
    penalty: Tensor
    """The divergence that λ multiplies, nats per token; 0 if λ is 0."""
    distillation: Tensor | None = None
    """KL_preferred(teacher‖policy) + KL_dispreferred(teacher‖policy) per pair, each a mean over completion tokens,
    `[pairs]`; None without a teacher."""


@dataclass(frozen=True, eq=False)
class Weights:
    """Weight of each pair and window in the loss of a batch, where several processes each read a part of the batch."""

    pairs: Tensor
    """`[pairs]`."""
    windows: Tensor
    """`[windows]`."""

    def to(self, dtype: torch.dtype) -> "Weights":
        """In another precision."""
        return Weights(self.pairs.to(dtype), self.windows.to(dtype))


class PreferencePolicy(nn.Module):
    """The module that `Trainer` trains; `trainable.py` makes it."""

    def __init__(
        self, trained: nn.Module, policy: Arm, reference: Arm, objective: Objective, teacher: Arm | None = None
    ) -> None:
        """Join policy, reference and teacher.

        Args:
            trained: holds the trained parameters; it may hold others too.
            policy: the model that these parameters change.
            reference: the model that the policy is compared with.
            objective: what is minimised.
            teacher: a tuned model whose next-token distributions on the completions are distilled; None: no teacher.
        """
        super().__init__()
        self.hf_device_map: dict[str, str] = {}
        """Devices of a model that is spread over several, for `Trainer`; empty where it is on one."""
        self.trained = trained
        self.objective = objective
        # Kept in a tuple, so that torch does not register the reference: it is not saved, moved or trained.
        self.arms = (policy, reference)
        self._teacher = teacher
        trained.eval()
        self.eval()

    def train(self, mode: bool = True) -> "PreferencePolicy":
        """Keep dropout off in both models: with dropout, the implicit reward would not start at zero."""
        self.training = mode
        return self

    @property
    def trainable(self) -> dict[str, nn.Parameter]:
        """Name → trained parameter; tied parameters are listed once."""
        return {name: parameter for name, parameter in self.trained.named_parameters() if parameter.requires_grad}

    def forward(
        self,
        batch: PackedBatch,
        windows: int = 0,
        reference_hidden: Tensor | None = None,
        weights: Weights | None = None,
    ) -> BatchLoss:
        """The loss of a batch of pairs and `windows` windows behind them.

        Args:
            batch: packed, pairs first.
            windows: how many of its examples are windows.
            reference_hidden: what the reference's unembedding reads at `batch.where`, `[N, d]`, if it was computed
                before; None: the reference runs now.
            weights: weights of pairs and windows in the loss; None: the loss is a mean.

        Raises:
            DposcopeError: the reference's weights are trained, and its outputs are missing; or outputs are given, but
                the protocol needs the reference at every position.
        """
        self._check_reference(reference_hidden)
        policy, reference = self.arms
        pairs = (int(batch.sequence.max()) + 1 - windows) // 2
        published = self.objective.protocol == "reference"
        states = _states(policy, batch, published)
        here = states[batch.where]
        others: Tensor | None = None
        if reference_hidden is None:
            with torch.no_grad():
                others = _states(reference, batch, published)
            there = others[batch.where]
        else:
            there = reference_hidden.to(states.dtype)
        head = policy.head or Unembedding.of(policy.model)
        its_head = reference.head or _frozen(Unembedding.of(reference.model))
        weight, on_pairs = self.objective.kl_weight, self.objective.kl_on == "pairs"
        of_pairs = int((batch.sequence < 2 * pairs).sum())  # pairs come before the windows
        read = of_pairs if published or on_pairs or weight == 0 else len(here)
        statistics = token_statistics(
            here[:read],
            head,
            targets=batch.targets[:of_pairs],
            reference=Reference(there[:read], its_head),
            kl=weight > 0 and not published,
            kl_from=0 if on_pairs else of_pairs,
            teacher=None if self._teacher is None else _teacher_states(self._teacher, batch, of_pairs),
        )
        terms = self._terms(statistics, batch.sequence[:of_pairs], pairs)
        weights = None if weights is None else weights.to(terms.losses.dtype)
        losses = terms.losses
        if self.objective.loss == "likelihood":
            assert statistics.logp is not None
            losses = likelihood_losses(
                statistics.logp, batch.sequence[:of_pairs], pairs, unlikelihood=self.objective.unlikelihood
            )
        loss = losses.mean() if weights is None else (losses * weights.pairs).sum()
        penalty = loss.new_zeros(())
        if weight > 0 and published:
            assert others is not None
            kl = token_statistics(states, head, reference=Reference(others, its_head), kl=True).kl
            assert kl is not None
            of_pair = kl.view(pairs, -1).mean(1)
            mean = of_pair.mean() if weights is None else (of_pair * weights.pairs).sum()
            penalty = mean * 2  # both rows of a pair are equally long
        elif statistics.kl is not None and len(statistics.kl):
            by_text = mean_by(statistics.kl, batch.sequence[:read], 2 * pairs) if on_pairs else None
            if weights is None:
                penalty = statistics.kl.mean() if by_text is None else by_text.sum() / pairs
            elif by_text is None:  # a window's weight is its share of all windows' tokens
                by_window = mean_by(statistics.kl, batch.sequence[of_pairs:] - 2 * pairs, windows)
                penalty = (by_window * weights.windows).sum()
            else:
                penalty = (by_text.view(2, pairs).sum(0) * weights.pairs).sum()
        if weight > 0:
            loss = loss + weight * penalty
        distillation: Tensor | None = None
        if statistics.distillation is not None:
            by_text = mean_by(statistics.distillation, batch.sequence[:of_pairs], 2 * pairs)
            of_pair = by_text.view(2, pairs).sum(0)
            mean = of_pair.mean() if weights is None else (of_pair * weights.pairs).sum()
            loss = loss + self.objective.teacher_weight * mean
            distillation = of_pair.detach()
        return BatchLoss(loss, losses.detach(), terms, penalty.detach(), distillation)

    def _check_reference(self, computed: Tensor | None) -> None:
        if computed is None and self.arms[1].changed_by_training:
            raise DposcopeError(
                "training changes the reference's own weights, so the reference cannot run during training; "
                "compute its outputs before (precompute_reference), or train a copy"
            )
        if computed is not None and self.objective.protocol == "reference":
            raise DposcopeError(
                "the reference protocol needs the reference at every position; leave reference_hidden out"
            )

    @torch.no_grad()
    def reference_states(self, batch: PackedBatch) -> Tensor:
        """What the reference's unembedding reads at the places that predict, `[N, d]`. Its logits follow from it."""
        return _states(self.arms[1], batch, self.objective.protocol == "reference")[batch.where]

    def _terms(self, statistics: TokenStatistics, sequence: Tensor, pairs: int) -> DpoTerms:
        assert statistics.logp is not None
        assert statistics.reference_logp is not None
        logp = sum_by(statistics.logp, sequence, 2 * pairs)
        reference = sum_by(statistics.reference_logp, sequence, 2 * pairs)
        return dpo_terms(logp[:pairs], logp[pairs:], reference[:pairs], reference[pairs:], beta=self.objective.beta)


def _states(arm: Arm, batch: PackedBatch, published: bool) -> Tensor:
    """Final-norm outputs at every place, `[R·T, d]`."""
    with arm.applied(), recomputed(arm.recompute):
        return read(arm.model, batch, published=published)


@torch.no_grad()
def _teacher_states(teacher: Arm, batch: PackedBatch, of_pairs: int) -> Reference:
    """What the teacher's unembedding reads at the places that predict tokens of pairs, which come first."""
    there = _states(teacher, batch, published=False)[batch.where[:of_pairs]]
    return Reference(there, teacher.head or _frozen(Unembedding.of(teacher.model)))


def _frozen(head: Unembedding) -> Unembedding:
    return replace(head, weight=head.weight.detach(), bias=None if head.bias is None else head.bias.detach())


@contextmanager
def recomputed(blocks: Sequence[nn.Module]) -> Generator[None]:
    """Inside, a forward pass keeps only the inputs of each block.

    The gradient checkpointing of transformers works in training mode only, but here models stay in evaluation mode. The
    backward pass may run after the context; hooks and other changes of the model must then still be active.
    Under autocast, weights that a block casts go with it, too.
    """
    cached = torch.is_autocast_cache_enabled()
    if blocks:  # else a cast of every weight would be kept until the end of the forward pass
        torch.set_autocast_cache_enabled(False)
    before = [vars(block).get("forward") for block in blocks]  # accelerate's hook, if the model is spread over devices
    for block in blocks:
        # Nothing is random in evaluation mode, so the state of random generators need not be kept.
        block.forward = partial(checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(cached)
        for block, forward in zip(blocks, before, strict=True):
            del block.forward  # restores the method of the class
            if forward is not None:
                block.forward = forward
