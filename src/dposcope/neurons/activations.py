"""Neuron activations during generation, streamed to means and second moments."""

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import polars as pl
import torch
from torch import Tensor

from dposcope.artefacts import load_tensors, save_tensors
from dposcope.data.given.kinds import check_kind
from dposcope.data.given.numbers import whole
from dposcope.data.pandas_frames import ToPandas
from dposcope.data.short import short_repr
from dposcope.data.texts import listed
from dposcope.errors import DposcopeError
from dposcope.memory import halving_batches, unrepeated
from dposcope.model.batches import Batch, batches, rows_to_write
from dposcope.model.chat.prompts import asked_how, encode_prompts
from dposcope.model.checks.given import check_lm
from dposcope.model.frames import Frame
from dposcope.model.generate import Progress, check_room, generate, write_batch
from dposcope.model.hooks import Change, Site, hooked, neuron_sites
from dposcope.model.language_model import LanguageModel
from dposcope.model.mixtures.routing import Routing
from dposcope.neurons.mixtures.means import RoutedMeans
from dposcope.neurons.mixtures.sums import ALL, RoutedSums, add_rows
from dposcope.processes.shared import counting, summed, unshared
from dposcope.protocols import check_protocol
from dposcope.reading import known


@dataclass(frozen=True)
class MeansFacts:
    """Beside the tensors of `NeuronMeans`. What is read of `about` has its type."""

    count: int
    about: Annotated[dict[str, Any], known(model=str, fingerprint=str, prompts=int)]
    experts: int | None = None
    """Per block of a mixture."""


