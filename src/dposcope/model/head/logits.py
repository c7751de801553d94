"""The way from the last block to logits: final norm, transform, unembedding, factor and soft-cap."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from dposcope.data.short import short_repr
from dposcope.errors import DposcopeError
from dposcope.model.layout.blocks import submodule
from dposcope.model.layout.config import stored
from dposcope.model.layout.projections import device_of_module
from dposcope.model.layout.table import Layout, known_layout


def logit_softcap(model: PreTrainedModel) -> float | None:
    """The final soft-cap c of Gemma 2 and RecurrentGemma (logits become `c·tanh(logits/c)`), or None."""
    given = known_layout(model.config.model_type)
    if given is not None and given.logit_softcap is not None:
        return given.logit_softcap
    told = stored(model)
    return next((told[name] for name in ("final_logit_softcapping", "logits_soft_cap") if name in told), None)


def logit_scale(model: PreTrainedModel) -> float:
    """The factor on all logits before a soft-cap: `logit_scale` of Cohere, 1 / `logits_scaling` of Granite
    and MiniCPM3, `lm_head_multiplier` of Falcon-H1, else 1."""
    given = known_layout(model.config.model_type)
    if given is not None and given.logit_scale is not None:
        return given.logit_scale
    config = model.config.get_text_config()
    # MiniCPM3 computes its own, which is no field of the config.
    scale, multiplier, divisor = (
        float(getattr(config, name, None) or 1) for name in ("logit_scale", "lm_head_multiplier", "logits_scaling")
    )
    return scale * multiplier / divisor


def final_norm(model: PreTrainedModel, layout: Layout) -> nn.Module | None:
    """The norm between the last block and the unembedding; None where there is none."""
    return None if layout.final_norm is None else submodule(model, layout.final_norm)


def transform(model: PreTrainedModel) -> nn.Module | None:
    """What stands between the final norm and the unembedding; None in most models."""
    given = known_layout(model.config.model_type)
    return None if given is None or given.transform is None else submodule(model, given.transform)


def transformed(model: PreTrainedModel, normed: Tensor) -> Tensor:
    """What the unembedding reads, `[…, d]`: final-norm outputs, which a few models change before it."""
    module = transform(model)
    return normed if module is None else module(normed.to(device_of_module(module) or normed.device))


def unembedding(model: PreTrainedModel) -> nn.Module:
    """The module that turns what `transformed` gives into logits, before scale and soft-cap.

    Raises:
        DposcopeError: the model has none.
    """
    given = known_layout(model.config.model_type)
    if given is not None and given.unembedding is not None:
        return submodule(model, given.unembedding)
    head: nn.Module | None = model.get_output_embeddings()
    if head is None:
        raise DposcopeError(f"{type(model).__name__} has no unembedding; load it as a causal language model")
    return head


def unembed(model: PreTrainedModel, normed: Tensor) -> Tensor:
    """Logits of final-norm outputs `[…, d]` → `[…, vocabulary]`, in the model's dtype, with its scale and soft-cap; on
    the device of the unembedding."""
    return scaled_and_capped(_bare(model, normed), logit_scale(model), logit_softcap(model))


@dataclass(frozen=True, eq=False)
class TopLogits:
    """The largest logits of each row, the largest first."""

    values: Tensor
    """`[…, k]`, float32, with the model's scale and soft-cap."""
    tokens: Tensor
    """`[…, k]`, int64."""

    __repr__ = short_repr


def top_logits(model: PreTrainedModel, normed: Tensor, k: int) -> TopLogits:
    """The k largest logits of final-norm outputs `[…, d]`, ranked before the soft-cap.

    A soft-cap keeps ranks, but in half precision it gives many large logits one value.
    """
    found = _bare(model, normed).float().topk(k)
    return TopLogits(scaled_and_capped(found.values, logit_scale(model), logit_softcap(model)), found.indices)


def _bare(model: PreTrainedModel, normed: Tensor) -> Tensor:
    """Logits before scale and soft-cap."""
    head, read = unembedding(model), transformed(model, normed)
    return head(read.to(device_of_module(head) or read.device))


def scaled_and_capped(logits: Tensor, scale: float, cap: float | None) -> Tensor:
    """Logits with a factor and then a soft-cap, `cap·tanh(scale·logits / cap)`, in their dtype."""
    logits = logits if scale == 1 else logits * scale
    return logits if cap is None else torch.tanh(logits / cap) * cap
