"""Neuron activations during generation, streamed to means and second moments."""

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import polars as pl
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from dposcope.artefacts import load_tensors, save_tensors
from dposcope.data.pandas_frames import ToPandas
from dposcope.data.short import short_repr
from dposcope.data.texts import check_texts
from dposcope.errors import DposcopeError
from dposcope.memory import halving_batches, unrepeated
from dposcope.model.batches import batches
from dposcope.model.chat.prompts import asked_how, encode_prompts
from dposcope.model.frames import Frame
from dposcope.model.generate import Progress, generate
from dposcope.model.hooks import Change, hooked, neuron_site
from dposcope.model.language_model import LanguageModel
from dposcope.protocols import check_protocol
from dposcope.reading import known


@dataclass(frozen=True)
class MeansFacts:
    """Beside the tensors of `NeuronMeans`. What is read of `about` has its type."""

    count: int
    about: Annotated[dict[str, Any], known(model=str, fingerprint=str, prompts=int)]


@dataclass(frozen=True, eq=False)
class NeuronMeans(ToPandas):
    """Moments of every neuron's activation m over recorded tokens (paper 3.2: m^pre)."""

    mean: Tensor
    """E[m], `[L, d_mlp]`, float64."""
    second_moment: Tensor
    """E[m²], `[L, d_mlp]`, float64."""
    count: int
    """Tokens recorded, equal for all neurons."""
    about: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Model, fingerprint, protocol, number of prompts and the like."""

    __repr__ = short_repr

    @property
    def variance(self) -> Tensor:
        """Population variance, `[L, d_mlp]`."""
        return (self.second_moment - self.mean.square()).clamp(min=0)

    @property
    def standard_error(self) -> Tensor:
        """Standard error of the mean, assuming independent tokens, `[L, d_mlp]`."""
        return (self.variance / max(self.count - 1, 1)).sqrt()

    def save(self, stem: str | Path) -> None:
        """Write `stem.safetensors` and `stem.json`."""
        tensors = {"mean": self.mean, "second_moment": self.second_moment}
        save_tensors(stem, "NeuronMeans", tensors, {"count": self.count, "about": dict(self.about)})

    @classmethod
    def load(cls, stem: str | Path) -> "NeuronMeans":
        """Read what `save` wrote."""
        saved = load_tensors(stem, "NeuronMeans", MeansFacts)
        return cls(saved.tensors["mean"], saved.tensors["second_moment"], saved.facts.count, saved.facts.about)

    def to_polars(self) -> pl.DataFrame:
        """One row per neuron: block, neuron, mean, second_moment."""
        blocks, width = self.mean.shape
        return pl.DataFrame(
            {
                "block": torch.arange(blocks).repeat_interleave(width).numpy(),
                "neuron": torch.arange(width).repeat(blocks).numpy(),
                "mean": self.mean.flatten().numpy(),
                "second_moment": self.second_moment.flatten().numpy(),
            }
        )


class ActivationAccumulator:
    """Sums activations over all tokens and over each fold; memory does not grow with the number of tokens.

    Folds are further rows of the same sums. Separate accumulators for ten folds would cost a tenth of the time that
    the model needs to generate.
    """

    def __init__(self, n_blocks: int, d_mlp: int, *, folds: int = 0) -> None:
        self.folds = folds
        # Row 0 is of all tokens, row 1 + k of fold k.
        self._sum = [torch.zeros(1 + folds, d_mlp, dtype=torch.float64) for _ in range(n_blocks)]
        self._squares = [torch.zeros(1 + folds, d_mlp, dtype=torch.float64) for _ in range(n_blocks)]
        self._counts = [torch.zeros(1 + folds, dtype=torch.float64) for _ in range(n_blocks)]

    def update(self, block: int, activations: Tensor, fold_of: Tensor | None = None) -> None:
        """Add tokens of one block.

        Args:
            block: its index.
            activations: `[n, d_mlp]` in any precision; summed in float64.
            fold_of: the fold of each token, `[n]`, int64 from 0; only where there are folds.
        """
        # Sums made inside torch.inference_mode could not be added to outside it.
        with torch.inference_mode(mode=False), torch.no_grad():
            rows = activations.double()
            ones = torch.ones(len(rows), dtype=torch.float64, device=rows.device)
            for sums, added in ((self._sum, rows), (self._squares, rows.square()), (self._counts, ones)):
                total = sums[block].to(rows.device)
                total[0] += added.sum(0)
                if fold_of is not None:
                    _add_by_fold(total[1:], fold_of, added)
                sums[block] = total

    def value(self, about: Mapping[str, Any] | None = None, *, fold: int | None = None) -> NeuronMeans:
        """The moments so far.

        Args:
            about: facts to store with the moments.
            fold: only this fold, from 0; None: all tokens.

        Raises:
            DposcopeError: nothing was recorded, or blocks saw different numbers of tokens.
        """
        row = 0 if fold is None else 1 + fold
        counts = {int(count[row]) for count in self._counts}
        if counts == {0}:
            raise DposcopeError("no activations recorded; run the model inside the recording context")
        if len(counts) > 1:
            raise DposcopeError("blocks recorded different numbers of tokens; a pass was cut short, record again")
        count = counts.pop()
        mean = torch.stack([total[row].cpu() for total in self._sum]) / count
        second = torch.stack([total[row].cpu() for total in self._squares]) / count
        return NeuronMeans(mean, second, count, dict(about or {}))


def _add_by_fold(sums: Tensor, fold_of: Tensor, added: Tensor) -> None:
    """Add each row of `added`, `[n, …]`, to the row of `sums`, `[K, …]`, of its fold, `[n]`."""
    if sums.device.type == "cpu":
        sums.index_add_(0, fold_of, added)
    else:
        # A matrix product is deterministic; scattered additions on a GPU are not.
        sums += one_hot(fold_of, len(sums)).T.double() @ added


@contextmanager
def recording(lm: LanguageModel) -> Generator[ActivationAccumulator]:
    """Record neuron activations of all forward passes inside the context, at the positions that predict.

    With `dposcope.generate`: the positions P−1 … that predict each written token, end-of-text
    included, nothing after it. With a plain forward pass: every real token.
    """
    accumulator = ActivationAccumulator(lm.n_blocks, lm.d_mlp)

    def observe(block: int) -> Change:
        def look(activations: Tensor, frame: Frame) -> None:
            accumulator.update(block, activations[frame.predicting()])

        return look

    with hooked(lm, [(neuron_site(lm, block), observe(block)) for block in range(lm.n_blocks)]), unrepeated():
        yield accumulator


@halving_batches
def collect_means(
    lm: LanguageModel,
    prompts: Sequence[str],
    *,
    new_tokens: int = 20,
    max_prompt_tokens: int | None = 256,
    protocol: str = "strict",
    batch_size: int = 32,
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
        batch_size: prompts at a time.
        progress: called after each batch.
    """
    accumulator = ActivationAccumulator(lm.n_blocks, lm.d_mlp)
    accumulate(
        lm,
        prompts,
        accumulator,
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
    batch_size: int,
    progress: Progress | None,
) -> None:
    """Add up every activation that the protocol counts, prompt r in fold r mod K; see `collect_means`.

    Raises:
        DposcopeError: no prompt, or an unknown protocol.
    """
    check_texts("prompts", prompts)
    check_protocol(protocol)
    if not prompts:
        raise DposcopeError("no prompt to collect means on; give at least one")
    if protocol == "reference":
        _second_pass(lm, prompts, accumulator, new_tokens, batch_size, progress)
        return

    def observe(block: int) -> Change:
        def look(activations: Tensor, frame: Frame) -> None:
            assert frame.prompt is not None  # generate declares its batch
            assert frame.prompt.rows is not None
            _add(accumulator, block, activations, frame.predicting(), frame.prompt.rows)

        return look

    with hooked(lm, [(neuron_site(lm, block), observe(block)) for block in range(lm.n_blocks)]):
        generate(
            lm,
            prompts,
            new_tokens=new_tokens,
            max_prompt_tokens=max_prompt_tokens,
            batch_size=batch_size,
            progress=progress,
        )