@dataclass(frozen=True, eq=False)
class NeuronMeans(ToPandas):
    """Moments of every neuron's activation m over recorded tokens (paper 3.2: m^pre)."""

    mean: Tensor
    """E[m], `[L, d_mlp]`, float64; in a mixture over the tokens that were sent to the neuron's expert."""
    second_moment: Tensor
    """E[m²], `[L, d_mlp]`, float64, over the same tokens."""
    count: int
    """Tokens recorded, equal for all neurons."""
    about: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Model, fingerprint, protocol, number of prompts and the like."""
    routed: RoutedMeans | None = field(default=None, repr=False)
    """What a mixture of experts has beside; None for any other model."""
    here: Tensor | None = field(default=None, repr=False)
    """Which columns are neurons, `[L, d_mlp]`, bool, where blocks differ; others hold 0. None: all are."""

    __repr__ = short_repr

    @property
    def written(self) -> Tensor:
        """What multiplies the value vector, averaged over all tokens, `[L, d_mlp]`: E[m], or E[r m] in a mixture."""
        return self.mean if self.routed is None else self.routed.written

    @property
    def written_second_moment(self) -> Tensor:
        """E[m²], or E[(r m)²] in a mixture, over all tokens, `[L, d_mlp]`."""
        return self.second_moment if self.routed is None else self.routed.written_second_moment

    @property
    def written_standard_error(self) -> Tensor:
        """Standard error of `written`, assuming independent tokens, `[L, d_mlp]`."""
        variance = (self.written_second_moment - self.written.square()).clamp(min=0)
        return (variance / max(self.count - 1, 1)).sqrt()

    @property
    def variance(self) -> Tensor:
        """Population variance, `[L, d_mlp]`."""
        return (self.second_moment - self.mean.square()).clamp(min=0)

    @property
    def standard_error(self) -> Tensor:
        """Standard error of the mean, assuming independent tokens, `[L, d_mlp]`."""
        if self.routed is not None:
            return (self.variance / (self.routed.counts - 1).clamp(min=1)).sqrt()
        return (self.variance / max(self.count - 1, 1)).sqrt()

    def save(self, stem: str | Path) -> None:
        """Write `stem.safetensors` and `stem.json`."""
        tensors = self.tensors()
        save_tensors(stem, "NeuronMeans", tensors, self.facts())

    @classmethod
    def load(cls, stem: str | Path) -> "NeuronMeans":
        """Read what `save` wrote."""
        saved = load_tensors(stem, "NeuronMeans", MeansFacts)
        return cls.of(saved.tensors, saved.facts)

    def facts(self) -> dict[str, Any]:
        """What stands beside them."""
        experts = {} if self.routed is None else {"experts": self.routed.experts}
        return {"count": self.count, "about": dict(self.about), **experts}

    def tensors(self) -> dict[str, Tensor]:
        """All that is stored, by the names that files use."""
        routed = {} if self.routed is None else self.routed.tensors()
        here = {} if self.here is None else {"here": self.here}
        return {"mean": self.mean, "second_moment": self.second_moment, **routed, **here}

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], facts: MeansFacts) -> "NeuronMeans":
        """From what `tensors` gave."""
        return cls(
            tensors["mean"],
            tensors["second_moment"],
            facts.count,
            facts.about,
            RoutedMeans.of(tensors, facts.experts),
            tensors.get("here"),
        )

    def to_polars(self) -> pl.DataFrame:
        """One row per neuron: block, neuron, mean, second_moment; of a mixture also expert, count and written."""
        blocks, width = self.mean.shape
        routed = {} if self.routed is None else self.routed.columns()
        rows = pl.DataFrame(
            {
                "block": torch.arange(blocks).repeat_interleave(width).numpy(),
                "neuron": torch.arange(width).repeat(blocks).numpy(),
                "mean": self.mean.flatten().numpy(),
                "second_moment": self.second_moment.flatten().numpy(),
                **routed,
            }
        )
        return rows if self.here is None else rows.filter(pl.Series(self.here.flatten().numpy()))


def check_means(given: object, name: str = "means") -> None:
    """Refuse what is no `NeuronMeans`, such as a tensor.

    Args:
        given: what was given for it.
        name: of the argument, for the message.

    Raises:
        DposcopeError: it is none.
    """
    check_kind(name, given, NeuronMeans, "the NeuronMeans that collect_means returns")


class ActivationAccumulator:
    """Sums activations over all tokens and over each fold; memory does not grow with the number of tokens.

    Folds are further rows of the same sums. Separate accumulators for ten folds would cost a tenth of the time that
    the model needs to generate.
    """

    # What torch.inference_mode makes could not be added to in `update`, which leaves it.
    @torch.inference_mode(mode=False)
    def __init__(
        self, n_blocks: int, d_mlp: int, *, folds: int = 0, experts: int | None = None, here: Tensor | None = None
    ) -> None:
        if whole("n_blocks", n_blocks) < 0 or whole("d_mlp", d_mlp) < 0 or whole("folds", folds) < 0:
            raise DposcopeError(f"there are no sums of {n_blocks} blocks, {d_mlp} neurons and {folds} folds")
        self.folds = folds
        self._here = here
        self._routed = None if experts is None else RoutedSums(n_blocks, d_mlp, folds=folds, experts=experts)
        # Row 0 is of all tokens, row 1 + k of fold k.
        self._sum = [torch.zeros(1 + folds, d_mlp, dtype=torch.float64) for _ in range(n_blocks)]
        self._squares = [torch.zeros(1 + folds, d_mlp, dtype=torch.float64) for _ in range(n_blocks)]
        self._counts = [torch.zeros(1 + folds, 1, dtype=torch.float64) for _ in range(n_blocks)]

    @classmethod
    def of(cls, lm: LanguageModel, *, folds: int = 0) -> "ActivationAccumulator":
        """Of a model's neurons."""
        check_lm(lm)
        experts = lm.experts
        count = None if experts is None else experts.count
        return cls(lm.n_blocks, lm.d_mlp, folds=folds, experts=count, here=lm.here)

    def update(
        self,
        block: int,
        activations: Tensor,
        fold_of: Tensor | None = None,
        routing: Routing | None = None,
        columns: slice = ALL,
    ) -> None:
        """Add tokens of one block.

        Args:
            block: its index.
            activations: `[n, columns]` in any precision; summed in float64.
            fold_of: the fold of each token, `[n]`, int64 from 0; only where there are folds.
            routing: of these tokens; only of a mixture.
            columns: which neurons these are, see `neuron_sites`; those from column 0 on come in every pass.
        """
        # Sums made inside torch.inference_mode could not be added to outside it.
        with torch.inference_mode(mode=False), torch.no_grad():
            rows = activations.double()
            for sums, added in ((self._sum, rows), (self._squares, rows.square())):
                sums[block] = add_rows(sums[block], columns, fold_of, added)
            if not columns.start:  # tokens count once, in the first columns
                ones = torch.ones(len(rows), 1, dtype=torch.float64, device=rows.device)
                self._counts[block] = add_rows(self._counts[block], ALL, fold_of, ones)
            if self._routed is not None:
                assert routing is not None  # the hooks of a mixture give it
                self._routed.update(block, rows, routing, fold_of, columns)

    def __getstate__(self) -> dict[str, Any]:
        """As another process gets it, which has a GPU of its own: on the CPU."""
        sums = {name: [total.cpu() for total in vars(self)[name]] for name in ("_sum", "_squares", "_counts")}
        return vars(self) | sums

    def value(self, about: Mapping[str, Any] | None = None, *, fold: int | None = None) -> NeuronMeans:
        """The moments so far.

        Args:
            about: facts to store with the moments.
            fold: only this fold, from 0; None: all tokens.

        Raises:
            DposcopeError: nothing was recorded, there is no such fold, or blocks saw different numbers of tokens.
        """
        if fold is not None and not 0 <= whole("fold", fold) < self.folds:
            raise DposcopeError(f"there is no fold {fold} among {self.folds}; they are counted from 0")
        row = 0 if fold is None else 1 + fold
        with_neurons = [True] * len(self._counts) if self._here is None else self._here.any(1).tolist()
        counts = {int(count[row]) for count, some in zip(self._counts, with_neurons, strict=True) if some}
        if counts == {0}:
            raise DposcopeError("no activations recorded; run the model inside the recording context")
        if len(counts) > 1:
            raise DposcopeError("blocks recorded different numbers of tokens; a pass was cut short, record again")
        count = counts.pop()
        totals, squares = (torch.stack([total[row].cpu() for total in sums]) for sums in (self._sum, self._squares))
        facts = dict(about or {})
        if self._routed is None:
            return NeuronMeans(totals / count, squares / count, count, facts, here=self._here)
        routed = self._routed.value(row, count)
        if self._here is not None:
            routed = replace(routed, counts=routed.counts.where(self._here, 0))
        sent = routed.counts.clamp(min=1)
        return NeuronMeans(totals / sent, squares / sent, count, facts, routed, self._here)


