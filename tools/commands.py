"""The pages of the commands, from the program's own help.

    python tools/commands.py    writes docs/commands/*.md again; a test compares them

`docs/commands/index.md` is written by hand.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

from dposcope.cli.app import app

PAGES = Path(__file__).parents[1] / "docs" / "commands"


def pages() -> dict[str, str]:
    """File name → content, one for each command; commands below a command stand on its page."""
    return {f"{name}.md": _page(name, app[name]) for name in app if not name.startswith("-")}


def _page(name: str, command: Any) -> str:
    below = [part for part in command if not part.startswith("-")]
    parts = [*_section(f"dposcope {name}", command, 1)]
    for part in below:
        parts += _section(f"dposcope {name} {part}", command[part], 2)
    return "\n".join(parts) + "\n"


def _section(name: str, command: Any, level: int) -> Iterator[str]:
    """One command, with a heading for each group of options, so that each has its place in the table of contents."""
    with patch.object(sys, "argv", ["dposcope"]):  # the name of the program, whatever runs this
        text = command.generate_docs(output_format="markdown", usage_name=name, include_hidden=True, recursive=False)
    text = re.sub(r"## Table of Contents\n(\n?- .*)+\n", "", text)
    own = re.split(r"^## ", text, maxsplit=1, flags=re.M)[0]  # what follows is short help of the commands below
    yield f"{'#' * level} {name}"
    for line in own.rstrip().splitlines()[1:]:
        group = re.fullmatch(r"\*\*(.+)\*\*:", line)
        yield f"{'#' * (level + 1)} {group[1]}" if group else re.sub(r"\[(`[^`]+`)\]\(#[^)]*\)", r"\1", line)
    yield ""


def main() -> None:
    """Write all pages."""
    for name, content in pages().items():
        (PAGES / name).write_text(content, encoding="utf-8")


if __name__ == "__main__":
    main()
