"""Gains that shift a projection by a given amount and change the outputs of the blocks as little as possible.

With δ = g − 1, p_i = v_i·u for a unit direction u, and moments of the activations:

    minimise  Σ E[m_i²] |v_i|² δ_i²   subject to  Σ δ_i E[m_i] p_i = −c,   a ≤ δ_i ≤ b,

In a mixture of experts m_i stands for r m_i, with r the router's weight, and 0 for a token that was not sent to it.
The solution is δ_i = clip(−λ E[m_i] p_i / (E[m_i²] |v_i|²), a, b), with λ set by c. It needs one pass and no training.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from dposcope.data.given.numbers import number
from dposcope.data.short import short_repr
from dposcope.directions.direction import Direction, vector_of
from dposcope.errors import DposcopeError
from dposcope.interventions.gains import Gains
from dposcope.model.checks.given import check_lm, check_tensor
from dposcope.model.language_model import LanguageModel
from dposcope.neurons.activations import NeuronMeans, check_means

_HALVINGS = 200
"""Bisection steps for λ: more than float64 has bits."""
_NEARLY_FREE = 1e-12
"""Smallest cost of a neuron, as a share of the mean cost."""


@dataclass(frozen=True, eq=False)
class LeastSquares:
    """The problem for one model, direction and set of moments; `gains` solves it for an amount."""

    pull: Tensor
    """E[m_i] p_i: a neuron's mean contribution to the projection, `[L, d_mlp]`, float64."""
    cost: Tensor
    """E[m_i²] |v_i|²: the squared change of the output for a relative change of 100 %, `[L, d_mlp]`, float64."""

    __repr__ = short_repr

    @classmethod
    @torch.no_grad()
    def of(
        cls,
        lm: LanguageModel,
        means: NeuronMeans,
        direction: Direction | Tensor,
        *,
        disturbed: NeuronMeans | None = None,
    ) -> "LeastSquares":
        """Compute contributions and costs of all neurons.

        Args:
            lm: the model, for its value vectors.
            means: moments on texts that provoke the concept.
            direction: W, or a vector `[d]`, or one per block, `[L, d]`; normalised here.
            disturbed: moments on text that should change little; None: those of `means`.

        Raises:
            DposcopeError: shapes differ, or a direction has norm zero.
        """
        check_lm(lm)
        check_means(means)
        disturbed = means if disturbed is None else disturbed
        check_means(disturbed, "disturbed")
        if not isinstance(direction, Direction):
            check_tensor("the numbers of a direction", direction)
        directions = vector_of(direction) if isinstance(direction, Direction) else direction.double().cpu()
        directions = directions.expand(lm.n_blocks, -1) if directions.ndim == 1 else directions
        if directions.shape != (lm.n_blocks, lm.d_model):
            raise DposcopeError(
                f"the direction has shape {list(directions.shape)}; this model takes [{lm.d_model}], or one per block, "
                f"[{lm.n_blocks}, {lm.d_model}]"
            )
        if not bool(directions.isfinite().all()):
            raise DposcopeError("the direction holds NaN or infinite values; make it again")
        if not bool((directions.norm(dim=1) > 0).all()):
            raise DposcopeError("the direction has norm zero; are the two classes of comments the same?")
        for moments in (means, disturbed):
            if moments.mean.shape != (lm.n_blocks, lm.d_mlp):
                raise DposcopeError(
                    f"moments of {list(moments.mean.shape)} neurons do not fit a model with "
                    f"[{lm.n_blocks}, {lm.d_mlp}]; collect them with this model"
                )
        pull, cost = torch.empty_like(means.mean), torch.empty_like(means.mean)
        for block in range(lm.n_blocks):
            vectors = lm.value_vectors(block).double()
            unit = (directions[block] / directions[block].norm()).to(vectors.device)
            pull[block] = means.written[block] * (vectors @ unit).cpu()
            cost[block] = disturbed.written_second_moment[block] * vectors.square().sum(1).cpu()
        return cls(pull, cost)

    def gains(self, share: float, *, least: float = 0.0, most: float = 2.0) -> Gains:
        """The cheapest gains for an amount.

        Args:
            share: c as a share of the largest shift that the bounds allow, in [0, 1].
            least: the smallest gain allowed; at most 1.
            most: the largest gain allowed; at least 1.

        Raises:
            DposcopeError: a bound or the share is out of range.
        """
        share, least, most = number("share", share), number("least", least), number("most", most)
        if not 0 <= share <= 1:
            raise DposcopeError(f"a share of {share} is outside [0, 1]; 1 is all that the bounds on gains allow")
        if not least <= 1 <= most:
            raise DposcopeError(f"gains between {least} and {most} cannot leave a neuron alone; the bounds hold 1")
        low, high = least - 1, most - 1
        wanted = share * self._shift(torch.where(self.pull > 0, low, high))
        # A neuron that is never active on that text would have cost 0; the smallest cost avoids a division by 0.
        smallest = max(_NEARLY_FREE * float(self.cost.mean()), torch.finfo(torch.float64).tiny)
        slope = self.pull / self.cost.clamp(min=smallest)

        def changes(multiplier: float) -> Tensor:
            return (-multiplier * slope).clamp(low, high)

        above = 1.0
        while self._shift(changes(above)) < wanted and above < torch.finfo(torch.float64).max / 4:
            above *= 2
        below = 0.0
        for _ in range(_HALVINGS):
            middle = (below + above) / 2
            below, above = (middle, above) if self._shift(changes(middle)) < wanted else (below, middle)
        return Gains(1 + changes(above if wanted > 0 else 0.0))

    def _shift(self, change: Tensor) -> float:
        return -float((change * self.pull).sum())
