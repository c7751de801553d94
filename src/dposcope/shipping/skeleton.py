"""A checkpoint's architecture without its weights, and the names of its stored tensors.

The model is built on the `meta` device from `config.json`, so a model of any size takes no memory.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    Concatenate,
    MergeModulelist,
    WeightConverter,
    WeightRenaming,
    rename_source_key,
)

from dposcope.errors import DposcopeError, first_line, is_memory
from dposcope.files import expanded
from dposcope.model.bundled import BUNDLED, bundled_folder, name_of_source
from dposcope.model.checks.config import MEND, read_config
from dposcope.model.language_model import LanguageModel
from dposcope.model.load import check_source


@dataclass(frozen=True, eq=False)
class Skeleton:
    """A checkpoint folder and its model on the `meta` device."""

    folder: Path
    lm: LanguageModel
    """Without a tokenizer, as no text is read."""
    quantisation: dict[str, Any] | None
    """`quantization_config` of its config; None if it is not quantised."""

    @classmethod
    def of(cls, source: str | Path) -> "Skeleton":
        """Read the config of a folder or a bundled model.

        Raises:
            DposcopeError: it is not a checkpoint folder, or its architecture is unknown.
        """
        folder = checkpoint_folder(source)
        config = read_config(folder)
        try:
            quantisation = config.to_dict().get("quantization_config")
            if quantisation is not None:
                if not isinstance(quantisation, dict):
                    raise DposcopeError(f"quantization_config in the config.json of {source} is no object; {MEND}")
                del config.quantization_config  # pyright: ignore[reportAttributeAccessIssue] — to build unquantised modules
            with torch.device("meta"):
                model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
        except DposcopeError:
            raise
        except Exception as error:  # a stranger's config may fail anywhere in the library
            if is_memory(error):
                raise
            raise DposcopeError(f"cannot read the architecture of {source}: {first_line(error)}; {MEND}") from error
        lm = LanguageModel(model, cast(Any, None), name_of_source(source))
        _ = lm.layout
        return cls(folder, lm, quantisation)

    @property
    def model_type(self) -> str:
        """`model_type` of the config."""
        return str(self.lm.model.config.model_type)

    @cached_property
    def module_names(self) -> dict[nn.Module, str]:
        """Dotted names of modules, as in PEFT and in the config of a quantised model."""
        return {module: name for name, module in self.lm.model.named_modules()}

    def stored_names(self, stored: Iterable[str]) -> "StoredNames":
        """How the checkpoint names the parameters.

        A checkpoint may leave out the prefix of the base model, or use older names. Names are converted by the rules
        that transformers uses on loading. Of tensors that loading joins, splits or transposes, those of experts and
        those that are only joined are known; others are left out.

        Raises:
            DposcopeError: two stored tensors are the same parameter.
        """
        model: PreTrainedModel = self.lm.model
        rules = get_model_conversion_mapping(model)
        renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
        converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
        own = model.state_dict(keep_vars=True)
        names: dict[str, str] = {}
        by_expert: dict[str, dict[str, dict[int, str]]] = {}
        joined: dict[str, dict[str, str]] = {}
        dims: dict[str, int] = {}

        def renamed(key: str) -> tuple[str, str | None]:
            name, pattern = rename_source_key(key, renamings, converters, model.base_model_prefix, own)
            return (key, None) if name not in own and key in own else (name, pattern)

        for key in stored:
            name, pattern = renamed(key)
            stem, _, last = key.rpartition(".")
            if name not in own and last not in ("weight", "bias"):
                # A scale is no parameter. It has the name of its weight, with another ending.
                name, pattern = renamed(f"{stem}.weight")
                name = f"{name.removesuffix('.weight')}.{last}"
            if pattern is not None:
                number = _EXPERT.search(key)
                if number is not None and name in own and any(_stacks(one, pattern) for one in converters):
                    by_expert.setdefault(name, {}).setdefault(pattern, {})[int(number[1])] = key
                elif name in own and (dim := _joined_along(converters, pattern)) is not None:
                    joined.setdefault(name, {})[pattern], dims[name] = key, dim
                continue
            if name in names:
                raise DposcopeError(f"{self.folder} stores {name} twice, as {names[name]} and {key}; convert it again")
            names[name] = key
        order = [pattern for rule in converters for pattern in rule.source_patterns]
        experts = {
            name: tuple(
                tuple(keys[number] for number in sorted(keys))
                for _, keys in sorted(parts.items(), key=lambda part: order.index(part[0]))
            )
            for name, parts in by_expert.items()
        }
        parts = {
            name: Joined(tuple(keys[pattern] for pattern in order if pattern in keys), dims[name])
            for name, keys in joined.items()
        }
        return StoredNames(names, experts, parts)


@dataclass(frozen=True)
class StoredNames:
    """Names in a model → names in its checkpoint."""

    one: dict[str, str]
    """Of every stored tensor that is one parameter."""
    by_expert: dict[str, tuple[tuple[str, ...], ...]]
    """Of a 3-D parameter that is stored as a tensor per expert: for each of the projections that it holds one after the
    other (gate and up, or down alone) the names of all experts."""
    joined: dict[str, "Joined"]
    """Of a parameter that is stored as a few tensors, such as a convolution of queries, keys and values."""


@dataclass(frozen=True)
class Joined:
    """Stored tensors that are one parameter, one after the other."""

    keys: tuple[str, ...]
    """Stored names in their order."""
    dim: int
    """The dimension along which they follow each other."""


_EXPERT = re.compile(r"\.experts\.(\d+)\.")


def _stacks(rule: WeightConverter, pattern: str) -> bool:
    """Whether loading makes one tensor of those of all experts, and joins gate and up."""
    known = [MergeModulelist] if len(rule.source_patterns) == 1 else [MergeModulelist, Concatenate]
    return pattern in rule.source_patterns and [type(one) for one in rule.operations] == known


def _joined_along(converters: Iterable[WeightConverter], pattern: str) -> int | None:
    """The dimension along which loading joins the tensors of a pattern, if it does nothing else to them."""
    for rule in converters:
        if pattern in rule.source_patterns:
            (first, *others) = rule.operations
            return first.dim if isinstance(first, Concatenate) and not others else None
    return None


def checkpoint_folder(source: str | Path) -> Path:
    """The folder of a checkpoint or a bundled model.

    Raises:
        DposcopeError: it is neither.
    """
    path = expanded(source)
    check_source(source)
    if path.is_dir():
        return path
    if str(source) in BUNDLED:
        return bundled_folder(str(source))
    raise DposcopeError(
        f"{str(source)!r} is not a local folder, which folding needs; download it first: "
        f"hf download {source} --local-dir FOLDER"
    )
