"""One vector per text: the residual stream at the end of a block, averaged over tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor

from dposcope.artefacts import load_tensors, save_tensors
from dposcope.data.given.numbers import whole
from dposcope.data.short import short_repr
from dposcope.data.texts import listed
from dposcope.errors import DposcopeError
from dposcope.memory import halving_batches
from dposcope.model.batches import Batch, batches, encode
from dposcope.model.checks.given import check_lm
from dposcope.model.frames import Frame
from dposcope.model.generate import Progress
from dposcope.model.hooks import hooked, residual_site
from dposcope.model.language_model import LanguageModel
from dposcope.processes.shared import counting, shared
from dposcope.protocols import Protocol, check_protocol


@dataclass(frozen=True)
class _Facts:
    """Beside its tensors."""

    residual_norm: float


@dataclass(frozen=True, eq=False)
class Features:
    """Averaged residual streams of texts."""

    vectors: Tensor
    """`[texts, d]`, float64, on the CPU."""
    residual_norm: float
    """Mean |x| over these tokens: the scale of the residual stream at this block."""

    __repr__ = short_repr

    def save(self, stem: str | Path) -> None:
        """Write `stem.safetensors` and `stem.json`."""
        save_tensors(stem, "Features", {"vectors": self.vectors}, {"residual_norm": self.residual_norm})

    @classmethod
    def load(cls, stem: str | Path) -> "Features":
        """Read what `save` wrote."""
        saved = load_tensors(stem, "Features", _Facts)
        return cls(saved.tensors["vectors"], saved.facts.residual_norm)


@dataclass(frozen=True, eq=False)
class _Read:
    """What was read of one text."""

    row: int
    mean: Tensor
    """`[d]`, float64, on the CPU."""
    norms: Tensor
    """Sum of |x|, and number of tokens."""


class _BlockReached(Exception):
    """Ends a forward pass after the block that is read."""


@halving_batches
@torch.inference_mode()
def residual_features(
    lm: LanguageModel,
    texts: Sequence[str],
    *,
    block: int = -1,
    protocol: Protocol = "strict",
    max_tokens: int = 128,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> Features:
    """Mean residual stream of each text (paper 3.2).

    Strict protocol: the stream at the end of `block`, before the final norm, averaged over real tokens without special
    tokens. Reference protocol: `hidden_states[-1]`, after the final norm, with every text left-padded to `max_tokens`
    by the end-of-text token; the mean includes padding and the beginning-of-text token.

    There is one forward pass per batch of texts of similar length. Blocks after `block` are not run.

    Args:
        lm: the model.
        texts: comments.
        block: 0 … L−1, or −1 for the last (paper). Reference: only the last.
        protocol: see above.
        max_tokens: longer texts are cut; their start is kept.
        batch_size: texts at a time.
        progress: called after each batch.

    Raises:
        DposcopeError: a text has only special tokens, or there is no such block.
    """
    check_lm(lm)
    texts = listed("texts", texts)
    check_protocol(protocol)
    max_tokens = min(whole("max_tokens", max_tokens), lm.context_length)
    check_block(lm, block, protocol)
    encoded = encode(lm, texts, max_tokens=max_tokens, keep="start")
    special = torch.tensor(sorted(lm.special_ids), dtype=torch.long, device=lm.device)
    with torch.inference_mode(mode=False):  # the caller may differentiate with them
        vectors = torch.zeros(len(texts), lm.d_model, dtype=torch.float64)
    norms = torch.zeros(2, dtype=torch.float64)  # sum of |x|, number of tokens

    def read(batch: Batch) -> list[_Read]:
        if protocol == "strict":
            stream = _stream(lm, batch, block % lm.n_blocks).double()
            counted = (batch.mask == 1) & ~torch.isin(batch.ids, special)
        else:
            padded = _pad_left(lm, batch, max_tokens)
            stream = lm.model.base_model(
                input_ids=padded.ids, attention_mask=padded.mask, use_cache=False
            ).last_hidden_state.double()
            counted = torch.ones_like(padded.mask, dtype=torch.bool)
        counted = counted.to(stream.device)
        found: list[_Read] = []
        for place, row in enumerate(batch.rows):
            tokens = stream[place][counted[place]]
            if len(tokens) == 0:
                raise DposcopeError(f"text {row + 1} has only special tokens; remove empty texts")
            mean = tokens.mean(0).cpu()
            if not mean.isfinite().all():
                raise DposcopeError(
                    f"text {row + 1} gives an infinite residual stream in {str(lm.dtype).removeprefix('torch.')}; "
                    "run the model in bfloat16 or float32"
                )
            norm = torch.tensor([float(tokens.norm(dim=1).sum()), len(tokens)], dtype=torch.float64)
            found.append(_Read(row, mean, norm))
        return found

    side = "right" if protocol == "strict" else "left"
    planned = batches(lm, encoded, batch_size=batch_size, side=side)
    for one in chain.from_iterable(
        shared(planned, read, done=counting(progress, len(texts), lambda batch: len(batch.rows)))
    ):
        vectors[one.row] = one.mean
        norms += one.norms
    return Features(vectors, float(norms[0] / norms[1].clamp(min=1)))


def check_features(given: object, texts: int) -> None:
    """Refuse features that are none, or not of so many texts.

    Raises:
        DposcopeError: it is so.
    """
    if not isinstance(given, Features):
        raise DposcopeError(f"features are a {type(given).__name__}; give what residual_features returns")
    if len(given.vectors) != texts:
        raise DposcopeError(f"features of {len(given.vectors)} texts do not fit {texts}; make them of the same texts")


def check_block(lm: LanguageModel, block: int, protocol: Protocol) -> None:
    """Refuse a block at whose end no direction can be read.

    Raises:
        DposcopeError: the model has no such block, or the protocol reads the last one only.
    """
    if not -lm.n_blocks <= whole("block", block) < lm.n_blocks:
        raise DposcopeError(
            f"there is no block {block} in a model of {lm.n_blocks} blocks; give 0 to {lm.n_blocks - 1}, or -1 "
            f"for the last"
        )
    if protocol == "reference" and block % lm.n_blocks != lm.n_blocks - 1:
        raise DposcopeError("the reference protocol reads the last block only; use block=-1, or protocol='strict'")


def _stream(lm: LanguageModel, batch: Batch, block: int) -> Tensor:
    caught: list[Tensor] = []

    def catch(stream: Tensor, _frame: Frame) -> None:
        caught.append(stream)
        raise _BlockReached

    try:
        with hooked(lm, [(residual_site(lm, block), catch)]):
            lm.model.base_model(input_ids=batch.ids, attention_mask=batch.mask, use_cache=False)
    except _BlockReached:
        pass
    return caught[0]


def _pad_left(lm: LanguageModel, batch: Batch, width: int) -> Batch:
    """The same texts, padded by the end-of-text token, as the published code does whatever the tokenizer's padding."""
    missing = width - batch.ids.shape[1]
    pad = torch.nn.functional.pad
    mask = pad(batch.mask, (missing, 0))
    ids = pad(batch.ids, (missing, 0)).masked_fill(mask == 0, _end_id(lm))
    return Batch(ids, mask, batch.rows)


def _end_id(lm: LanguageModel) -> int:
    end = lm.tokenizer.eos_token_id
    table: Tensor = lm.model.get_input_embeddings().weight  # pyright: ignore[reportAssignmentType]
    return end if isinstance(end, int) and end < len(table) else lm.pad_id
