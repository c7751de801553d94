"""A model that the caller loaded: what is refused before it is used as it is."""

import sys

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dposcope.errors import DposcopeError
from dposcope.model.language_model import LanguageModel


def check_in_memory(model: object, tokenizer: object) -> None:
    """Refuse what is no plain Hugging Face model with its tokenizer, all weights in memory.

    Quantised layers and unknown layouts are noticed where the layout is looked up.

    Raises:
        DposcopeError: the model is no Hugging Face model, compiled, wrapped by PEFT, or has weights elsewhere; or there
            is no tokenizer.
    """
    kind = type(model).__name__
    if isinstance(model, LanguageModel):
        raise DposcopeError(f"{model.name} is loaded already; use it as it is")
    if not isinstance(model, nn.Module):
        raise DposcopeError(f"a {kind} is no model; give a name, a folder, or a Hugging Face model with its tokenizer")
    if _holds_adapter(model):
        raise DposcopeError("the model holds a PEFT adapter; merge it first, with model = model.merge_and_unload()")
    if "_orig_mod" in dict(model.named_children()):
        raise DposcopeError("the model is compiled, and compiled code may skip hooks; give the plain model")
    if not isinstance(model, PreTrainedModel):
        raise DposcopeError(f"a {kind} is no Hugging Face model; give one such as AutoModelForCausalLM loads")
    if model.get_output_embeddings() is None:
        raise DposcopeError(f"a {kind} is not a causal language model; load it with AutoModelForCausalLM")
    if any(parameter.device.type == "meta" for parameter in model.parameters()):
        raise DposcopeError("some weights of the model are not in memory; load it without offloading to CPU or disk")
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        given = "none was given" if tokenizer is None else f"a {type(tokenizer).__name__} is none"
        raise DposcopeError(f"a model in memory needs its tokenizer, and {given}; call load(model, tokenizer)")


def _holds_adapter(model: nn.Module) -> bool:
    peft = sys.modules.get("peft")
    if peft is None:  # who made an adapter has imported it
        return False
    from peft import PeftModel
    from peft.tuners.tuners_utils import BaseTunerLayer

    return isinstance(model, PeftModel) or any(isinstance(module, BaseTunerLayer) for module in model.modules())


def check_settings(model: PreTrainedModel, dtype: str, device: torch.device | None) -> None:
    """Refuse another precision or device than the model's own: the caller's model is not changed.

    Args:
        model: in memory.
        dtype: name of a torch dtype, or auto.
        device: None: the model's own.

    Raises:
        DposcopeError: another one is asked for.
    """
    own = str(model.dtype).removeprefix("torch.")
    if dtype not in ("auto", own):
        raise DposcopeError(f"the model in memory is in {own}; leave dtype out, or call model.to(torch.{dtype}) first")
    if device is not None and torch.empty(0, device=device).device != model.device:
        raise DposcopeError(
            f"the model in memory is on {model.device}; leave device out, or call model.to({str(device)!r}) first"
        )
