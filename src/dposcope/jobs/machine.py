"""Loading a model as a job's settings ask."""

import torch

from dposcope.jobs.settings import LoadSettings
from dposcope.model.language_model import LanguageModel
from dposcope.model.load import load


def load_for(model: str, settings: LoadSettings) -> LanguageModel:
    """Load `model` with the precision and on the device that settings name.

    `dtype="auto"` keeps what is stored, but runs a float32 checkpoint in bfloat16 where the hardware
    multiplies that natively: half the time, and the precision that most models were trained in.
    """
    lm = load(model, dtype=settings.dtype, device=settings.device)
    if settings.dtype == "auto" and lm.dtype == torch.float32 and native_bfloat16(lm.device):
        lm.model.to(torch.bfloat16)  # pyright: ignore[reportArgumentType] — transformers types `to` too narrowly
    return lm


def native_bfloat16(device: torch.device) -> bool:
    """Whether a device multiplies bfloat16 itself instead of emulating it."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        has = torch.cpu.get_capabilities()
        return bool(has.get("avx512_bf16") or has.get("amx_bf16") or has.get("bf16"))
    return False
