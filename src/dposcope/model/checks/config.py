"""The config of a model that may come from a stranger: its sizes are checked before a model is built from them.

A million blocks take hours to build, even without weights, and a width of 0 fails somewhere within two libraries.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, cast

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig

from dposcope.errors import DposcopeError, plural
from dposcope.files import check_regular
from dposcope.reading import read_object

CONFIG: Final = "config.json"
_OBJECTS: Final = (
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "model.safetensors.index.json",
)
"""Each holds one object, like the config. `tokenizer.json` is large, and the tokenizer's library tells its faults."""
MEND: Final = "download the checkpoint again, or save it again with transformers"
MOST_CONFIG: Final = 64 << 20
"""Bytes. A classifier may name a hundred thousand labels in it."""

_EXPERTS: Final = ("num_experts", "num_local_experts", "n_routed_experts")
"""A model without experts may say that it has none."""
_MOST: Final[dict[str, int]] = {
    # The deepest models that are published have some 130 blocks, the widest a residual stream of 20,000.
    **dict.fromkeys(("num_hidden_layers", "num_layers", "n_layer", "n_layers"), 1_000),
    **dict.fromkeys(("hidden_size", "n_embd", "d_model"), 1_000_000),
    **dict.fromkeys(("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size", "d_ff"), 10_000_000),
    **dict.fromkeys(("num_attention_heads", "num_key_value_heads", "n_head", "n_heads", "num_heads"), 10_000),
    **dict.fromkeys(_EXPERTS, 10_000),
    "head_dim": 1_000_000,
    "vocab_size": 10_000_000,  # published: a million
    **dict.fromkeys(("max_position_embeddings", "n_positions"), 1 << 31),  # published: ten million
}
"""Names of sizes in the configs of all families → the largest number that can be meant. The smallest is 1, or 0 of
experts."""
_BLOCK: Final = re.compile(r"\.(\d+)\.")
"""A block's number in the name of a tensor."""


def check_files(folder: Path) -> None:
    """Refuse a folder of a model that holds a pipe, a socket or a device, or a small file that is no JSON object,
    before a library opens it.

    Raises:
        DposcopeError: it does.
    """
    for path in [*folder.iterdir(), *folder.glob("*/*")]:
        if path.exists() and not path.is_dir():  # a link may lead nowhere
            check_regular(path)
    for name in _OBJECTS:
        if (folder / name).exists():
            read_object(folder / name, mend=MEND, most=MOST_CONFIG)


def check_sizes(config: Mapping[str, Any], where: object) -> None:
    """Refuse sizes that no model has.

    Args:
        config: by name; those of the text part of a larger model are below `text_config`.
        where: they are from, for the message.

    Raises:
        DposcopeError: a size is no whole number, below 1, or too large.
    """
    for name, most in _MOST.items():
        given = config.get(name)
        for size in cast(list[Any], given) if isinstance(given, list) else [given]:
            least = 0 if name in _EXPERTS else 1
            if size is not None and (type(size) is not int or not least <= size <= most):
                raise DposcopeError(
                    f"{where} has {name} {str(size)[:40]!r}, and a model has {least} to {most:,}; download it again"
                )
    text = config.get("text_config")
    if isinstance(text, Mapping):
        check_sizes(cast(Mapping[str, Any], text), where)


def read_config(folder: Path) -> PreTrainedConfig:
    """The config of a checkpoint's folder, whose sizes a model can have.

    Raises:
        DposcopeError: it is damaged or of an unknown architecture; a size is out of range; or there are weights, which
            have fewer blocks than it says.
    """
    check_sizes(read_object(folder / CONFIG, mend=MEND, most=MOST_CONFIG), folder / CONFIG)
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # a stranger's config may fail anywhere in the library
        reason = " ".join(str(error).split())[:200]  # its first line may only say which check failed
        raise DposcopeError(
            f"cannot load {folder}: its {CONFIG} is that of no known model ({reason}); check the folder"
        ) from error
    text = config.get_text_config().to_dict()  # every family's names are the usual ones here
    check_sizes(text, folder / CONFIG)
    promised, stored = text.get("num_hidden_layers"), _Stored.of(folder)
    if promised is not None and stored is not None and stored.blocks and promised > stored.blocks:
        raise DposcopeError(
            f"cannot load {folder}: its {CONFIG} says {plural(promised, 'block')}, but its weights hold "
            f"{stored.blocks:,}; download it again"
        )
    return config


def check_loadable(folder: Path, kind: type[Any] = AutoModelForCausalLM) -> None:
    """Refuse a checkpoint whose config promises more weights than it has, before they are made.

    transformers makes those that have another shape, and only then tells that they have.

    Args:
        folder: of a checkpoint.
        kind: of model that it is loaded as.

    Raises:
        DposcopeError: see `read_config`; or the weights are too few.
    """
    config, stored = read_config(folder), _Stored.of(folder)
    if stored is None:
        return
    try:
        promised = _promised(_Promise(kind, config.to_json_string(use_diff=False), config))
    except Exception:  # why it cannot be built, the loader tells in its own words
        return
    most = _PACKED if "quantization_config" in config.to_dict() else _TWICE
    if promised > most * stored.numbers:
        raise DposcopeError(
            f"cannot load {folder}: its {CONFIG} says {promised:,} weights, but it holds {stored.numbers:,}; "
            "download it again"
        )


@dataclass(frozen=True)
class _Promise:
    """Of a model: its kind, and its config, by which two of them are one."""

    kind: type[Any]
    told: str
    config: PreTrainedConfig = field(compare=False)


@lru_cache(maxsize=64)  # a base and what was tuned from it, again and again, have one config
def _promised(of: _Promise) -> int:
    """How many weights the model has."""
    with torch.device("meta"):
        model = of.kind.from_config(of.config, trust_remote_code=False)
    return sum(parameter.numel() for parameter in model.parameters())


_TWICE: Final = 2
"""Weights that the model shares may be stored once."""
_PACKED: Final = 16
"""Numbers of two bits that are stored as one of 32."""


@dataclass(frozen=True)
class _Stored:
    """What the headers of a checkpoint's weights say."""

    blocks: int
    """How many are named; 0 where none has a number."""
    numbers: int
    """In all tensors."""

    @classmethod
    def of(cls, folder: Path) -> "_Stored | None":
        """None where there are no weights, or a header cannot be read."""
        blocks, numbers = 0, 0
        for file in folder.glob("*.safetensors"):
            try:
                with safe_open(file, framework="pt") as opened:
                    for name in opened.keys():  # noqa: SIM118 — it is no dictionary
                        found = _BLOCK.search(name)
                        blocks = max(blocks, int(found[1]) + 1 if found is not None else 0)
                        numbers += math.prod(opened.get_slice(name).get_shape())
            except (OSError, SafetensorError):
                return None
        return cls(blocks, numbers) if numbers else None
