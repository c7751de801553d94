"""The DPO loss and its KL term, as functions of log-probabilities and divergences (paper 3.1, appendix C)."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from dposcope.data.short import short_repr
from dposcope.errors import DposcopeError
from dposcope.model.checks.given import check_tensor


@dataclass(frozen=True, eq=False)
class DpoTerms:
    """One value per pair, `[pairs]`."""

    losses: Tensor
    """−log σ(β(Δ_preferred − Δ_dispreferred)), Δ = log π − log π_ref."""
    preferred_rewards: Tensor
    """β Δ of the preferred completions, without gradient: the implicit reward."""
    dispreferred_rewards: Tensor

    __repr__ = short_repr

    @property
    def margins(self) -> Tensor:
        """How much more reward the preferred completion gets."""
        return self.preferred_rewards - self.dispreferred_rewards

    @property
    def accuracy(self) -> Tensor:
        """1 where the margin is positive."""
        return (self.margins > 0).to(self.losses.dtype)


def dpo_terms(
    preferred: Tensor, dispreferred: Tensor, reference_preferred: Tensor, reference_dispreferred: Tensor, *, beta: float
) -> DpoTerms:
    """Sigmoid DPO from summed log-probabilities of completions (Rafailov et al. 2023, equation 7).

    Args:
        preferred: log π of each preferred completion, `[pairs]`.
        dispreferred: log π of each dispreferred completion.
        reference_preferred: log π_ref of each preferred completion.
        reference_dispreferred: log π_ref of each dispreferred completion.
        beta: β, how strongly the policy is held near the reference (paper: 0.1).

    Raises:
        DposcopeError: shapes differ.
    """
    for one in (preferred, dispreferred, reference_preferred, reference_dispreferred):
        check_tensor("log-probabilities", one)
    shapes = [list(one.shape) for one in (preferred, dispreferred, reference_preferred, reference_dispreferred)]
    if any(shape != shapes[0] for shape in shapes):
        raise DposcopeError(f"log-probabilities have shapes {shapes}; give one number per pair, four times")
    wanted = beta * (preferred - reference_preferred)
    unwanted = beta * (dispreferred - reference_dispreferred)
    return DpoTerms(-functional.logsigmoid(wanted - unwanted), wanted.detach(), unwanted.detach())


def likelihood_losses(logp: Tensor, sequence: Tensor, pairs: int, *, unlikelihood: float) -> Tensor:
    """−log π of preferred completions, plus a weight × −log(1 − π) of dispreferred ones, per token.

    The second is the unlikelihood of Welleck et al. 2020.

    Args:
        logp: log π of every token of completions, `[N]`.
        sequence: number of the completion of each: i for the preferred one of pair i, `pairs` + i for the other, `[N]`.
        pairs: how many.
        unlikelihood: the weight.

    Returns:
        One value per pair, `[pairs]`.
    """
    preferred = sequence < pairs
    losses = -mean_by(logp[preferred], sequence[preferred], pairs)
    if unlikelihood:
        # A probability that rounds to 1 would give an infinite loss.
        others = logp[~preferred].clamp(max=-1e-6)
        losses = losses - unlikelihood * mean_by(torch.log(-torch.expm1(others)), sequence[~preferred] - pairs, pairs)
    return losses


def sum_by(values: Tensor, group: Tensor, groups: int) -> Tensor:
    """Sums of `values` `[N]` over the members of each group, `[groups]`."""
    return torch.zeros(groups, dtype=values.dtype, device=values.device).index_add(0, group, values)


def mean_by(values: Tensor, group: Tensor, groups: int) -> Tensor:
    """Means of `values` `[N]` over the members of each group, `[groups]`; 0 for an empty group."""
    counts = torch.bincount(group, minlength=groups)
    return sum_by(values, group, groups) / counts.clamp(min=1)
