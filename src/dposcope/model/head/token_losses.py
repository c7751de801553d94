"""Nats of each token under a model, with the logits of only a part of the vocabulary in memory.

A product of few positions with a whole vocabulary is slow on a CPU: the weights are packed anew for every call. So all
positions are multiplied with a block of the vocabulary, and the sums of exponentials are carried from block to block.
A few rows of a block at a time stay in the cache.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from dposcope.model.head.logits import transformed, unembedding
from dposcope.model.head.unembedding import Unembedding
from dposcope.model.language_model import LanguageModel

_BLOCK = 1 << 23
"""Logits of a block of the vocabulary: 16 MB in bfloat16."""
_IN_CACHE = 1 << 19
"""Logits to exponentiate at a time, 2 MB."""
_BLOCK_OF_A_GPU = 1 << 25
"""Both of a GPU: 128 MB in float32."""
_POSITIONS = 1 << 12
"""Positions at a time."""


def token_losses(lm: LanguageModel, hidden: Tensor, targets: Tensor, chunk: int) -> Tensor:
    """Nats of each target.

    Args:
        lm: the model.
        hidden: final states at positions that predict, `[T, d]`.
        targets: the token that follows each, `[T]`.
        chunk: positions at a time where the unembedding is not one linear map: its logits are made by the model, for
            the whole vocabulary.

    Returns:
        `[T]`, float64, on the device of the logits.
    """
    head, targets = _plain_head(lm), targets.to(lm.device_of_logits)
    if head is None:
        parts = _by_positions(lm, hidden, targets, chunk)
    else:
        pairs = zip(hidden.split(_POSITIONS), targets.split(_POSITIONS), strict=True)
        parts = (_by_vocabulary(head, transformed(lm.model, states), wanted) for states, wanted in pairs)
    none = torch.zeros(0, dtype=torch.float64, device=lm.device_of_logits)
    return torch.cat([none, *parts])


def _plain_head(lm: LanguageModel) -> Unembedding | None:
    """None: the head is something else than one linear map, or somebody listens to it, so it has to be called."""
    head = unembedding(lm.model)
    listened = head._forward_hooks or head._forward_pre_hooks  # pyright: ignore[reportPrivateUsage] — no public way
    plain = type(head) is nn.Linear and not listened and not head.weight.is_meta
    return Unembedding.of(lm.model) if plain else None


def _by_positions(lm: LanguageModel, hidden: Tensor, targets: Tensor, chunk: int) -> Iterator[Tensor]:
    for start in range(0, len(targets), chunk):
        logits = lm.unembed(hidden[start : start + chunk])
        rows = max(1, _IN_CACHE // logits.shape[1]) if logits.device.type == "cpu" else chunk
        for part, wanted in zip(logits.split(rows), targets[start : start + chunk].split(rows), strict=True):
            wide = _wide(part)
            yield (wide.logsumexp(1) - wide.gather(1, wanted.unsqueeze(1)).squeeze(1)).double()


def _by_vocabulary(head: Unembedding, hidden: Tensor, targets: Tensor) -> Tensor:
    states = hidden.to(head.weight.device, head.weight.dtype)
    on_cpu = head.weight.device.type == "cpu"
    block, at_once = (_BLOCK, _IN_CACHE) if on_cpu else (_BLOCK_OF_A_GPU, _BLOCK_OF_A_GPU)
    tokens = max(1, block // max(1, len(targets)))
    rows = max(1, at_once // tokens)
    # A finite start: where every logit of a block is −∞, −∞ − (−∞) would be no number.
    total, chosen = (torch.zeros(len(targets), dtype=torch.float64, device=targets.device) for _ in range(2))
    top = torch.full_like(total, torch.finfo(torch.float32).min)
    for start in range(0, len(head.weight), tokens):
        logits = head.logits(states, slice(start, start + tokens))
        inside = (targets >= start) & (targets < start + logits.shape[1])
        place = torch.where(inside, targets - start, 0).unsqueeze(1)
        chosen = torch.where(inside, logits.gather(1, place).squeeze(1).double(), chosen)
        for first in range(0, len(targets), rows):
            part = slice(first, first + rows)
            wide = _wide(logits[part])
            highest = torch.maximum(top[part], wide.amax(1).double())
            above = wide.sub_(highest.to(wide.dtype).unsqueeze(1)).exp_()
            total[part] = total[part] * (top[part] - highest).exp_() + above.sum(1)
            top[part] = highest
    return total.log_() + top - chosen


def _wide(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()
