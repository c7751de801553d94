"""A model without its weights: its config, its tokenizer, and how its weights are stored."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase

from dposcope.errors import DposcopeError, first_line, is_memory
from dposcope.files import expanded
from dposcope.model.bundled import BUNDLED, name_of_source
from dposcope.model.checks.config import MEND, read_config
from dposcope.model.checks.hub import hub_answers, hub_id
from dposcope.model.checks.own_files import own_files
from dposcope.model.gguf import gguf_outline
from dposcope.model.language_model import LanguageModel
from dposcope.model.load import check_source, native_bfloat16
from dposcope.model.size import ModelSize, model_size

_STORED: Final = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""Names of types in the header of a safetensors file."""


@dataclass(frozen=True, eq=False)
class Outline:
    """What can be known of a model before its weights are read."""

    lm: LanguageModel
    """On the `meta` device, with its tokenizer."""
    size: ModelSize
    stored: torch.dtype
    """Type of the weights in their files."""
    beside: int
    """Bytes of the files that belong to it beside the weights, such as the tokenizer's; 0 where it is not a folder."""

    def running(self, dtype: str, device: torch.device) -> torch.dtype:
        """The type that `load_native` runs it in."""
        if dtype != "auto":
            return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[dtype]
        return torch.bfloat16 if self.stored == torch.float32 and native_bfloat16(device) else self.stored


def outline(source: str | Path) -> Outline:
    """Read config and tokenizer of a model, and the headers of its weights.

    Args:
        source: as for `load`. Of a model of the hub only config and tokenizer are fetched.

    Raises:
        DposcopeError: as `load`; or a bundled model is not in the cache yet.
    """
    check_source(source)
    name, path = str(source), expanded(source)
    if path.suffix == ".gguf" and not path.is_dir():
        parts = gguf_outline(path)
        return _outline(parts.config, parts.tokenizer, name_of_source(path), torch.float32, 0)
    if path.is_dir() or name in BUNDLED:
        folder = path if path.is_dir() else BUNDLED[name].folder
        if not (folder / "config.json").is_file():
            raise DposcopeError(
                f"{name} is not in the cache, and a dry run writes nothing; run: dposcope models path {name}"
            )
        config, tokenizer = read_config(folder), _tokenizer(str(folder), name, local=True)
        beside = sum(one.stat().st_size for one in own_files(folder).side)
        return _outline(config, tokenizer, name_of_source(name), _stored(folder) or _named(config), beside)
    asked = hub_id(name)
    local = not hub_answers(asked)
    try:
        config: Any = AutoConfig.from_pretrained(asked, local_files_only=local, trust_remote_code=False)
    except Exception as error:  # whatever the network or a stranger's config does
        why = "the hub does not answer, and it is not in its cache" if local else first_line(error)
        raise DposcopeError(f"cannot read the config of {asked!r}: {why}; check the id and the network") from error
    return _outline(config, _tokenizer(asked, asked, local=local), name_of_source(asked), _named(config), 0)


def _outline(
    config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase, name: str, stored: torch.dtype, beside: int
) -> Outline:
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False).eval()
    except Exception as error:  # a stranger's config may fail anywhere in the library
        if is_memory(error):
            raise
        if isinstance(error, ImportError):  # of a part of the model; it names the package
            raise DposcopeError(f"cannot load {name}: {first_line(error)}; install what it needs") from error
        raise DposcopeError(f"{name} is not a causal language model ({first_line(error)}); check the folder") from error
    lm = LanguageModel(model, tokenizer, name)
    _ = lm.d_mlp  # an architecture that is not supported is refused here, too
    return Outline(lm, model_size(model), stored, beside)


def _tokenizer(source: str, name: str, *, local: bool) -> PreTrainedTokenizerBase:
    try:
        return AutoTokenizer.from_pretrained(source, local_files_only=local, trust_remote_code=False)
    except Exception as error:  # a stranger's files may fail anywhere in two libraries
        raise DposcopeError(f"cannot load {name}: {first_line(error)}; {MEND}") from error


def _stored(folder: Path) -> torch.dtype | None:
    """Type of the first tensor in a folder's weights; None where it has none, or one that is quantised."""
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, framework="pt") as opened:
                for name in opened.keys():  # noqa: SIM118 — it is no dictionary
                    return _STORED.get(opened.get_slice(name).get_dtype())
        except (OSError, SafetensorError) as error:
            raise DposcopeError(f"{file} is damaged ({first_line(error)}); download it again") from error
    return None


def _named(config: PreTrainedConfig) -> torch.dtype:
    """The type that a config names."""
    named = config.get_text_config().to_dict().get("dtype")
    return getattr(torch, str(named).removeprefix("torch."), torch.float32) if named is not None else torch.float32
