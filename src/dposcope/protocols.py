"""Choices that are named in many places: the two protocols (what the paper's text says, and what its published code
does), the ways to split prompts, to pair samples, to quantise and to spread a model, and the fewest items of an
interval."""

from typing import Literal

from dposcope.errors import DposcopeError

Protocol = Literal["strict", "reference"]
"""`strict`: as the text says, measured correctly. `reference`: as the published code does."""

Split = Literal["halves", "three-way", "same"]
"""How prompts are split; see `split_prompts`."""

Pairing = Literal["random", "extremes"]
"""How samples become pairs; see `Pairer`."""

Quantise = Literal["4bit", "8bit"]
"""How weights are quantised on loading, by bitsandbytes."""

DeviceMap = Literal["auto"]
"""How one model is spread over several devices; see `load`."""

LEAST_ITEMS = 10
"""Fewest items with an interval: with fewer, none keeps its level (see `evaluation/bootstrap.py`)."""


def check_protocol(protocol: str) -> None:
    """Refuse anything else, which would otherwise pass for one of the two.

    Raises:
        DposcopeError: it is neither.
    """
    check_choice("protocol", protocol, ("strict", "reference"))


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Refuse a value that is none of the choices.

    Raises:
        DposcopeError: the message lists them.
    """
    if not isinstance(value, str) or value not in choices:
        raise DposcopeError(f"{name} {value!r} is unknown; choose from {', '.join(choices)}")
