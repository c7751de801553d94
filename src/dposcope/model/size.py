"""Sizes of a model from its config alone, to estimate memory and time before anything is loaded."""

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from dposcope.errors import DposcopeError, first_line, is_memory
from dposcope.model.bundled import BUNDLED
from dposcope.model.checks.config import read_config
from dposcope.model.mixtures.experts import Experts


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


def size_of(source: str) -> ModelSize | None:
    """The size of a model that is a folder on this machine; None for any other, as nothing is downloaded.

    Raises:
        DposcopeError: its config is damaged, or not that of a causal language model.
    """
    folder = BUNDLED[source].folder if source in BUNDLED and not Path(source).exists() else Path(source).expanduser()
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
        raise DposcopeError(
            f"{folder}/config.json is not the config of a causal language model ({reason}); check the folder"
        ) from error
    return model_size(model)


def model_size(model: PreTrainedModel) -> ModelSize:
    """The size of a model, which may be without weights (on the `meta` device)."""
    text = model.config.get_text_config()
    told = text.to_dict()  # where blocks differ, as in Gemma 4, the config itself answers with an error
    heads = told.get("num_key_value_heads") or text.num_attention_heads
    head = told.get("head_dim") or text.hidden_size // text.num_attention_heads
    mlp = told.get("intermediate_size") or told.get("n_inner") or 4 * text.hidden_size
    experts = [found for module in model.modules() if (found := Experts.of(module)) is not None]
    idle = 0
    if experts:
        count = experts[0].sizes.count
        mlp = count * experts[0].sizes.width
        weights = sum(weight.numel() for one in experts for weight in one.module.parameters())
        idle = weights // count * (count - text.num_experts_per_tok)
    return ModelSize(
        sum(parameter.numel() for parameter in model.parameters()),
        text.vocab_size,
        text.hidden_size,
        text.num_hidden_layers,
        max(mlp) if isinstance(mlp, list) else int(mlp),  # Gemma 3n names it for each block
        int(heads * head),
        idle,
    )
