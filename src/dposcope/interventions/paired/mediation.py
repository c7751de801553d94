"""How much of a neuron's change is its own, and how much comes from before it.

On one text, a neuron's activation differs between two models for two reasons: the MLP's weights before it (gate and up
projection) differ, and what the MLP reads differs, because everything before it does. With m(weights, input):

    own    = m(tuned, base's input) − m(base, base's input)
    before = m(base, tuned's input) − m(base, base's input)
    change = m(tuned, tuned's input) − m(base, base's input)

Both are compared with the change over all positions: Σ own · change / Σ change² is the neuron's own share. What is left
of 1 after both shares is their interaction.
"""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor

from dposcope.artefacts import NoFacts, load_tensors, save_tensors
from dposcope.data.short import short_repr
from dposcope.errors import DposcopeError
from dposcope.memory import halving_batches
from dposcope.model.batches import Batch, batches
from dposcope.model.frames import Frame
from dposcope.model.generate import Continuation, Progress, check_written
from dposcope.model.hooks import Change, Site, hooked, mlp_modules, neuron_sites, watching
from dposcope.model.language_model import LanguageModel
from dposcope.model.tuned import check_models


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
            DposcopeError: none of them changes.
        """
        chosen = torch.ones_like(self.change, dtype=torch.bool) if mask is None else mask
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
        DposcopeError: the models do not belong together, there is no text, or the architecture has no module that holds
            its MLP.
    """
    check_models(base, tuned)
    check_written(written)
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
    for block in mine.inputs:
        alone = (
            _activations(tuned, block, mine.inputs[block], batch.ids),
            _activations(base, block, theirs.inputs[block], batch.ids),
        )
        for part, activations in enumerate(mine.activations[block]):
            columns, start = activations.columns, double(activations.values)
            change = double(theirs.activations[block][part].values) - start
            own, before = (double(one[columns.start]) - start for one in alone)
            sums.own[block, columns] += (own * change).sum((0, 1))
            sums.before[block, columns] += (before * change).sum((0, 1))
            sums.change[block, columns] += change.square().sum((0, 1))


@dataclass(frozen=True, eq=False)
class _Neurons:
    """Some columns of a block's neurons."""

    columns: slice
    values: Tensor
    """`[B, T, columns]`."""


@dataclass(frozen=True, eq=False)
class _Pass:
    """What each block's MLP read, `[B, T, d]`, and what its neurons were, by block."""

    inputs: dict[int, Tensor]
    activations: dict[int, list[_Neurons]]
    """In the order of columns."""


def _run(lm: LanguageModel, batch: Batch) -> _Pass:
    held: dict[str, Tensor] = {}

    def keep(place: str) -> Change:
        def change(tensor: Tensor, _frame: Frame) -> None:
            held[place] = tensor

        return change

    reads = {
        block: Site(f"mlp-input.{block}", modules[0], "input")
        for block in range(lm.n_blocks)
        if (modules := mlp_modules(lm, block))
    }
    neurons = [neuron_sites(lm, block) for block in range(lm.n_blocks)]
    with hooked(lm, [(site, keep(site.name)) for site in chain(reads.values(), *neurons)]):
        lm.model.base_model(input_ids=batch.ids.to(lm.device), attention_mask=batch.mask.to(lm.device), use_cache=False)
    return _Pass(
        {block: held[site.name] for block, site in reads.items()},
        {block: [_Neurons(site.columns, held[site.name]) for site in sites] for block, sites in enumerate(neurons)},
    )


def _activations(lm: LanguageModel, block: int, reads: Tensor, ids: Tensor) -> dict[int, Tensor]:
    """The neurons of a block for an input of its MLP, after the hooks that are on the model, by their first column."""
    held: dict[int, Tensor] = {}

    def seen(columns: slice, values: Tensor) -> None:
        held[columns.start] = values.reshape(*reads.shape[:-1], -1)

    with watching(lm, block, seen):
        reads = reads.to(lm.device_of_block(block), lm.dtype)
        for mlp in mlp_modules(lm, block):
            # BLOOM's and MPT's add the residual stream to what they write, which does not reach the neurons; some of
            # DeepSeek V4's choose experts by tokens.
            names = inspect.signature(mlp.forward).parameters
            mlp(*(ids.to(reads.device) if name == "input_ids" else reads for name in names))
    return held
