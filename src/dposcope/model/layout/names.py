"""What the names of projections tell: attention, and what stands in its place."""

from typing import Final

OF_GROUPS: Final = "o_b_proj"
"""The attention's output projection where another one before it mixes heads in groups (DeepSeek V4)."""

_IN_PLACE_OF_ATTENTION: Final = {"mamba", "conv", "temporal_block"}
"""Modules of a block that has a state space, a convolution or a recurrence where others have attention."""


def names_mixer(name: str) -> bool:
    """Whether a projection is one of self-attention, or of what a block has in its place, by its name."""
    parts = name.lower().split(".")
    named = any("attn" in part or "attention" in part or part in _IN_PLACE_OF_ATTENTION for part in parts)
    return named and not any("cross" in part for part in parts)


def names_attention(name: str) -> bool:
    """Whether a projection is one of self-attention that is not linear, which a mask keeps from padding."""
    parts = name.lower().split(".")
    return names_mixer(name) and not any("linear" in part or part in _IN_PLACE_OF_ATTENTION for part in parts)


def is_read_alone(name: str) -> bool:
    """Whether a projection, by its name, is one of a state space whose weight is read without the module, so that an
    adapter of the module has no effect."""
    return name.endswith(("mamba.out_proj", "mamba.dt_proj", "mixer.out_proj"))
