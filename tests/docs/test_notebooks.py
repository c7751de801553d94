"""The tutorials: every cell runs, on a tiny model; what they show is of the model that they name."""

import json
from pathlib import Path

import pytest
from tools.notebooks import PARAMETERS, PRINTED, TUTORIALS, as_markdown, run

from helpers.jobs import Job, make_job

NOTEBOOKS = sorted(TUTORIALS.glob("*.ipynb"))
SMALL = {
    "first-edit": "import dposcope as ds\n\nlm = ds.load({model!r}, dtype='float32')",
    "first-explanation": (
        "import torch\n\nimport dposcope as ds\n\nbase = ds.load({model!r}, dtype='float32')\n"
        "gains = torch.linspace(0.2, 1.8, base.n_neurons).reshape(base.n_blocks, -1)\n"
        "edit = ds.Edit.of(ds.Gains(gains))"
    ),
}
"""Notebook → the lines that a test runs in the place of its parameters."""


def read(path: Path) -> dict:
    return json.loads(path.read_text("utf-8"))


@pytest.fixture(scope="module")
def job(tmp_path_factory) -> Job:
    return make_job(tmp_path_factory.mktemp("job"))


def test_there_are_both():
    assert [path.stem for path in NOTEBOOKS] == sorted(SMALL)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_tutorial_runs_from_the_first_cell_to_the_last(path, job, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    notebook = read(path)
    done = run(notebook, parameters=SMALL[path.stem].format(model=str(job.model)))
    shown = [[output["output_type"] for output in cell.get("outputs", [])] for cell in done["cells"]]
    kept = [[output["output_type"] for output in cell.get("outputs", [])] for cell in notebook["cells"]]
    assert shown == kept, "run: python tools/notebooks.py"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_tutorial_is_kept_as_it_ran(path):
    code = [cell for cell in read(path)["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    tagged = [cell for cell in code if PARAMETERS in cell["metadata"].get("tags", ())]
    assert ['MODEL = "gemma-3-270m"\n' in cell["source"] for cell in tagged] == [True]


def cell(kind: str, source: str, *tags: str) -> dict:
    return {"cell_type": kind, "source": [source], "metadata": {"tags": [*tags]}, "outputs": []}


def test_a_cell_prints_and_shows_its_last_value():
    cells = cell("code", "a = 2", PARAMETERS), cell("markdown", "# Two"), cell("code", "print(a)\na + 1")
    notebook = {"cells": [*cells]}
    page = as_markdown(run(notebook))
    assert page.split("\n\n") == [
        "```python\na = 2\n```",
        "# Two",
        "```python\nprint(a)\na + 1\n```",
        f"{PRINTED}\n2\n```",
        f"{PRINTED}\n3\n```",
    ]
    assert f"{PRINTED}\n5\n```" in as_markdown(run(notebook, parameters="a = 5"))


def test_a_cell_that_fails_is_told():
    with pytest.raises(ZeroDivisionError):
        run({"cells": [cell("code", "1 / 0")]})


def test_figures_and_tables_are_shown_as_such():
    lines = "import polars\nfrom matplotlib.figure import Figure\npolars.DataFrame({'a': [1]})"
    page = as_markdown(run({"cells": [cell("code", lines), cell("code", "Figure()")]}))
    assert "<table><thead><tr><th>a</th></tr></thead><tbody><tr><td>1</td></tr>" in page
    assert 'src="data:image/png;base64,' in page
