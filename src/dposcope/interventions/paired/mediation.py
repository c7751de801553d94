"""How much of a neuron's change is its own, and how much comes from before it.

On one text, a neuron's activation differs between two models for two reasons: the MLP's weights before it (gate and up
projection) differ, and what the MLP reads differs, because everything before it does. With m(weights, input):

    own    = m(tuned, base's input) − m(base, base's input)
    before = m(base, tuned's input) − m(base, base's input)
    change = m(tuned, tuned's input) − m(base, base's input)

Both are compared with the change over all positions: Σ own · change / Σ change² is the neuron's own share. What is left
of 1 after both shares is their interaction.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dposcope.artefacts import NoFacts, load_tensors, save_tensors
from dposcope.data.short import short_repr
from dposcope.errors import DposcopeError
from dposcope.memory import halving_batches
from dposcope.model.batches import Batch, batches
from dposcope.model.frames import Frame
from dposcope.model.generate import Continuation, Progress, continuations_given
from dposcope.model.hooks import Change, Site, hooked, mlp_input_sites, neuron_sites
from dposcope.model.language_model import LanguageModel
from dposcope.model.tuned import check_models
from dposcope.neurons.sets import NeuronSet
from dposcope.processes.shared import check_progress


@dataclass(frozen=True, eq=False)
class Mediation:
    """Sums over all positions of all texts, `[L, d_mlp]`, float64."""

    own: Tensor
    """Σ own · change."""
    before: Tensor
    """Σ before · change."""
    change: Tensor
    """Σ change²."""

    __repr__ = short_repr

    def save(self, stem: str | Path) -> None:
        """Write `stem.safetensors` and `stem.json`."""
        save_tensors(stem, "Mediation", {"own": self.own, "before": self.before, "change": self.change}, {})

    @classmethod
    def load(cls, stem: str | Path) -> "Mediation":
        """Read what `save` wrote."""
        tensors = load_tensors(stem, "Mediation", NoFacts).tensors
        return cls(tensors["own"], tensors["before"], tensors["change"])

    def shares(self, mask: Tensor | None = None) -> "MediationShares":
        """Of all neurons together, each weighted by the size of its change.

        Args:
            mask: `[L, d_mlp]`, bool: of these neurons only.

        Raises:
            DposcopeError: none of them changes, or the mask does not fit.
        """
        chosen = torch.ones_like(self.change, dtype=torch.bool) if mask is None else NeuronSet(mask).mask
        if chosen.shape != self.change.shape:
            raise DposcopeError(
                f"a mask of {list(chosen.shape)} neurons does not fit a mediation of {list(self.change.shape)}"
            )
        total = float(self.change[chosen].sum())
        if total <= 0:
            raise DposcopeError("no neuron changes, so there is nothing to divide; give two models that differ")
        own, before = (float(part[chosen].sum()) / total for part in (self.own, self.before))
        return MediationShares(own, before, 1 - own - before)

    @property
    def by_block(self) -> list["MediationShares | None"]:
        """Of each block's neurons; None for a block without a change."""
        rows = torch.zeros_like(self.change, dtype=torch.bool)
        found: list[MediationShares | None] = []
        for block in range(len(rows)):
            mask = rows.clone()
            mask[block] = True
            found.append(self.shares(mask) if float(self.change[block].sum()) > 0 else None)
        return found


@dataclass(frozen=True)
class MediationShares:
    """Parts of a change; together 1."""

    own: float
    before: float
    interaction: float


@halving_batches
@torch.no_grad()
def mediation(
    base: LanguageModel,
    tuned: LanguageModel,
    written: Sequence[Continuation],
    *,
    batch_size: int = 8,
    progress: Progress | None = None,
) -> Mediation:
    """Divide every neuron's change into its own and what comes from before it.

    Args:
        base: the model before tuning.
        tuned: the model after it, of the same architecture; an edited one (see `edited`) as well.
        written: texts with their prompts, which both models read.
        batch_size: texts at a time.
        progress: called with texts read.

    Raises:
        DposcopeError: the models do not belong together, or there is no text.
    """
    check_models(base, tuned)
    check_progress(progress)
    written = continuations_given(written)
    if not written:
        raise DposcopeError("there is no text to read; give at least one")
    sums = Mediation(*(torch.zeros(base.n_blocks, base.d_mlp, dtype=torch.float64) for _ in range(3)))
    rows, done = [[*one.prompt_ids, *one.ids] for one in written], 0
    for batch in batches(base, rows, batch_size=batch_size, side="right"):
        _add_batch(sums, base, tuned, batch)
        done += len(batch.rows)
        if progress is not None:
            progress(done, len(rows))
    return sums


def _add_batch(sums: Mediation, base: LanguageModel, tuned: LanguageModel, batch: Batch) -> None:
    real = batch.mask.bool().unsqueeze(-1).cpu()

    def double(activations: Tensor) -> Tensor:
        return activations.detach().cpu().double().masked_fill(~real, 0)

    mine, theirs = _run(base, batch), _run(tuned, batch)
    # By those weights, for what the other model's MLPs read.
    own, before = _run(tuned, batch, mine.inputs).neurons, _run(base, batch, theirs.inputs).neurons
    for place, one in mine.neurons.items():
        block, columns = place
        start = double(one)
        change = double(theirs.neurons[place]) - start
        here = block, slice(columns, columns + one.shape[-1])
        sums.own[here] += ((double(own[place]) - start) * change).sum((0, 1))
        sums.before[here] += ((double(before[place]) - start) * change).sum((0, 1))
        sums.change[here] += change.square().sum((0, 1))


@dataclass(frozen=True, eq=False)
class _Pass:
    """What each block's MLP read, by the name of its site, and what its neurons were, by block and first column."""

    inputs: dict[str, Tensor]
    neurons: dict[tuple[int, int], Tensor]
    """Each `[B, T, columns]`."""


def _run(lm: LanguageModel, batch: Batch, inputs: Mapping[str, Tensor] | None = None) -> _Pass:
    """Read a batch; what MLPs read is replaced where `inputs` are given."""
    found, changes = _Pass({}, {}), list[tuple[Site, Change]]()

    def at_input(name: str) -> Change:
        def change(tensor: Tensor, _frame: Frame) -> Tensor | None:
            found.inputs[name] = tensor
            return None if inputs is None else inputs[name].to(tensor.device, tensor.dtype)

        return change

    def at_neurons(place: tuple[int, int]) -> Change:
        def change(tensor: Tensor, _frame: Frame) -> None:
            found.neurons[place] = tensor

        return change

    for block in range(lm.n_blocks):
        changes += [(site, at_input(site.name)) for site in mlp_input_sites(lm, block)]
        changes += [(site, at_neurons((block, site.columns.start))) for site in neuron_sites(lm, block)]
    with hooked(lm, changes):
        lm.model.base_model(input_ids=batch.ids.to(lm.device), attention_mask=batch.mask.to(lm.device), use_cache=False)
    return found
