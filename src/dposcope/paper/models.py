"""The paper's four models, and how to recognise them (paper 3.1, Table 8)."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from dposcope.errors import DposcopeError


@dataclass(frozen=True)
class PaperModel:
    """One of the paper's models."""

    name: str
    """Its name in most of the paper's tables."""
    hub_ids: tuple[str, ...]
    """Ids of the same weights on the Hugging Face hub. The paper prints none; its published code loads the first one of
    each model, and version 0.1 of Mistral-7B."""
    model_type: str
    """The architecture in `config.json`."""
    blocks: int
    d_model: int
    d_mlp: int
    context: int | None = None
    """`max_position_embeddings`, if only it distinguishes the model from an older one of the same size."""

    def fits(self, config: Mapping[str, Any]) -> bool:
        """Whether a `config.json` describes this architecture in this size."""
        sizes = {"blocks": self.blocks, "d_model": self.d_model, "d_mlp": self.d_mlp}
        return (
            config.get("model_type") == self.model_type
            and all(_size(config, name) == size for name, size in sizes.items())
            and self.context in (None, config.get("max_position_embeddings"))
        )


MODELS = (
    PaperModel("GPT-2-355M", ("openai-community/gpt2-medium", "gpt2-medium"), "gpt2", 24, 1024, 4096),
    PaperModel(
        "Llama-3.1-8B",
        ("meta-llama/Llama-3.1-8B", "meta-llama/Meta-Llama-3.1-8B"),
        "llama", 32, 4096, 14336, context=131072,
    ),
    PaperModel("Gemma-2-2B", ("google/gemma-2-2b",), "gemma2", 26, 2304, 9216),
    PaperModel("Mistral-7B", ("mistralai/Mistral-7B-v0.1",), "mistral", 32, 4096, 14336),
)  # fmt: skip


@dataclass(frozen=True)
class Recognised:
    """One of the paper's models, and a remark on how it was recognised."""

    model: PaperModel
    remark: str
    """For the reader; empty for the paper's own hub id."""


_TUNED_NAME = re.compile(r"(^|[-_.])(it|instruct|chat|dpo|sft|rlhf|zephyr|dialogpt|hermes)([-_.]|$)", re.IGNORECASE)
"""Names of models that were tuned further."""


def recognise(name: str, config: Mapping[str, Any] | None = None) -> Recognised | None:
    """The paper's model of this name; None for any other model.

    A hub id is recognised by its name. Anything else, such as a folder, is recognised by its config: architecture,
    blocks and widths. The config does not tell the weights, so the result has a remark. A name such as `…-it` or
    `…-instruct` is none of the paper's models.

    Args:
        name: a hub id, or the folder of a checkpoint.
        config: the model's config, from `config.to_dict()`; None: `name/config.json`, if `name` is a folder.

    Raises:
        DposcopeError: `name` is a folder whose `config.json` cannot be read.
    """
    for model in MODELS:
        if name.lower() in (known.lower() for known in model.hub_ids) and not Path(name).is_dir():
            return Recognised(model, "")
    if config is None:
        config = _stored_config(Path(name))
    if config is None or _TUNED_NAME.search(Path(name).name):
        return None
    for model in MODELS:
        if model.fits(config):
            return Recognised(
                model, f"{name} is taken for {model.name} by its config alone, which says nothing of its weights"
            )
    return None


def _stored_config(folder: Path) -> dict[str, Any] | None:
    path = folder / "config.json"
    if not path.is_file():
        return None
    try:
        config: object = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DposcopeError(f"cannot read {path}: {error}; name a folder written by save_pretrained") from error
    if not isinstance(config, dict):
        raise DposcopeError(f"{path} is not a JSON object; name a folder written by save_pretrained")
    return cast(dict[str, Any], config)


_NAMES = {
    "blocks": ("num_hidden_layers", "n_layer"),
    "d_model": ("hidden_size", "n_embd"),
    "d_mlp": ("intermediate_size", "n_inner"),
}


def _size(config: Mapping[str, Any], what: str) -> int | None:
    size = next((config[name] for name in _NAMES[what] if config.get(name) is not None), None)
    if size is None and what == "d_mlp" and config.get("model_type") == "gpt2":
        width = _size(config, "d_model")  # GPT-2's config leaves out the default width
        return None if width is None else 4 * width
    return size