def _add(
    accumulator: ActivationAccumulator, block: int, activations: Tensor, counted: Tensor, rows: Sequence[int]
) -> None:
    """Add a block's activations, `[B, T, d_mlp]`, at the tokens that count, `[B, T]`; `rows`, B, says which prompts."""
    if not accumulator.folds:
        accumulator.update(block, activations[counted])
        return
    fold_of = torch.tensor(rows, device=counted.device) % accumulator.folds
    accumulator.update(block, activations[counted], fold_of.unsqueeze(1).expand_as(counted)[counted])


@torch.inference_mode()
def _second_pass(
    lm: LanguageModel,
    prompts: Sequence[str],
    accumulator: ActivationAccumulator,
    new_tokens: int,
    batch_size: int,
    progress: Progress | None,
) -> None:
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
    for batch in batches(lm, texts, batch_size=batch_size, side="right"):
        place = torch.arange(batch.ids.shape[1], device=batch.ids.device)
        ends = batch.lengths.unsqueeze(1)
        continued = (place >= ends - new_tokens) & (place < ends)

        def observe(block: int, continued: Tensor = continued, rows: Sequence[int] = batch.rows) -> Change:
            def look(activations: Tensor, _frame: Frame) -> None:
                _add(accumulator, block, activations, continued, rows)

            return look

        with hooked(lm, [(neuron_site(lm, block), observe(block)) for block in range(lm.n_blocks)]):
            lm.model.base_model(input_ids=batch.ids, attention_mask=batch.mask, use_cache=False)
