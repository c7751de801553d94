"""Run a model on a packed batch, and find out whether a row of it may hold several texts."""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from dposcope.model.cache import forget
from dposcope.model.head.logits import transformed
from dposcope.model.layout.config import attention_kind, context_length, stored
from dposcope.training.batches.examples import Example
from dposcope.training.batches.packing import ROW_TOKENS, PackedBatch, pack

REFERENCE_PADDING = 50256
"""GPT-2's end-of-text token, which the reference protocol masks for every model. The published code
leaves it out of the log-probabilities and takes the attention mask from the tokenizer. The results differ only at
padding positions."""

_READ_PACKED = frozenset({"gpt2", "llama", "mistral", "gemma2", "gemma3_text", "gemma3", "qwen2", "qwen3"})
"""Types of models of which the tests show that a packed row gives the numbers of its texts one by one. Of any other it
is measured."""
_ATTENTION = frozenset({"full_attention", "sliding_attention"})
"""Kinds of blocks that a mask keeps from reading another text. Linear attention and convolutions read on."""
_SLACK = 4.0
"""Packed states may differ from those of separate rows by so many times as much as padding alone changes them."""
_LEAST = 1e-3
"""This relative difference is always allowed."""


def read(model: PreTrainedModel, batch: PackedBatch, *, published: bool = False) -> Tensor:
    """What the unembedding reads at every place, `[R·T, d]`, on the device of the batch: mostly final-norm outputs.

    Args:
        model: interventions on it apply.
        batch: on its device.
        published: with the mask and the positions of the published code.
    """
    shared = bool((batch.completion > 0).any()) or not _one_example_per_row(batch)
    positions: Tensor | None = batch.positions
    if published:
        mask, positions = batch.ids != REFERENCE_PADDING, None
    elif shared:
        mask = for_attention(batch.mask(), model)
    else:
        mask = batch.example >= 0
    # Models with ALiBi have no positions.
    placed: dict[str, Any] = {"position_ids": positions} if takes_positions(model) else {}
    states = model.base_model(
        input_ids=batch.ids, attention_mask=mask.long() if mask.ndim == 2 else mask, use_cache=False, **placed
    ).last_hidden_state
    forget(model)
    return transformed(model, states.flatten(0, 1)).to(batch.ids.device)


def fits_one_row(model: PreTrainedModel, examples: Sequence[Example]) -> bool:
    """Whether a row may hold several texts of these, with the same numbers as one by one.

    Attention must take a mask, and no sliding window may be shorter than a text. Of an architecture that the tests do
    not cover, some of the examples are read both ways. Give `pack` the row length of `row_tokens` then.
    """
    config = model.config.get_text_config()
    if not takes_mask(model):
        return False
    window = stored(model).get("sliding_window")
    if window is not None and max(map(_length, examples), default=0) > window:
        return False
    return config.model_type in _READ_PACKED or not examples or _reads_packed(model, examples)


def takes_mask(model: PreTrainedModel) -> bool:
    """Whether every block takes a mask of which token reads which."""
    kinds = getattr(model.config.get_text_config(), "layer_types", None) or ()  # of RecurrentGemma it is no field
    return attention_kind(model) in ("sdpa", "eager") and _ATTENTION.issuperset(kinds)


def row_tokens(model: PreTrainedModel) -> int:
    """About how many tokens a row of several texts may have.

    Where the tests do not cover an architecture, it is at most its context: what it keeps of distances or of its mask
    may end there, whatever positions are given (MPT, GPT-Neo).
    """
    if model.config.get_text_config().model_type in _READ_PACKED:
        return ROW_TOKENS
    return min(ROW_TOKENS, context_length(model))


@torch.no_grad()
def _reads_packed(model: PreTrainedModel, examples: Sequence[Example]) -> bool:
    chosen = _telling(examples)
    # In one row where there is room: a row of several texts is what is tried.
    together = min(sum(map(_packed_length, chosen)), context_length(model))
    training = model.training
    model.eval()
    try:
        packed = _predicting(model, pack(chosen, pad_id=0, row_tokens=together))
        separate = _predicting(model, pack(chosen, pad_id=0, shared=False))
        alone = _alone(model, chosen)
    except Exception:  # a mask of our own can fail anywhere in the code of an architecture
        return False
    finally:
        model.train(training)
    # What padding alone changes is rounding.
    return _apart(packed, separate) <= max(_LEAST, _SLACK * _apart(alone, separate))


def _telling(examples: Sequence[Example]) -> list[Example]:
    """The examples that show whether a token's place in a row matters, those with completions first.

    The longest one, and the two shortest, which fit into one row if any two do. And of those whose second completion
    stands apart from its prompt, behind tokens of the first: where it stands furthest, as a bias by distance (ALiBi)
    is off by most there, and the one that takes most of a row. A local window that parts any second completion from
    its prompt does so there.
    """
    by_length = sorted(range(len(examples)), key=lambda place: _length(examples[place]))
    moved = [place for place in by_length if min(map(len, examples[place].completions), default=0) > 1]
    furthest = sorted(moved, key=lambda place: len(examples[place].completions[0]))[-1:]
    largest = sorted(moved, key=lambda place: _packed_length(examples[place]))[-1:]
    chosen = [examples[place] for place in dict.fromkeys([*by_length[:2], by_length[-1], *furthest, *largest])]
    return sorted(chosen, key=lambda example: not example.completions)


def _predicting(model: PreTrainedModel, batch: PackedBatch) -> Tensor:
    batch = batch.to(model.device)
    return read(model, batch)[batch.where].float()


def _alone(model: PreTrainedModel, examples: Sequence[Example]) -> Tensor:
    """Each text in a batch of its own, in the order of a batch: preferred, dispreferred, windows."""
    pairs = [example for example in examples if example.completions]
    texts = [Example(one.prompt, (one.completions[side],) * 2) for side in (0, 1) for one in pairs]
    found: list[Tensor] = []
    for text in texts:
        both = _predicting(model, pack([text], pad_id=0, shared=False))
        found.append(both[: len(both) // 2])
    found += [_predicting(model, pack([one], pad_id=0)) for one in examples if not one.completions]
    return torch.cat(found)


def _apart(ours: Tensor, theirs: Tensor) -> float:
    """The largest relative difference of a token's state."""
    return float(((ours - theirs).norm(dim=-1) / theirs.norm(dim=-1).clamp(min=1e-12)).max())


def takes_positions(model: PreTrainedModel) -> bool:
    """Whether a model can be told the positions of tokens."""
    parameters = inspect.signature(model.base_model.forward).parameters
    return "position_ids" in parameters or model.config.get_text_config().model_type in _READ_PACKED


def _length(example: Example) -> int:
    """Tokens of the longest text that are read."""
    return len(example.prompt) + max((len(completion) - 1 for completion in example.completions), default=0)


def _packed_length(example: Example) -> int:
    """Tokens that are read where both completions share their prompt, at most one more."""
    return len(example.prompt) + sum(len(completion) - 1 for completion in example.completions)


def _one_example_per_row(batch: PackedBatch) -> bool:
    first = batch.example[:, :1]
    return bool(((batch.example == first) | (batch.example < 0)).all())


def for_attention(mask: Tensor, model: PreTrainedModel) -> Tensor:
    """A mask of which token reads which, `[R, 1, T, T]`, as the model's attention takes it.

    Args:
        mask: True where a token is read.
        model: one that takes such a mask, see `takes_mask`.
    """
    if attention_kind(model) == "sdpa":
        return mask
    kind = model.dtype
    return torch.zeros(mask.shape, dtype=kind, device=mask.device).masked_fill(~mask, torch.finfo(kind).min)
