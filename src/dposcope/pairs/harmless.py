"""Texts that a model wrote itself and that a scorer finds harmless: what tuning should leave as it is."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dposcope.artefacts import text_digest, write_atomically
from dposcope.data.tables import open_table
from dposcope.errors import DposcopeError

PROMPT, TEXT = "prompt", "text"
"""Columns of their file."""


@dataclass(frozen=True)
class HarmlessTexts:
    """Completions with their prompts, in order."""

    prompts: tuple[str, ...]
    completions: tuple[str, ...]
    """Each without its prompt, with its leading space."""

    def __len__(self) -> int:
        """How many."""
        return len(self.completions)

    @property
    def digest(self) -> str:
        """What a training on them depends on."""
        return text_digest(*self.prompts, *self.completions)


def write_harmless(path: Path, texts: HarmlessTexts, scores: Sequence[float]) -> None:
    """Write JSONL with the columns `prompt`, `text` and `score`, whole or not at all."""
    rows = zip(texts.prompts, texts.completions, scores, strict=True)
    with write_atomically(path) as temporary:
        temporary.write_text(
            "".join(json.dumps({PROMPT: prompt, TEXT: text, "score": score}) + "\n" for prompt, text, score in rows),
            encoding="utf-8",
        )


def load_harmless(source: str | Path) -> HarmlessTexts:
    """Read a table with the columns `prompt` and `text`; rows without text are left out.

    Raises:
        DposcopeError: the file cannot be read, lacks a column, or holds no text.
    """
    table = open_table(source).select([PROMPT, TEXT], option="other names in the file", keep_blank=True)
    rows = [(prompt, text) for prompt, text in zip(table.texts(PROMPT), table.texts(TEXT), strict=True) if text.strip()]
    if not rows:
        raise DposcopeError(f"{source} holds no text; give --harmless a file that dposcope pairs wrote")
    return HarmlessTexts(tuple(prompt for prompt, _ in rows), tuple(text for _, text in rows))
