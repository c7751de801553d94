"""What a config tells of attention and places."""

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedModel


def stored(model: PreTrainedModel) -> Mapping[str, Any]:
    """What the config of a decoder holds, by name. `to_dict` copies all of it, and this is asked for every token."""
    return vars(model.config.get_text_config())


def has_linear_attention(model: PreTrainedModel) -> bool:
    """Whether some blocks have linear attention or a state space, by the config: names of modules may not tell."""
    kinds: list[str] = getattr(model.config.get_text_config(), "layer_types", None) or []
    return any("linear" in kind for kind in kinds)


def counts_places(model: PreTrainedModel) -> bool:
    """Whether attention picks or pools spans of places, counted from the start of a row with its padding (MiniMax-M3,
    DeepSeek V4)."""
    config = stored(model)
    return "compress_rates" in config or "minimax_m3_sparse" in (config.get("layer_types") or ())


def context_length(model: PreTrainedModel) -> int:
    """Most positions, from the config; a very large number for a model without a limit."""
    config = stored(model)
    names = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")
    return next((int(config[name]) for name in names if config.get(name)), 1 << 30)


def attention_kind(model: PreTrainedModel) -> str:
    """How attention is computed: sdpa, eager, flash_attention_2 …"""
    return str(model.config.get_text_config()._attn_implementation)  # pyright: ignore[reportPrivateUsage]
