"""GGUF files, dequantised into a plain Hugging Face model."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig, PreTrainedModel, PreTrainedTokenizerBase

from dposcope.errors import DposcopeError, first_line, is_memory
from dposcope.model.checks.gguf import check_gguf
from dposcope.model.quiet import without_progress_bars


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
    if find_spec("gguf") is None:
        raise DposcopeError("reading GGUF needs the gguf package; install it with: pip install 'dposcope[gguf]'")
    check_gguf(path)
    strict: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        # In a folder of its own: files beside it could name code to run, or an adapter to fetch.
        with TemporaryDirectory() as alone, without_progress_bars():
            (Path(alone) / path.name).symlink_to(path.resolve())
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                alone,
                gguf_file=path.name,
                quantization_config=GgufConfig(dequantize=True),
                dtype=dtype,
                output_loading_info=True,
                **strict,
            )
            tokenizer = AutoTokenizer.from_pretrained(alone, gguf_file=path.name, **strict)
    except Exception as error:  # a damaged file may fail anywhere in two libraries
        if is_memory(error):
            raise
        reason = first_line(error)
        raise DposcopeError(f"cannot read {path} as GGUF: {reason}; is the file whole?") from error
    model, loading = loaded
    if loading["missing_keys"]:
        # transformers fills them with random numbers.
        raise DposcopeError(
            f"{path} has no {min(loading['missing_keys'])}, or not under a name that is known; download it again"
        )
    return GgufModel(model, tokenizer)
