"""How a quantised model is loaded: one that is stored so, or a plain one that bitsandbytes quantises on the way."""

import logging
import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Final

import torch
from torch import nn
from transformers import PreTrainedConfig
from transformers.utils.quantization_config import (
    BitsAndBytesConfig,
    CompressedTensorsConfig,
    FineGrainedFP8Config,
    Mxfp4Config,
    QuantizationConfigMixin,
)

from dposcope.errors import DposcopeError
from dposcope.files import expanded
from dposcope.protocols import Quantise, check_choice

EXTRA: Final = "pip install 'dposcope[quantised]'"
_PACKAGES: Final = {
    "bitsandbytes": ("bitsandbytes", EXTRA),
    "compressed-tensors": ("compressed_tensors", "pip install compressed-tensors"),
    "gptq": ("gptqmodel", "pip install gptqmodel"),
    "awq": ("gptqmodel", "pip install gptqmodel"),
}
"""Method by its name in a config → the module that it needs, and how to get it. Of others transformers tells."""
_PLAIN_ON_LOADING: Final[dict[str, Callable[[], QuantizationConfigMixin]]] = {
    "compressed-tensors": partial(CompressedTensorsConfig, dequantize=True),
    "fp8": partial(FineGrainedFP8Config, dequantize=True),
    "mxfp4": partial(Mxfp4Config, dequantize=True),
}
"""Methods whose weights become plain numbers on loading: their layers run only on some GPUs, or cannot be read."""
_PACKS: Final = "support_avx512bf16_for_cpu"
"""Whether a layer of bitsandbytes packs its codes."""
_DTYPES: Final = {"bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class StoredForm:
    """What the config of a checkpoint says about its weights."""

    method: str | None
    """How it is quantised; None where it is not."""
    dtype: torch.dtype
    """Precision of its plain weights, and of what is computed."""

    @classmethod
    def of(cls, source: str, *, local: bool) -> "StoredForm":
        """That of a checkpoint.

        Args:
            source: a folder or a hub id.
            local: whether to leave the network alone.
        """
        try:
            config, _ = PreTrainedConfig.get_config_dict(source, local_files_only=local)
        except OSError:  # why, whoever loads the model tells
            return cls(None, torch.float32)
        told = config.get("quantization_config")
        named = str(config.get("dtype") or config.get("torch_dtype"))
        # transformers tells what is no object. bitsandbytes does not name itself in its first checkpoints.
        method = str(told.get("quant_method", "bitsandbytes")) if isinstance(told, dict) else None
        return cls(method, _DTYPES.get(named, torch.float32))

    @property
    def plain_when_loaded(self) -> bool:
        """Whether its weights are plain numbers in memory."""
        return self.method is None or self.method in _PLAIN_ON_LOADING


def is_stored_quantised(source: str) -> bool:
    """Whether a folder is a checkpoint that stays quantised when it is loaded; of a hub id it is not asked."""
    folder = expanded(source)
    return (folder / "config.json").is_file() and not StoredForm.of(str(folder), local=True).plain_when_loaded


def check_quantise(quantise: Quantise) -> None:
    """Refuse a way to quantise that is unknown, or whose package is missing.

    Raises:
        DposcopeError: it is.
    """
    check_choice("quantise", quantise, ("4bit", "8bit"))
    check_package("bitsandbytes", f"quantise {quantise}")


def check_method(method: str, name: str) -> None:
    """Refuse a quantised checkpoint whose package is missing.

    Args:
        method: of the checkpoint.
        name: of the model.

    Raises:
        DposcopeError: it is.
    """
    check_package(method, f"{name}, which is quantised by {method},")


def check_package(method: str, what: str) -> None:
    """Refuse what needs a package that is missing.

    Args:
        method: of quantisation.
        what: needs its package.

    Raises:
        DposcopeError: the package is not installed.
    """
    package, command = _PACKAGES.get(method, (None, None))
    if package is not None and find_spec(package) is None:
        raise DposcopeError(f"{what} needs the package {package}; install it with: {command}")


def quantisation(stored: StoredForm, quantise: Quantise | None, dtype: torch.dtype) -> QuantizationConfigMixin | None:
    """What transformers is told about quantisation; None: nothing, or what the checkpoint says.

    Args:
        stored: what the checkpoint says.
        quantise: what a plain one becomes.
        dtype: precision of products of 4-bit weights.
    """
    if stored.method in _PLAIN_ON_LOADING:
        return _PLAIN_ON_LOADING[stored.method]()
    if quantise == "4bit":
        # As in QLoRA (https://arxiv.org/abs/2305.14314): NF4, and scales that are quantised too.
        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    return BitsAndBytesConfig(load_in_8bit=True) if quantise == "8bit" else None


def in_one_form(model: nn.Module) -> None:
    """Keep bitsandbytes from packing 4-bit codes anew at the first run without gradients, as it does on some
    processors: the packed form has other scales, passes on no gradient, and is for some sizes only."""
    for module in model.modules():
        if _PACKS in vars(module):
            setattr(module, _PACKS, False)


@contextmanager
def without_remarks() -> Generator[None]:
    """Inside, packages do not remark on what is meant: another precision of inputs, kernels that could be installed."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it remarks at every product, so it stays so
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="You passed `quantization_config`")
        yield
