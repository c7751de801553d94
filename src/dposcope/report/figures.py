"""Figures of reports. Each function returns a matplotlib figure; `figure_svg` makes it an element of a page.

Colours are Okabe and Ito's or near them, which colour-blind readers can distinguish, and every role has its own marker.
In a page the colours become CSS variables, so figures follow its light or dark theme. In files they are as written
here. This module does not use pyplot and leaves no setting changed.
"""

import io
import re
import textwrap
import warnings
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import polars as pl
from markupsafe import Markup
from matplotlib import style
from matplotlib.figure import Figure
from matplotlib.text import Text

from dposcope.artefacts import write_atomically, write_text
from dposcope.evaluation.numbers import fixed
from dposcope.evaluation.statistics.intervals import Estimate
from dposcope.foreign_text import visible
from dposcope.report.table import csv_text

INK, MUTED, RULE, GROUND = "#24292f", "#69707a", "#d4d8de", "#fcfcfd"
COLOURS = {
    "base": "#767d87",
    "edit": "#0072b2",
    "part": "#009e73",
    "control": "#d55e00",
    "paper": "#b0609a",
    "limit": "#8a6d00",
    "tp": "#993300",
    "tn": "#0068a8",
    "ap": "#008a64",
    "an": "#b58100",
}
"""Role → colour. The last four are the neuron groups."""
MARKERS = {"base": "o", "edit": "D", "part": "s", "control": "^", "paper": "v", "limit": "P"}
"""Role → marker."""
MOST_SERIES = 8
"""More than this many series in one figure cannot be told apart."""

_VARIABLES = {
    INK: "ink",
    MUTED: "muted",
    RULE: "rule",
    GROUND: "ground",
    **{colour: role for role, colour in COLOURS.items()},
}
_WIDTH = 3.7
"""In inches, 355 pixels: the width of a phone. A page shows figures at the size that they are drawn at."""
_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "dposcope",
    "text.parse_math": False,
    "font.family": ["DejaVu Sans"],
    "font.size": 9,
    "axes.labelsize": 9,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": INK,
    "axes.edgecolor": RULE,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}
# Styles that SVG also has as attributes. A page's content security policy forbids style="…".
_ATTRIBUTES = re.compile(
    r"(fill|stroke)(-(opacity|rule|width|linecap|linejoin|dasharray|dashoffset|miterlimit))?|opacity|text-anchor"
    r"|font-size|font-style|font-weight"
)
_SVG, _XLINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}"


@dataclass(frozen=True)
class Row:
    """One line of `interval_dots`."""

    label: str
    role: str
    """A key of `COLOURS`."""
    estimate: Estimate


def interval_dots(rows: Sequence[Row], *, axis: str, reference: float | None = None, digits: int = 3) -> Figure:
    """Dots for means with bars for their intervals, one row each, with the number at the end.

    Args:
        rows: from top to bottom.
        axis: what is measured, with its unit.
        reference: a dashed line at this value, such as the plain model's mean.
        digits: of the numbers.
    """
    with house_style():
        figure, axes = one_axes(0.75 + 0.42 * len(rows))
        if reference is not None:
            axes.axvline(reference, color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)))
        for place, row in enumerate(rows):
            colour, estimate = COLOURS[row.role], row.estimate
            axes.plot([estimate.low, estimate.high], [place, place], color=colour, linewidth=2.2)
            # Whole also at the end of the axis, where a mean of 0 stands.
            axes.plot(
                [estimate.mean],
                [place],
                MARKERS[row.role],
                color=colour,
                markersize=6.5,
                linestyle="none",
                clip_on=False,
            )
            axes.annotate(
                fixed(estimate.mean, digits),
                (1.0, place),
                xycoords=("axes fraction", "data"),
                xytext=(6, 0),
                textcoords="offset points",
                va="center",
            )
        name_rows(axes, [row.label for row in rows])
        axes.set_xlim(left=min([0.0, *(row.estimate.low for row in rows if row.estimate.known)]))
        axes.grid(axis="x")
        axes.set_xlabel(axis)
        return figure


