"""Activations of given neurons on every token of given texts."""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dposcope.data.given.numbers import whole
from dposcope.errors import DposcopeError
from dposcope.memory import halving_batches
from dposcope.model.batches import batches
from dposcope.model.checks.given import check_lm
from dposcope.model.frames import Frame
from dposcope.model.hooks import Change, hooked, neuron_sites
from dposcope.model.language_model import LanguageModel


@halving_batches
@torch.inference_mode()
def trace(
    lm: LanguageModel, texts: Sequence[Sequence[int]], neurons: Sequence[int], *, batch_size: int = 8
) -> NDArray[np.float32]:
    """Activations m_i of some neurons on every token of some texts, `[n, T]`, float32.

    T counts the tokens of all texts, one text after the other. Where blocks differ, an absent neuron has 0.

    Args:
        lm: the model; it reads each text once.
        texts: token ids, none empty.
        neurons: each as block · d_mlp + index, in the order wanted.
        batch_size: texts at a time.

    Raises:
        DposcopeError: no text, an empty one, or a neuron outside 0 … L · d_mlp − 1.
    """
    check_lm(lm)
    for several in (texts, neurons):
        _check_listed(several)
    texts = list(texts)
    if any(isinstance(text, str) for text in texts):
        raise DposcopeError("a trace reads token ids; give those of each text, as in tokenizer(texts)['input_ids']")
    each: list[object] = [*texts]
    if not all(isinstance(text, Iterable) for text in each):
        raise DposcopeError("one text was given, and a list of them belongs here; write it in brackets: [ids]")
    texts = [[whole("token", one) for one in text] for text in texts]
    if not texts or not all(texts):
        raise DposcopeError("there is no text to trace, or an empty one; give token ids of at least one token each")
    chosen = torch.tensor([whole("neuron", one) for one in neurons], dtype=torch.long)
    places = lm.n_blocks * lm.d_mlp
    if len(chosen) and not (int(chosen.min()) >= 0 and int(chosen.max()) < places):
        raise DposcopeError(
            f"neurons to trace go from {int(chosen.min()):,} to {int(chosen.max()):,}, the model has {places:,}; "
            "count as block · MLP width + index, from 0"
        )
    ends = np.cumsum([len(text) for text in texts])
    result = torch.zeros(len(chosen), int(ends[-1]), dtype=torch.float32)
    blocks = chosen // lm.d_mlp
    # Padding on the right: positions are then right for models with absolute ones, too.
    for batch in batches(lm, texts, batch_size=batch_size, side="right"):
        real = batch.mask.bool()
        places = torch.cat([torch.arange(ends[row] - len(texts[row]), ends[row]) for row in batch.rows])

        def observe(block: int, own: slice, real: Tensor = real, places: Tensor = places) -> Change:
            columns = chosen % lm.d_mlp
            wanted = ((blocks == block) & (columns >= own.start) & (columns < own.stop)).nonzero().squeeze(1)
            columns = columns[wanted] - own.start

            def look(activations: Tensor, _frame: Frame) -> None:
                device = activations.device
                seen = activations[real.to(device)][:, columns.to(device)]
                result[wanted[:, None], places] = seen.T.float().cpu()

            return look

        sites = [
            (site, observe(block, site.columns))
            for block in blocks.unique().tolist()
            for site in neuron_sites(lm, block)
        ]
        if sites:
            with hooked(lm, sites):
                lm.model.base_model(input_ids=batch.ids, attention_mask=batch.mask, use_cache=False)
    return result.numpy()


def _check_listed(several: object) -> None:
    if not isinstance(several, Iterable):
        raise DposcopeError("texts and neurons to trace are lists; write one in brackets: [ids], [neuron]")
