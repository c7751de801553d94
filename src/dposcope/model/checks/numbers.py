"""What a model computes: a broken checkpoint has NaN or infinity among its weights, or computes them; or cannot run."""

import torch
from torch import Tensor

from dposcope.errors import DposcopeError, first_line, is_memory
from dposcope.model.cache import cache_argument, new_cache, takes_cache
from dposcope.model.language_model import LanguageModel

_READ = "The river"
"""What `check_forward` lets a model read."""
_FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def check_weights(lm: LanguageModel, name: str) -> None:
    """Refuse a model with a weight that is NaN or infinite.

    Args:
        lm: the model.
        name: what the user calls it.

    Raises:
        DposcopeError: it has one; the message says where.
    """
    for parameter_name, parameter in lm.model.named_parameters():
        if parameter.dtype in _FLOATS and parameter.numel():
            # Both are NaN where any value is, and the tensor is not copied.
            ends = torch.stack(list(torch.aminmax(parameter.detach())))
            if not ends.isfinite().all():
                raise DposcopeError(
                    f"{name} is broken: {parameter_name} holds NaN or infinity; download the checkpoint again"
                )


def check_forward(lm: LanguageModel, name: str) -> None:
    """Let a model read two words; refuse one that cannot, or that computes no numbers.

    Args:
        lm: the model.
        name: what the user calls it.

    Raises:
        DposcopeError: it fails, as with a config that is not that of its weights; or a logit is NaN or infinite, where
            the message says from which block on; or it takes no cache of the usual kind.
    """
    try:
        ids = torch.tensor([lm.tokenizer(_READ)["input_ids"] or [0]], device=lm.device)
        with torch.inference_mode():
            logits = lm.model(input_ids=ids, use_cache=False).logits
    except Exception as error:  # a damaged config or tokenizer may fail anywhere in transformers
        if is_memory(error):
            raise
        raise DposcopeError(
            f"{name} cannot be run ({type(error).__name__}: {first_line(error)}); download its config.json and "
            "tokenizer again"
        ) from error
    if not _broken(logits):
        _check_cache(lm, ids, name)
        return
    with torch.inference_mode():
        states = lm.model(input_ids=ids, use_cache=False, output_hidden_states=True).hidden_states
    first = next((place for place, state in enumerate(states) if _broken(state)), None)
    where = "in its logits" if first is None else "in its embedding" if first == 0 else f"from block {first - 1} on"
    raise DposcopeError(
        f"{name} computes NaN or infinity {where}, in {str(lm.dtype).removeprefix('torch.')}; load it as float32, or "
        "download it again"
    )


def _check_cache(lm: LanguageModel, ids: Tensor, name: str) -> None:
    """Some architectures keep a cache of their own kind, which texts cannot be written with here."""
    if not takes_cache(lm.model):
        return
    cache = {cache_argument(lm.model): new_cache(lm.model)}
    try:
        with torch.inference_mode():
            lm.model(input_ids=ids, use_cache=True, **cache)
    except Exception as error:
        if is_memory(error):
            raise
        kind = lm.model.config.model_type
        raise DposcopeError(
            f"{name} cannot read a text token by token ({first_line(error)}): models of the type {kind} are not "
            "supported; take another one"
        ) from error


def _broken(numbers: Tensor) -> bool:
    # A logit of −∞ rules a token out.
    return bool(numbers.isnan().any() or (numbers == torch.inf).any())