class _Kept:
    """What `ActivationAccumulator.update` is to be given later."""

    def __init__(self, folds: int) -> None:
        self.folds = folds
        self._updates: list[tuple[int, Tensor, Tensor | None, Routing | None, slice]] = []

    def update(
        self,
        block: int,
        activations: Tensor,
        fold_of: Tensor | None = None,
        routing: Routing | None = None,
        columns: slice = ALL,
    ) -> None:
        """Keep it."""
        self._updates.append((block, activations, fold_of, routing, columns))

    def add_to(self, sums: ActivationAccumulator) -> None:
        """Add it all, as it came."""
        for one in self._updates:
            sums.update(*one)


@contextmanager
def recording(lm: LanguageModel) -> Generator[ActivationAccumulator]:
    """Record neuron activations of all forward passes inside the context, at the positions that predict.

    With `dposcope.generate`: the positions P−1 … that predict each written token, end-of-text
    included, nothing after it. With a plain forward pass: every real token.
    """
    accumulator = ActivationAccumulator.of(lm)

    def observe(block: int, columns: slice) -> Change:
        def look(activations: Tensor, frame: Frame) -> None:
            counted = frame.predicting()
            accumulator.update(block, activations[counted], routing=_routing(frame, counted), columns=columns)

        return look

    with hooked(lm, _everywhere(lm, observe)), unrepeated(), unshared():
        yield accumulator


def _everywhere(lm: LanguageModel, observe: Callable[[int, slice], Change]) -> list[tuple[Site, Change]]:
    """Observers of all neurons, each of some columns of a block."""
    return [(site, observe(block, site.columns)) for block in range(lm.n_blocks) for site in neuron_sites(lm, block)]


