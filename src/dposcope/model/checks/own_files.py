"""The files that make up a checkpoint's folder, told from what else lies there and from links that lead out of it.

A folder may come from a stranger. A link in it, such as `chat_template.jinja -> ~/.ssh/id_rsa`, would carry a file of
the user's into every model that is made from it.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

from dposcope.errors import DposcopeError

_WEIGHTS: Final = (
    *(".bin", ".pt", ".pth", ".h5", ".msgpack", ".ot", ".onnx", ".onnx_data", ".gguf", ".safetensors", ".tflite"),
)
"""Suffixes of files with weights."""
_SIDE_FILES: Final = (
    *("*config.json", "*.index.json", "params.json"),
    *("tokenizer*.json", "special_tokens_map.json", "added_tokens.json", "normalizer.json", "tekken.json"),
    *("vocab*.json", "vocab*.txt", "merges*.txt", "dict.txt", "*.vocab", "*.bpe", "*.codes", "*.tiktoken"),
    *("*.model", "*.spm", "*.jinja", "chat_template*.json"),
    *("licen[cs]e*", "notice*", "copying*", "use_policy*", "*terms*.md", "*terms*.txt"),
)
"""Configs, tokenizers, chat templates and licences, in lower case."""
_FOLDERS: Final = ("additional_chat_templates", "original")
"""Where such files lie beside the folder itself."""
_BLOB: Final = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
"""A file in the cache of the Hugging Face hub, to which the links of its snapshots lead."""


@dataclass(frozen=True)
class OwnFiles:
    """What lies in a checkpoint's folder, without hidden files; no link among them leads out but those of `others`."""

    side: tuple[Path, ...]
    """Configs, tokenizer, chat templates, licence: all that belongs to a checkpoint beside its weights."""
    weights: tuple[Path, ...]
    """Files with weights, of any format."""
    others: tuple[Path, ...]
    """What is no part of a checkpoint: files and folders."""


def own_files(folder: Path) -> OwnFiles:
    """Tell the files in a checkpoint's folder apart.

    Raises:
        DposcopeError: a side file, or one with weights, is a link that leads out of the folder.
    """
    side: list[Path] = []
    weights: list[Path] = []
    others: list[Path] = []
    for path in _found(folder):
        if not path.is_file():
            others.append(path)
        elif path.suffix.lower() in _WEIGHTS:
            weights.append(path)
        elif any(fnmatchcase(path.name.lower(), pattern) for pattern in _SIDE_FILES):
            side.append(path)
        else:
            others.append(path)
    for path in (*side, *weights, *(path for path in others if path.name in _FOLDERS)):
        check_link(folder, path)
    return OwnFiles(tuple(side), tuple(weights), tuple(others))


def check_link(folder: Path, path: Path) -> None:
    """Refuse a link in a folder that leads out of it, unless into the cache of the Hugging Face hub.

    Raises:
        DposcopeError: it does.
    """
    if not path.is_symlink():
        return
    target = path.resolve()
    in_cache = target.parent.name == "blobs" and _BLOB.fullmatch(target.name)
    if not in_cache and not target.is_relative_to(folder.resolve()):
        raise DposcopeError(
            f"{path} is a link that leads out of the model's folder, to {target}; put the file itself there, or copy "
            "the whole model with: cp -rL"
        )


def _found(folder: Path) -> Iterator[Path]:
    for path in sorted(Path(entry.path) for entry in os.scandir(folder) if not entry.name.startswith(".")):
        if path.name in _FOLDERS and path.is_dir() and not path.is_symlink():
            yield from sorted(one for one in path.iterdir() if not one.name.startswith("."))
        else:
            yield path
