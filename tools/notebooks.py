"""The tutorials, which are notebooks: run them again, and show them as pages of the documentation.

    python tools/notebooks.py    runs docs/start/*.ipynb on the models that they name, and keeps their outputs (minutes)

A cell is run as Jupyter runs it: all its lines, and the value of its last expression is shown. mkdocs reads this file
as a hook (see mkdocs.yml): every notebook becomes a page of the same name, with its outputs below its cells.
"""

import ast
import base64
import contextlib
import io
import json
import re
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
TUTORIALS = ROOT / "docs" / "start"
PARAMETERS = "parameters"
"""Tag of the cell that names the model. A test runs other lines in its place."""
PRINTED = "``` {.text .printed}"
"""Opens what a cell printed, whose long lines docs/pages.css breaks."""


def run(notebook: Mapping[str, Any], *, parameters: str | None = None) -> dict[str, Any]:
    """The notebook with the outputs of one run, from the first cell to the last.

    Args:
        notebook: as `json.loads` reads it.
        parameters: lines to run in the place of the cell that has the tag `parameters`.
    """
    names: dict[str, Any] = {"__name__": "__main__"}
    cells, count = [], 0
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            count += 1
            given = parameters is not None and PARAMETERS in cell["metadata"].get("tags", ())
            lines = parameters if given else "".join(cell["source"])
            outputs = _run_cell(str(lines), names, count)
            cells.append({**cell, "execution_count": count, "outputs": outputs})
        else:
            cells.append(cell)
    return {**notebook, "cells": cells}


def _run_cell(lines: str, names: dict[str, Any], count: int) -> list[dict[str, Any]]:
    body = ast.parse(lines).body
    last = body.pop() if body and isinstance(body[-1], ast.Expr) else None
    printed, value = io.StringIO(), None
    with contextlib.redirect_stdout(printed):
        exec(compile(ast.Module(body, []), f"cell {count}", "exec"), names)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), f"cell {count}", "eval"), names)
    outputs: list[dict[str, Any]] = []
    if text := printed.getvalue():
        outputs.append({"output_type": "stream", "name": "stdout", "text": text.splitlines(keepends=True)})
    if value is not None:
        outputs.append(
            {"output_type": "execute_result", "execution_count": count, "metadata": {}, "data": _shown(value)}
        )
    return outputs


def _shown(value: Any) -> dict[str, Any]:
    """A value in the forms that a notebook can show."""
    from matplotlib.figure import Figure

    shown: dict[str, Any] = {"text/plain": repr(value).splitlines(keepends=True)}
    if isinstance(value, Figure):
        picture = io.BytesIO()
        value.savefig(picture, format="png", dpi=110, bbox_inches="tight", facecolor="white")
        shown["image/png"] = base64.b64encode(picture.getvalue()).decode()
    elif (html := getattr(value, "_repr_html_", None)) is not None:
        shown["text/html"] = html().splitlines(keepends=True)
    return shown


def as_markdown(notebook: Mapping[str, Any]) -> str:
    """The page: text as it stands, cells as code, and below each what it printed and showed."""
    return "\n\n".join(
        text
        for cell in notebook["cells"]
        for text in (
            ("".join(cell["source"]),)
            if cell["cell_type"] == "markdown"
            else (f"```python\n{''.join(cell['source'])}\n```", *map(_as_output, cell["outputs"]))
        )
    )


def _as_output(output: Mapping[str, Any]) -> str:
    if output["output_type"] == "stream":
        return f"{PRINTED}\n{''.join(output['text']).rstrip()}\n```"
    data = output["data"]
    if "image/png" in data:
        return f'<img alt="Figure of the cell above" src="data:image/png;base64,{data["image/png"]}" />'
    if "text/html" in data:
        # polars names the shape and the type of each column, and quotes words: the page does not. Without a class,
        # the theme draws the table as its own.
        html = re.sub(r"<style.*?</style>|<small>.*?</small>", "", "".join(data["text/html"]), flags=re.S)
        html = html.replace("\n", "").replace("&quot;", "")
        html = re.sub(r"</tr><tr>(<td>[^<]*</td>)+</tr></thead>", "</tr></thead>", html)
        return re.sub(r"<table[^>]*>", "<table>", html)
    return f"{PRINTED}\n{''.join(data['text/plain'])}\n```"


def on_files(files: Any, config: Any) -> Any:
    """A hook of mkdocs: put a page in the place of each notebook."""
    for file in list(files):
        if file.src_uri.endswith(".ipynb"):
            notebook = json.loads(Path(file.abs_src_path).read_text("utf-8"))
            files.remove(file)
            page = file.src_uri.removesuffix(".ipynb") + ".md"
            files.append(File.generated(config, page, content=as_markdown(notebook)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """A hook of mkdocs: links to notebooks, which work in the repository, lead to their pages."""
    return re.sub(r"(\]\([^)\s]+)\.ipynb([)#])", r"\1.md\2", markdown)


def main(*names: str) -> None:
    """Run the tutorials of these names again, all where there is none, and keep their outputs."""
    for path in [TUTORIALS / f"{name}.ipynb" for name in names] or sorted(TUTORIALS.glob("*.ipynb")):
        print(path.relative_to(ROOT), file=sys.stderr)
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):  # for the files that the cells write
            notebook = run(json.loads(path.read_text("utf-8")))
        path.write_text(json.dumps(notebook, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