@halving_batches
def collect_means(
    lm: LanguageModel,
    prompts: Sequence[str],
    *,
    new_tokens: int = 20,
    max_prompt_tokens: int | None = 256,
    protocol: str = "strict",
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> NeuronMeans:
    """Mean activations over a model's own greedy continuations (paper 3.2).

    Strict: collected while generating, in the same pass, at the positions that predict. Reference:
    a second pass over uncut prompt and continuation, positions P … P+19, ended rows going on.

    Args:
        lm: the model.
        prompts: what it continues (paper: 1,199 challenge prompts).
        new_tokens: tokens per continuation (paper: 20).
        max_prompt_tokens: prompts are cut to their end (strict).
        protocol: "strict" or "reference".
        batch_size: prompts at a time; None: up to 128, see `rows_to_write`.
        progress: called after each batch.
    """
    check_lm(lm)
    prompts = listed("prompts", prompts, conversations=True)
    accumulator = accumulate(
        lm,
        prompts,
        ActivationAccumulator.of(lm),
        new_tokens=new_tokens,
        max_prompt_tokens=max_prompt_tokens,
        protocol=protocol,
        batch_size=batch_size,
        progress=progress,
    )
    return accumulator.value(collected_how(lm, len(prompts), new_tokens=new_tokens, protocol=protocol))


def collected_how(lm: LanguageModel, prompts: int, *, new_tokens: int, protocol: str) -> dict[str, Any]:
    """Facts to store with means."""
    return {
        "model": lm.name,
        "fingerprint": lm.fingerprint,
        "dtype": str(lm.dtype).removeprefix("torch."),
        "protocol": protocol,
        "prompts": prompts,
        "new_tokens": new_tokens,
        **asked_how(lm),
    }


def accumulate(
    lm: LanguageModel,
    prompts: Sequence[str],
    accumulator: ActivationAccumulator,
    *,
    new_tokens: int,
    max_prompt_tokens: int | None,
    protocol: str,
    batch_size: int | None,
    progress: Progress | None,
) -> ActivationAccumulator:
    """Add up every activation that the protocol counts, prompt r in fold r mod K; see `collect_means`.

    Returns:
        What holds the sums: the accumulator, or one that takes its place where several processes share the work.

    Raises:
        DposcopeError: no prompt, or an unknown protocol.
    """
    check_protocol(protocol)
    if not prompts:
        raise DposcopeError("no prompt to collect means on; give at least one")
    if protocol == "reference":
        return _second_pass(lm, prompts, accumulator, new_tokens, batch_size, progress)
    encoded = encode_prompts(lm, prompts, max_tokens=max_prompt_tokens)
    check_room(lm, encoded, new_tokens)

    def write(batch: Batch, sums: ActivationAccumulator | _Kept) -> None:
        def observe(block: int, columns: slice) -> Change:
            def look(activations: Tensor, frame: Frame) -> None:
                _add(sums, block, columns, activations, frame, frame.predicting(), batch.rows)

            return look

        with hooked(lm, _everywhere(lm, observe)):
            write_batch(lm, batch, new_tokens=new_tokens)

    size = rows_to_write(lm, encoded, new_tokens, batch_size)
    planned = batches(lm, encoded, batch_size=size, side="left")
    done = counting(progress, len(prompts), Batch.count)
    return summed(planned, write, accumulator, keep=lambda: _Kept(accumulator.folds), done=done)


def _add(
    accumulator: ActivationAccumulator | _Kept,
    block: int,
    columns: slice,
    activations: Tensor,
    frame: Frame,
    counted: Tensor,
    rows: Sequence[int],
) -> None:
    """Add some of a block's activations, `[B, T, columns]`, at the tokens that count, `[B, T]`; `rows`, B, says which
    prompts."""
    routing = _routing(frame, counted)
    if not accumulator.folds:
        accumulator.update(block, activations[counted], routing=routing, columns=columns)
        return
    fold_of = torch.tensor(rows, device=counted.device) % accumulator.folds
    of_token = fold_of.unsqueeze(1).expand_as(counted)[counted]
    accumulator.update(block, activations[counted], of_token, routing, columns)


def _routing(frame: Frame, counted: Tensor) -> Routing | None:
    return None if frame.routing is None else frame.routing.at(counted)


@torch.inference_mode()
def _second_pass(
    lm: LanguageModel,
    prompts: Sequence[str],
    accumulator: ActivationAccumulator,
    new_tokens: int,
    batch_size: int | None,
    progress: Progress | None,
) -> ActivationAccumulator:
    """As in the published code: read prompt and continuation again, and count all `new_tokens` positions."""
    encoded = encode_prompts(lm, prompts)
    written = generate(
        lm,
        prompts,
        new_tokens=new_tokens,
        max_prompt_tokens=None,
        batch_size=batch_size,
        stop_at_end=False,
        progress=progress,
    )
    texts = [prompt + continuation.ids for prompt, continuation in zip(encoded, written, strict=True)]

    # Padding on the right: positions are then right for models with absolute ones, too (the published code pads on the
    # left and gives none, so GPT-2 counts padding as places).
    def read(batch: Batch, sums: ActivationAccumulator | _Kept) -> None:
        place = torch.arange(batch.ids.shape[1], device=batch.ids.device)
        ends = batch.lengths.unsqueeze(1)
        continued = (place >= ends - new_tokens) & (place < ends)

        def observe(block: int, columns: slice) -> Change:
            def look(activations: Tensor, frame: Frame) -> None:
                _add(sums, block, columns, activations, frame, continued.to(activations.device), batch.rows)

            return look

        with hooked(lm, _everywhere(lm, observe)):
            lm.model.base_model(input_ids=batch.ids, attention_mask=batch.mask, use_cache=False)

    planned = batches(lm, texts, batch_size=batch_size, side="right")
    return summed(planned, read, accumulator, keep=lambda: _Kept(accumulator.folds))
