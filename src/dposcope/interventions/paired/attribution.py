"""Attribution patching: the effect of every neuron's interchange at once, to first order.

An interchange gives a set of neurons the values of a tuned model (`interchange.py`); to try each neuron
would take a run each. To first order, the effect of neuron i on a number M is its change times the slope of M:

    Σ_t  ∂M/∂m_i(t) · (m_i'(t) − m_i(t))

over all positions t, with m of the base, m' of the tuned model on the same tokens, and the slope at the base. One
forward pass of each model and one backward pass give it for all neurons. M is the log-odds of toxic against harmless
continuations: the mean log-probability of the ones less that of the others.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dposcope.artefacts import load_tensors, save_tensors
from dposcope.data.short import short_repr
from dposcope.errors import DposcopeError
from dposcope.memory import halving_batches
from dposcope.model.batches import Batch, batches
from dposcope.model.frames import Frame
from dposcope.model.generate import Continuation, Progress, continuations_given
from dposcope.model.hooks import Change, hooked, neuron_sites
from dposcope.model.language_model import LanguageModel
from dposcope.model.tuned import check_models
from dposcope.processes.shared import check_progress


@dataclass(frozen=True)
class _Facts:
    """Beside its tensors."""

    log_odds: float


@dataclass(frozen=True, eq=False)
class Attribution:
    """First-order effects of all neurons."""

    effect: Tensor
    """On the log-odds of toxic against harmless continuations, nats, `[L, d_mlp]`, float64. Below 0: the neuron's
    change makes toxic text less probable."""
    log_odds: float
    """Of the base, nats per text."""

    __repr__ = short_repr

    def save(self, stem: str | Path) -> None:
        """Write `stem.safetensors` and `stem.json`."""
        save_tensors(stem, "Attribution", {"effect": self.effect}, {"log_odds": self.log_odds})

    @classmethod
    def load(cls, stem: str | Path) -> "Attribution":
        """Read what `save` wrote."""
        saved = load_tensors(stem, "Attribution", _Facts)
        return cls(saved.tensors["effect"], saved.facts.log_odds)


@halving_batches
@torch.inference_mode(mode=False)  # that of a caller would leave no gradient
def attribution(
    base: LanguageModel,
    tuned: LanguageModel,
    toxic: Sequence[Continuation],
    harmless: Sequence[Continuation],
    *,
    batch_size: int = 8,
    progress: Progress | None = None,
) -> Attribution:
    """The effect that each neuron's interchange has, to first order.

    Args:
        base: the model whose neurons would take other values.
        tuned: the model that gives them, of the same architecture; an edited one (see `edited`) as well.
        toxic: continuations with their prompts; the token ids are read as they are.
        harmless: the same.
        batch_size: texts at a time. A batch keeps the activations of both models and their gradients in memory.
        progress: called with texts read.

    Raises:
        DposcopeError: the models do not belong together, a side has no text, or a prompt or a text has no token.
    """
    check_models(base, tuned)
    check_progress(progress)
    toxic, harmless = continuations_given(toxic), continuations_given(harmless)
    if not toxic or not harmless:
        raise DposcopeError("attribution compares toxic with harmless texts; give at least one of each")
    written = [*toxic, *harmless]
    if not all(one.prompt_ids and one.ids for one in written):
        raise DposcopeError("a prompt or a continuation has no token; leave it out")
    weights = torch.tensor([1 / len(toxic)] * len(toxic) + [-1 / len(harmless)] * len(harmless), dtype=torch.float64)
    effect = torch.zeros(base.n_blocks, base.d_mlp, dtype=torch.float64)
    total, done = 0.0, 0
    frozen = [parameter for parameter in base.model.parameters() if parameter.requires_grad]
    try:
        for parameter in frozen:
            parameter.requires_grad_(False)
        for batch in batches(
            base, [[*one.prompt_ids, *one.ids] for one in written], batch_size=batch_size, side="right"
        ):
            starts = [len(written[row].prompt_ids) for row in batch.rows]
            total += _add_batch(effect, base, tuned, batch, starts, weights[batch.rows])
            done += len(batch.rows)
            if progress is not None:
                progress(done, len(written))
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)
    return Attribution(effect, total)


def _add_batch(
    effect: Tensor, base: LanguageModel, tuned: LanguageModel, batch: Batch, starts: list[int], weights: Tensor
) -> float:
    """Add a batch's effects, and give its part of the log-odds."""
    # By the names of sites.
    theirs: dict[str, Tensor] = {}
    mine: dict[str, Tensor] = {}
    slopes: dict[str, Tensor] = {}

    def keep(place: str) -> Change:
        def change(activations: Tensor, _frame: Frame) -> None:
            theirs[place] = activations.detach()

        return change

    def slope(place: str) -> Change:
        def change(activations: Tensor, _frame: Frame) -> Tensor:
            # Adding a zero changes nothing, and the zero's gradient is the slope at these activations.
            mine[place] = activations.detach()
            slopes[place] = torch.zeros_like(activations, requires_grad=True)
            return activations + slopes[place]

        return change

    sites = [(block, site) for block in range(base.n_blocks) for site in neuron_sites(base, block)]
    others = [site for block in range(base.n_blocks) for site in neuron_sites(tuned, block)]
    with torch.no_grad(), hooked(tuned, [(site, keep(site.name)) for site in others]):
        _states(tuned, batch)
    with torch.enable_grad(), hooked(base, [(site, slope(site.name)) for _, site in sites]):
        hidden = _states(base, batch)
        part, outer = _log_odds(base, batch, hidden.detach(), starts, weights)
        gradients = torch.autograd.grad(hidden, [slopes[site.name] for _, site in sites], outer)
    padding = ~batch.mask.bool().unsqueeze(-1)
    for (block, site), gradient in zip(sites, gradients, strict=True):
        change = theirs[site.name].to(gradient.device).double() - mine[site.name].double()
        here = padding.to(gradient.device)
        effect[block, site.columns] += (gradient.double() * change).masked_fill(here, 0).sum((0, 1)).cpu()
    return part


def _log_odds(
    lm: LanguageModel, batch: Batch, hidden: Tensor, starts: list[int], weights: Tensor
) -> tuple[float, Tensor]:
    """A batch's part of the log-odds, and its slope by the final states `[B, T, d]`: logits of one text at a time."""
    total, slope = 0.0, torch.zeros_like(hidden)
    for place, (start, weight) in enumerate(zip(starts, weights.tolist(), strict=True)):
        span = slice(start - 1, int(batch.mask[place].sum()) - 1)
        states = hidden[place, span].requires_grad_()
        logits = lm.unembed(states)
        wide = logits if logits.dtype == torch.float64 else logits.float()
        chosen = batch.ids[place, span.start + 1 : span.stop + 1].unsqueeze(1).to(wide.device)
        own = weight * wide.log_softmax(-1).gather(1, chosen).double().sum()
        (slope[place, span],) = torch.autograd.grad(own, states)
        total += float(own.detach())
    return total, slope


def _states(lm: LanguageModel, batch: Batch) -> Tensor:
    return lm.model.base_model(
        input_ids=batch.ids.to(lm.device), attention_mask=batch.mask.to(lm.device), use_cache=False
    ).last_hidden_state
