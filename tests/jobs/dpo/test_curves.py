"""The curves of a training: four panels, both parts in each, and a file that is the same every time."""

import re
from xml.etree import ElementTree

import matplotlib as mpl
import pytest

from dposcope.errors import DposcopeError
from dposcope.jobs.dpo.curves import training_curves
from dposcope.report.figures import save_figure

PANELS = ["loss", "accuracy", "margin", "kl"]


def history() -> list[dict[str, float]]:
    entries: list[dict[str, float]] = []
    for step in range(1, 7):
        entries.append({"step": step, "grad_norm": 1.0} | {name: step / (n + 2) for n, name in enumerate(PANELS)})
        if step % 3 == 0:
            entries.append({"step": step} | {f"eval_{name}": step / (n + 3) for n, name in enumerate(PANELS)})
    return entries


def lines(axes) -> dict[str, tuple[list[float], list[float]]]:
    found = {line.get_label(): line for line in axes.lines if not line.get_label().startswith("_")}
    return {name: (list(line.get_xdata()), list(line.get_ydata())) for name, line in found.items()}


def test_the_last_batch_of_a_pass_may_be_smaller():
    figure = training_curves(history(), pairs=21, batch_size=8, best_step=3)
    assert lines(figure.axes[0])["training"][0] == [8, 16, 21, 29, 37, 42]
    assert vertical(figure) == [[21]] * 4


def test_four_panels_with_both_curves_over_pairs_seen():
    figure = training_curves(history(), pairs=64, batch_size=8)
    assert len(figure.axes) == 4
    for n, axes in enumerate(figure.axes):
        assert lines(axes) == {
            "training": ([8 * step for step in range(1, 7)], [step / (n + 2) for step in range(1, 7)]),
            "validation": ([24, 48], [3 / (n + 3), 6 / (n + 3)]),
        }
    labels = [axes.get_ylabel() for axes in figure.axes]
    assert labels == ["loss", "pairs told apart", "reward margin", "KL, nats per token"]
    assert [axes.get_xlabel() for axes in figure.axes] == ["", "", "pairs seen", "pairs seen"]
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["training", "validation"]


def test_a_teacher_has_a_fifth_panel(tmp_path):
    taught = [entry | ({"distillation": entry["step"] / 9} if "loss" in entry else {}) for entry in history()]
    figure = training_curves(taught, pairs=64, batch_size=8)
    assert [axes.get_ylabel() for axes in figure.axes][4:] == ["KL from the teacher, nats"]
    assert lines(figure.axes[4])["training"] == ([8 * step for step in range(1, 7)], [step / 9 for step in range(1, 7)])
    assert [axes.get_xlabel() for axes in figure.axes] == ["", "", "", "pairs seen", "pairs seen"]
    save_figure(figure, tmp_path / "five.svg")
    too_short = [{"step": 2, "eval_distillation": 0.4} | {f"eval_{name}": 0.5 for name in PANELS}]
    assert lines(training_curves(too_short, pairs=64, batch_size=4).axes[4])["validation"] == ([8], [0.4])


def vertical(figure) -> list[list[float]]:
    return [[line.get_xdata()[0] for line in axes.lines if list(line.get_ydata()) == [0, 1]] for axes in figure.axes]


def test_the_step_that_was_taken_is_marked():
    assert vertical(training_curves(history(), pairs=64, batch_size=8, best_step=3)) == [[24]] * 4
    assert vertical(training_curves(history(), pairs=64, batch_size=8)) == [[]] * 4


def test_a_training_too_short_to_log_has_its_validation():
    only = [{"step": 2} | {f"eval_{name}": 0.5 for name in PANELS}]
    figure = training_curves(only, pairs=64, batch_size=4)
    assert lines(figure.axes[0]) == {"training": ([], []), "validation": ([8], [0.5])}


def test_the_file_is_whole_reaches_for_nothing_and_is_the_same_twice(tmp_path):
    before = dict(mpl.rcParams)
    for name in ("a.svg", "b.svg"):
        save_figure(training_curves(history(), pairs=64, batch_size=8, best_step=3), tmp_path / name)
    text = (tmp_path / "a.svg").read_text("utf-8")
    assert text == (tmp_path / "b.svg").read_text("utf-8")
    root = ElementTree.fromstring(text)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    references = re.findall(r"""(?:href|src)\s*=\s*["']([^"']*)|url\(([^)]*)\)""", text)
    assert references
    assert all((href or url).startswith("#") for href, url in references)
    assert "<script" not in text
    assert "<!DOCTYPE" not in text or "ENTITY" not in text
    words = {element.text for element in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {"training", "validation", "pairs seen", "reward margin"} <= words
    assert dict(mpl.rcParams) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.svg", "b.svg"]


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DposcopeError, match=r"cannot write .*; free the path or choose another --out"):
        save_figure(training_curves(history(), pairs=64, batch_size=8), tmp_path / "file" / "a.svg")