def figure_svg(figure: Figure, *, name: str, description: str) -> Markup:
    """The figure as an SVG element for an HTML page.

    The same figure gives the same bytes. Text stays text. Styles become attributes, and known colours become CSS
    variables (`--fig-ink`, `--fig-edit` …) with the colour as fallback. Namespaces, metadata and external references
    are removed.

    Args:
        figure: any matplotlib figure.
        name: unique in the page; prefix of the identifiers inside.
        description: text for screen readers.
    """
    buffer = io.BytesIO()
    with _drawing(figure):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    root = ElementTree.fromstring(buffer.getvalue())
    for child in list(root):
        if child.tag.endswith("metadata"):
            root.remove(child)
    _drop_styles(root)
    wanted = _references(root)
    for element in root.iter():
        _inline(element, name, wanted)
    _, _, width, height = root.attrib["viewBox"].split()
    shape = {"viewBox": root.attrib["viewBox"], "width": _pixels(width), "height": _pixels(height)}
    root.attrib.clear()
    root.attrib.update({**shape, "role": "img", "aria-label": visible(description)})
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as SVG or PNG, by the path's ending, atomically; the same figure gives the same bytes."""
    facts = {".svg": {"Date": None}, ".png": {"Software": None}}[path.suffix]
    with _drawing(figure), write_atomically(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:], metadata=facts, facecolor="white", dpi=160)


@contextmanager
def _drawing(figure: Figure) -> Generator[None]:
    """In the house style, and with texts that a file of XML can hold, which may be names from anywhere."""
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        text.set_text(visible(text.get_text()))
    with house_style(), warnings.catch_warnings():
        # The reader's fonts draw the text of an SVG, so matplotlib's font may lack a letter; in a PNG it is a box.
        warnings.filterwarnings("ignore", message=r"Glyph .* missing")
        yield


def _drop_styles(root: ElementTree.Element) -> None:
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag == f"{_SVG}style":
                parent.remove(child)


def _references(root: ElementTree.Element) -> set[str]:
    names: set[str] = set()
    for element in root.iter():
        for value in element.attrib.values():
            names.update(re.findall(r"url\(#([^)]+)\)", value))
        names.add(element.attrib.get(f"{_XLINK}href", "").removeprefix("#"))
    return names


def _inline(element: ElementTree.Element, name: str, wanted: set[str]) -> None:
    """Remove namespaces from an element, turn its styles into attributes and prefix its identifiers."""
    element.tag = element.tag.removeprefix(_SVG)
    old = dict(element.attrib)
    element.attrib.clear()
    for key, value in old.items():
        if key == "style":
            element.attrib.update(_style_attributes(value))
        elif key == f"{_XLINK}href":
            element.attrib["href"] = f"#{name}-{value.removeprefix('#')}"
        elif key == "id":
            if value in wanted:
                element.attrib["id"] = f"{name}-{value}"
        else:
            element.attrib[key] = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", value)


def _style_attributes(text: str) -> dict[str, str]:
    attributes: dict[str, str] = {}
    for declaration in text.split(";"):
        key, _, value = (part.strip() for part in declaration.partition(":"))
        if _ATTRIBUTES.fullmatch(key):
            attributes[key] = f"var(--fig-{_VARIABLES[value]}, {value})" if value in _VARIABLES else value
    return attributes


def _pixels(points: str) -> str:
    return f"{float(points) * 4 / 3:.0f}"


def one_axes(height: float) -> tuple[Figure, Any]:
    """A figure of the pages' width and this height in inches, and its axes."""
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    return figure, figure.subplots()


def name_rows(axes: Any, labels: Sequence[str]) -> None:
    """Rows from top to bottom, each with its label on at most two lines, right-aligned beside the axes."""
    axes.set_yticks([])
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.spines["left"].set_visible(False)
    for place, label in enumerate(labels):
        lines = textwrap.wrap(visible(label), 21, max_lines=2, placeholder=" …")
        for line, text in enumerate(lines):
            # One text per line: several lines in one text are placed by matplotlib's font, not by the page's.
            axes.annotate(
                text,
                (0.0, place),
                xycoords=("axes fraction", "data"),
                xytext=(-8, 11.0 * ((len(lines) - 1) / 2 - line)),
                textcoords="offset points",
                ha="right",
                va="center",
            )


@contextmanager
def house_style() -> Generator[None]:
    """Inside the context, matplotlib uses the style of reports and ignores the user's matplotlibrc."""
    with style.context(["default", _STYLE]):
        yield


@dataclass(frozen=True, eq=False)
class Picture:
    """A figure of the paper, or a further one."""

    name: str
    """Name of its files: `figure-04-density`."""
    title: str
    """What it shows, in one sentence."""
    figure: Figure
    data: pl.DataFrame
    """The numbers in the figure; no nested columns."""

    def save(self, folder: Path) -> None:
        """Write NAME.svg, .png and .csv."""
        save_figure(self.figure, folder / f"{self.name}.svg")
        save_figure(self.figure, folder / f"{self.name}.png")
        write_text(folder / f"{self.name}.csv", csv_text(self.data))
