"""Presets of `dposcope reproduce`: a whole study as a TOML file of the commands' own options.

    title = "…"
    models = ["gemma-3-270m"]

    [shared]                   # options of every command that has them
    seed = 0

    [explain]                  # options of every `dposcope explain`
    max_windows = 16

    [strict]                   # … in one protocol; [reference] likewise
    edit_forms = ["scale"]

    [[study]]
    name = "sampled"
    protocols = ["strict", "reference"]
    pairs = { method = "sample" }
    dpo = {}
    explain = {}               # of this study's alone

A study is pairs, a model tuned with them, and its explanation in each protocol.
"""

import tomllib
from importlib import resources
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import Field, ValidationError, field_validator

from dposcope.data.trust import check_settings
from dposcope.errors import DposcopeError
from dposcope.jobs.numbers import Blocks, Parameters, Tokens, Width
from dposcope.jobs.settings import Settings
from dposcope.reading import read_toml

Protocol = Literal["strict", "reference"]
Needed = Literal["prompts", "comments", "passages"]

_SUFFIX: Final = ".toml"


class SizePreset(Settings):
    """A model's size, see `model/size.py`."""

    parameters: Parameters
    vocabulary: Tokens
    width: Width
    blocks: Blocks
    mlp: Width
    key_width: Width


class StudyPreset(Settings):
    """Pairs, a tuned model, its explanation."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    about: str = ""
    """Why the reproduction has this study, in one sentence."""
    protocols: list[Protocol] = Field(default=["strict"], min_length=1)
    pairs: dict[str, Any] = Field(default_factory=dict[str, Any])
    dpo: dict[str, Any] = Field(default_factory=dict[str, Any])
    explain: dict[str, Any] = Field(default_factory=dict[str, Any])

    @field_validator("protocols")
    @classmethod
    def _once(cls, value: list[Protocol]) -> list[Protocol]:
        if len(set(value)) != len(value):
            raise ValueError("a protocol is named twice")
        return value


class Preset(Settings):
    """A whole reproduction, except the data that the user gives."""

    name: str
    title: str
    models: list[str] = Field(min_length=1)
    needs: list[Needed] = Field(default_factory=list[Needed])
    """Data that the user must give."""
    size: SizePreset | None = None
    """Size of the model, so that planning does not need the model."""
    shared: dict[str, Any] = Field(default_factory=dict[str, Any])
    explain: dict[str, Any] = Field(default_factory=dict[str, Any])
    strict: dict[str, Any] = Field(default_factory=dict[str, Any])
    reference: dict[str, Any] = Field(default_factory=dict[str, Any])
    study: list[StudyPreset] = Field(min_length=1)

    @field_validator("study")
    @classmethod
    def _different_names(cls, value: list[StudyPreset]) -> list[StudyPreset]:
        names = [study.name for study in value]
        if len(set(names)) != len(names):
            raise ValueError("two studies have one name")
        return value


def preset_names() -> list[str]:
    """The presets that come with the package, in order of their names."""
    return sorted(file.name.removesuffix(_SUFFIX) for file in _folder().iterdir() if file.name.endswith(_SUFFIX))


def load_preset(name: str) -> Preset:
    """A preset by its name, or from a TOML file of one's own.

    Raises:
        DposcopeError: there is no such preset, or the file is not one.
    """
    if name.endswith(_SUFFIX):
        if not Path(name).exists():
            raise DposcopeError(f"no preset file {name}; name a .toml file, or one of: {', '.join(preset_names())}")
        values = read_toml(name, mend="mend it there")
    elif name in preset_names():
        values = tomllib.loads(_folder().joinpath(name + _SUFFIX).read_text(encoding="utf-8"))
    else:
        raise DposcopeError(f"no preset {name!r}; choose one of: {', '.join(preset_names())}, or a .toml file")
    try:
        check_settings(values, f"preset {name}")
        return Preset(name=Path(name).name.removesuffix(_SUFFIX), **values)
    except (ValidationError, TypeError) as error:
        raise DposcopeError(f"preset {name}: {_first(error)}") from error


def _first(error: ValidationError | TypeError) -> str:
    if isinstance(error, TypeError):  # a key that is given twice: `name` is the file's own
        return "the name of a preset is that of its file; leave `name` out"
    first = error.errors()[0]
    return (
        f"{'.'.join(str(part) for part in first['loc'])}: {first['msg'].removeprefix('Value error, ')}; mend it there"
    )


def _folder() -> Any:
    return resources.files("dposcope.jobs.reproduce").joinpath("presets")
