"""Sizes of a model from its config alone, to estimate memory and time before anything is loaded."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from dposcope.errors import DposcopeError, first_line, is_memory
from dposcope.files import expanded
from dposcope.model.bundled import BUNDLED
from dposcope.model.checks.config import read_config
from dposcope.model.mixtures.experts import Experts

_SHARED: Final = re.compile(r"shared\w*\.(down_proj|output_linear)$")
_DENSE: Final = re.compile(r"(mlp|mlp_block|forward)\.(down_proj|w2|output_linear)$")


@dataclass(frozen=True)
class ModelSize:
    """The sizes that memory and arithmetic depend on."""

    parameters: int
    """Number of parameters; tied embeddings count once."""
    vocabulary: int
    width: int
    """Width of the residual stream, d."""
    blocks: int
    mlp: int
    """Neurons per block, d_mlp."""
    key_width: int
    """Width of all keys of a token in one block: key heads × head dimension. Values have the same width."""
    idle: int = 0
    """Weights of the experts that a token is not sent to; 0 without experts."""

    @property
    def neurons(self) -> int:
        """Neurons in all blocks."""
        return self.blocks * self.mlp

    @property
    def unembedding(self) -> int:
        """Weights that turn a position's state into logits, V × d."""
        return self.vocabulary * self.width

    @property
    def body(self) -> int:
        """Weights that a token passes through, without embeddings, for tied and untied models."""
        blocks = self.blocks * (4 * self.width**2 + 2 * self.width * self.mlp)
        return max(self.parameters - self.unembedding, blocks) - self.idle

    def cache_bytes(self, itemsize: int) -> float:
        """Bytes of a token's keys and values, in all blocks; `itemsize`: of a number."""
        return 2.0 * self.blocks * self.key_width * itemsize

    def activation_bytes(self, itemsize: int) -> float:
        """Bytes of a token's activations in one block, as none is kept: the stream a few times, and what the MLP has
        between its projections."""
        mlp = self.mlp if self.idle == 0 else min(self.mlp, 8 * self.width)
        return (4.0 * self.width + 3.0 * mlp) * itemsize

    def row_bytes(self, prompt: int, new_tokens: int, itemsize: int) -> float:
        """Bytes that continuing one prompt takes, beside the weights.

        Args:
            prompt: its tokens.
            new_tokens: tokens of the continuation.
            itemsize: bytes of a number.
        """
        return (prompt + new_tokens) * self.cache_bytes(itemsize) + prompt * self.activation_bytes(itemsize)


def size_of(source: str) -> ModelSize | None:
    """The size of a model that is a folder on this machine; None for any other, as nothing is downloaded.

    Raises:
        DposcopeError: its config is damaged, or not that of a causal language model.
    """
    folder = BUNDLED[source].folder if source in BUNDLED and not Path(source).exists() else expanded(source)
    if not (folder / "config.json").is_file():
        return None
    config = read_config(folder)
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except Exception as error:  # a stranger's config may fail anywhere in the library
        if is_memory(error):
            raise
        reason = first_line(error)
        if isinstance(error, ImportError):  # of a part of the model; it names the package
            raise DposcopeError(f"cannot load {source}: {reason}; install what it needs") from error
        raise DposcopeError(
            f"{folder}/config.json is not the config of a causal language model ({reason}); check the folder"
        ) from error
    return model_size(model)


def model_size(model: PreTrainedModel) -> ModelSize:
    """The size of a model, which may be without weights (on the `meta` device)."""
    text = model.config.get_text_config()
    told = text.to_dict()  # where blocks differ, as in Gemma 4, the config itself answers with an error
    heads = told.get("num_key_value_heads") or text.num_attention_heads
    head = told.get("head_dim") or told.get("kv_channels") or text.hidden_size // text.num_attention_heads
    named = told.get("intermediate_size") or told.get("n_inner") or 4 * text.hidden_size
    named = max(named) if isinstance(named, list) else int(named)  # Gemma 3n names it for each block
    linear = [
        (name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear) and "vis" not in name
    ]
    # Where blocks differ in width, as in Gemma 4, the config names the narrow ones; LFM2 and Granite 4 have others.
    dense = [module.in_features for name, module in linear if _DENSE.search(name)]
    mlp = max(dense, default=named)
    experts = [found for module in model.modules() if (found := Experts.of(module)) is not None]
    idle = 0
    if experts:
        count, width = experts[0].sizes.count, experts[0].sizes.width
        # Gemma 4 has a dense MLP beside the experts, which every token runs through.
        blocks = {name.rpartition(".")[0] for name, module in model.named_modules() if Experts.of(module) is not None}
        beside = {f"{block}.mlp.down_proj" for block in blocks}
        writes = [module.in_features for name, module in linear if _SHARED.search(name) or name in beside]
        mlp = width * math.ceil(max(count * width + max(writes, default=0), *dense, 0) / width)
        mixed = [*experts, *(one for module in model.modules() if (one := Experts.of_attention(module)) is not None)]
        weights = sum(weight.numel() for one in mixed for weight in one.own)
        idle = weights // count * (count - _chosen(told))
    return ModelSize(
        sum(parameter.numel() for parameter in model.parameters()),
        text.vocab_size,
        text.hidden_size,
        text.num_hidden_layers,
        mlp,
        int(heads * head),
        idle,
    )


def _chosen(config: Mapping[str, Any]) -> int:
    """How many experts a token is sent to, by the name that a config gives it."""
    told = {**(config.get("ffn_config") or {}), **config}  # DBRX
    names = ("num_experts_per_tok", "moe_topk", "moe_k", "moe_top_k", "top_k_experts")
    named = next((told[name] for name in names if told.get(name)), 1)
    return max(named) if isinstance(named, list) else int(named)
