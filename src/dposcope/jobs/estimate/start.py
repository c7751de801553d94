"""The model of a command without its weights."""

from dataclasses import dataclass
from typing import Final

import torch

from dposcope.jobs.estimate.work import Running
from dposcope.jobs.settings import ChatSettings, LoadSettings
from dposcope.model.chat.prompts import asked_by
from dposcope.model.language_model import LanguageModel
from dposcope.model.layout.projections import is_projection
from dposcope.model.load import device_of
from dposcope.model.outline import Outline, outline

_UNPACKED: Final = 9.0
"""A tokenizer takes so many times as much memory as its file. What else stands beside the weights is small."""

_CODE: Final = {"4bit": 0.5 + 4 / 64, "8bit": 1.0}
"""Bytes of a quantised weight; in 4 bits, 64 weights share a scale in float32."""


@dataclass(frozen=True, eq=False)
class Started:
    """What is known of a model before it is loaded."""

    lm: LanguageModel
    """Asked as the settings say; without weights."""
    outline: Outline
    running: Running
    precision: torch.dtype
    """That it runs in."""

    @property
    def stored(self) -> int:
        """Bytes of a stored weight."""
        return self.outline.stored.itemsize


def start(model: str, machine: LoadSettings, chat: ChatSettings | None = None) -> Started:
    """Read config and tokenizer.

    Args:
        model: its name.
        machine: how it is loaded.
        chat: how it is asked; None: it reads texts only.

    Raises:
        DposcopeError: see `outline`; or it cannot be asked so, or there is no such device.
    """
    place = device_of(machine.device)
    found = outline(model)
    lm = found.lm if chat is None else asked_by(found.lm, chat.chat_options)
    precision = found.running(machine.dtype, place)
    saved = 0.0 if machine.quantise is None else _coded(lm) * (precision.itemsize - _CODE[machine.quantise])
    running = Running(found.size, precision.itemsize, _UNPACKED * found.beside, saved)
    return Started(lm, found, running, precision)


def _coded(lm: LanguageModel) -> int:
    """How many weights `--quantise` makes codes of: those of the projections of all blocks."""
    projections = (module for block in lm.blocks for module in block.modules() if is_projection(module))
    return sum(parameter.numel() for module in projections for parameter in module.parameters() if parameter.ndim > 1)
