"""A hook of mkdocs: drawings of a page become part of it, so that they take the colours of its light or dark theme."""

import re
from pathlib import Path
from typing import Any

DRAWING = re.compile(r"!\[[^\]]*\]\((concepts/[a-z-]+\.svg)\)")
"""Such as `![A neuron](concepts/neuron.svg)`. Other pictures stay files."""
LEAST = 500
"""Pixels of width, at which the letters of a drawing are 12 pixels high."""


def on_page_markdown(markdown: str, *, config: Any, **_: Any) -> str:
    """Put each drawing in the place of its link, without the colours that it has when it stands alone."""
    folder = Path(config["docs_dir"])

    def drawing(found: re.Match[str]) -> str:
        svg = re.sub(r"<style>.*?</style>\n", "", (folder / found[1]).read_text("utf-8")).replace("\n", "")
        # On a phone it is moved sideways rather than read with a glass.
        wide = svg.replace("<svg ", f'<svg style="min-width: {LEAST}px" ', 1)
        return f'<div style="overflow-x: auto" tabindex="0">{wide}</div>'

    return DRAWING.sub(drawing, markdown)
