"""A hook of mkdocs: drawings of a page become part of it, so that they take the colours of its light or dark theme."""

import re
from pathlib import Path
from typing import Any

DRAWING = re.compile(r"!\[[^\]]*\]\((concepts/[a-z-]+\.svg)\)")
"""Such as `![A neuron](concepts/neuron.svg)`. Other pictures stay files."""


def on_page_markdown(markdown: str, *, config: Any, **_: Any) -> str:
    """Put each drawing in the place of its link, without the colours that it has when it stands alone."""
    folder = Path(config["docs_dir"])

    def drawing(found: re.Match[str]) -> str:
        return re.sub(r"<style>.*?</style>\n", "", (folder / found[1]).read_text("utf-8")).replace("\n", "")

    return DRAWING.sub(drawing, markdown)
