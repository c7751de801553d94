"""GGUF files, dequantised into a plain Hugging Face model."""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GgufConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from dposcope.errors import DposcopeError, first_line, is_memory
from dposcope.model.checks.gguf import check_gguf
from dposcope.model.quiet import without_progress_bars

_STRICT: Final[dict[str, Any]] = {"local_files_only": True, "trust_remote_code": False}


@dataclass(frozen=True)
class GgufModel:
    """A model and its tokenizer, from one file."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase


def load_gguf(path: Path, *, dtype: str) -> GgufModel:
    """Read and dequantise a GGUF file, and nothing that stands beside it.

    Args:
        path: the file.
        dtype: name of a torch dtype for the weights.

    Raises:
        DposcopeError: the `gguf` package is missing, or the file is damaged, incomplete or of an unknown architecture.
    """
    with _alone(path) as folder:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            gguf_file=path.name,
            quantization_config=GgufConfig(dequantize=True),
            dtype=dtype,
            output_loading_info=True,
            **_STRICT,
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=path.name, **_STRICT)
    model, loading = loaded
    if loading["missing_keys"]:
        # transformers fills them with random numbers.
        raise DposcopeError(
            f"{path} has no {min(loading['missing_keys'])}, or not under a name that is known; download it again"
        )
    return GgufModel(model, tokenizer)


@dataclass(frozen=True)
class GgufOutline:
    """What the header of a file says of its model."""

    config: PreTrainedConfig
    tokenizer: PreTrainedTokenizerBase


def gguf_outline(path: Path) -> GgufOutline:
    """Read the config and the tokenizer of a GGUF file, and no weights.

    Raises:
        DposcopeError: see `load_gguf`.
    """
    with _alone(path) as folder:
        config: Any = AutoConfig.from_pretrained(folder, gguf_file=path.name, **_STRICT)
        return GgufOutline(config, AutoTokenizer.from_pretrained(folder, gguf_file=path.name, **_STRICT))


@contextmanager
def _alone(path: Path) -> Generator[str]:
    """A checked file in a folder of its own: files beside it could name code to run, or an adapter to fetch.

    Raises:
        DposcopeError: see `load_gguf`.
    """
    if find_spec("gguf") is None:
        raise DposcopeError("reading GGUF needs the gguf package; install it with: pip install 'dposcope[gguf]'")
    check_gguf(path)
    try:
        with TemporaryDirectory() as folder, without_progress_bars():
            (Path(folder) / path.name).symlink_to(path.resolve())
            yield folder
    except Exception as error:  # a damaged file may fail anywhere in two libraries
        if is_memory(error):
            raise
        raise DposcopeError(f"cannot read {path} as GGUF: {first_line(error)}; is the file whole?") from error
