"""The layout of a decoder that no table has, by its structure."""

from collections.abc import Sequence

from torch import nn
from transformers import PreTrainedModel

from dposcope.errors import DposcopeError
from dposcope.model.layout.names import OF_GROUPS, names_mixer
from dposcope.model.layout.projections import writers
from dposcope.model.layout.table import HOW_TO_REGISTER, Layout
from dposcope.model.mixtures.experts import Experts

# Query, key and value projections may also be d × d, so the output projection is found by its name.
_ATTENTION_OUT = {"o_proj", OF_GROUPS, "out_proj", "c_proj", "dense", "wo", "proj", "out_projection", "linear_out"}


def recognise(model: PreTrainedModel) -> Layout:
    """Find the layout by shapes: L blocks of equal type, and in the MLP one projection that writes d numbers."""
    text_config = model.config.get_text_config()
    width: int | None = text_config.hidden_size
    model_type = model.config.model_type
    lists = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == text_config.num_hidden_layers
    ]
    if len(lists) != 1 or width is None:
        raise DposcopeError(f"no layout for model_type {model_type!r}; {HOW_TO_REGISTER}")
    blocks_path, blocks = lists[0]
    written = [writers(block, width) for block in blocks]
    attention = [
        # Moshi has the projection within a module of its name.
        [one for one in names if names_mixer(one) and one.removesuffix(".linear").split(".")[-1] in _ATTENTION_OUT]
        for names in written
    ]
    mlp = [name for name in written[0] if not names_mixer(name)]
    stem = blocks_path.rsplit(".", 1)[0] if "." in blocks_path else ""
    parent = model.get_submodule(stem) if stem else model
    norms = [name for name, module in parent.named_children() if "norm" in type(module).__name__.lower()]
    # The experts of a mixture come first, and other neurons beside them are looked for later.
    experts = [[name for name, module in block.named_modules() if Experts.of(module) is not None] for block in blocks]
    if any(experts):
        dense = [[name for name in names if not names_mixer(name)] for names in written]
        every = [routed or rest for routed, rest in zip(experts, dense, strict=True)]
        mlp = [] if any(len(names) != 1 for names in every) else list(dict.fromkeys(names[0] for names in every))
    if any(len(names) != 1 for names in attention) or not mlp or (len(mlp) > 1 and not any(experts)) or len(norms) != 1:
        raise DposcopeError(f"no layout for model_type {model_type!r}; {HOW_TO_REGISTER}")
    paths = tuple(dict.fromkeys(names[0] for names in attention))
    return Layout(blocks_path, _one(mlp), _one(paths), f"{stem}.{norms[0]}" if stem else norms[0])


def _one(paths: Sequence[str]) -> str | tuple[str, ...]:
    return paths[0] if len(paths) == 1 else tuple(paths)
