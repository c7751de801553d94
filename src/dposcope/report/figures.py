"""Figures of reports: each takes values and returns a matplotlib figure; `figure_svg` sets one into a page.

Colours are Okabe and Ito's, told apart by colour-blind readers, and every kind has a marker of its own.
In a page they become CSS variables, so that figures follow its light and dark theme; as a file they
are what is written here. Nothing here touches pyplot or leaves a setting changed.
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

from dposcope.artefacts import write_atomically, write_text
from dposcope.evaluation.numbers import fixed
from dposcope.evaluation.statistics import Estimate
from dposcope.report.edit.page import GroupSize, SearchStep

INK, MUTED, RULE, GROUND = "#24292f", "#69707a", "#d4d8de", "#fcfcfd"
COLOURS = {"base": "#767d87", "edit": "#0072b2", "part": "#009e73", "control": "#d55e00", "paper": "#b0609a"}
"""Role → colour."""
MARKERS = {"base": "o", "edit": "D", "part": "s", "control": "^", "paper": "v"}
"""Role → marker."""

_VARIABLES = {
    INK: "ink",
    MUTED: "muted",
    RULE: "rule",
    GROUND: "ground",
    **{colour: role for role, colour in COLOURS.items()},
}
_WIDTH = 4.2
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
# What SVG takes as attributes of an element; a page's content security policy forbids style="…".
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
    """Means with their intervals, one below the other, each with its number.

    Args:
        rows: from top to bottom.
        axis: what is measured, with its unit.
        reference: a dashed line at this value, such as the unedited model's mean.
        digits: of the numbers.
    """
    with house_style():
        figure, axes = _axes(0.75 + 0.42 * len(rows))
        if reference is not None:
            axes.axvline(reference, color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)))
        for place, row in enumerate(rows):
            colour, estimate = COLOURS[row.role], row.estimate
            axes.plot([estimate.low, estimate.high], [place, place], color=colour, linewidth=2.2)
            axes.plot([estimate.mean], [place], MARKERS[row.role], color=colour, markersize=6.5, linestyle="none")
            axes.annotate(
                fixed(estimate.mean, digits),
                (1.0, place),
                xycoords=("axes fraction", "data"),
                xytext=(6, 0),
                textcoords="offset points",
                va="center",
            )
        _name_rows(axes, [row.label for row in rows])
        axes.set_xlim(left=min([0.0, *(row.estimate.low for row in rows)]))
        axes.grid(axis="x")
        axes.set_xlabel(axis)
        return figure


def strength_curve(steps: Sequence[SearchStep], *, bound: float | None, chosen: float | None) -> Figure:
    """What each strength costs in log-perplexity, with intervals; the bound and the chosen strength are marked.

    Args:
        steps: trials in any order; at least one.
        bound: dashed, in nats per token.
        chosen: a dotted line at this strength.
    """
    ordered = sorted(steps, key=lambda step: step.strength)
    with house_style():
        figure, axes = _axes(2.9)
        strengths = [step.strength for step in ordered]
        means = [step.increase.mean for step in ordered]
        axes.plot([0.0, *strengths], [0.0, *means], color=RULE, linewidth=1.2)
        for step in ordered:
            taken = step.strength == chosen
            colour = COLOURS["edit"] if taken else COLOURS["base"]
            interval = [step.increase.low, step.increase.high]
            axes.plot([step.strength, step.strength], interval, color=colour, linewidth=2.2)
            marker = MARKERS["edit" if taken else "base"]
            axes.plot([step.strength], [step.increase.mean], marker, color=colour, markersize=6)
        if bound is not None:
            axes.axhline(bound, color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)))
            axes.annotate(
                f"bound {fixed(bound, 2)}",
                (0, bound),
                xytext=(4, 4),
                textcoords="offset points",
                fontsize=9,
                color=MUTED,
            )
        if chosen:
            axes.axvline(chosen, color=COLOURS["edit"], linewidth=0.9, linestyle=(0, (1, 2)))
        axes.set_xlim(left=0)
        axes.margins(x=0.06, y=0.12)
        axes.grid(axis="y")
        axes.set_xlabel("strength")
        axes.set_ylabel("log-perplexity, rise in nats per token")
        return figure


def group_bars(groups: Sequence[GroupSize]) -> Figure:
    """How many neurons each group has, and how many of them are edited: the filled part.

    Args:
        groups: from top to bottom; at least one.
    """
    with house_style():
        figure, axes = _axes(0.2 + 0.42 * len(groups))
        places = range(len(groups))
        axes.barh(places, [group.size for group in groups], height=0.56, color=RULE)
        axes.barh(places, [group.chosen for group in groups], height=0.56, color=COLOURS["edit"])
        for place, group in enumerate(groups):
            axes.annotate(
                f"{group.chosen:,} of {group.size:,}",
                (group.size, place),
                xytext=(6, 0),
                textcoords="offset points",
                va="center",
            )
        _name_rows(axes, [group.group for group in groups])
        # Room for the numbers beside the longest bar; they say all that an axis would.
        axes.set_xlim(0, 1.5 * max([1, *(group.size for group in groups)]))
        axes.set_xticks([])
        axes.spines["bottom"].set_visible(False)
        return figure


def change_scatter(before: Sequence[float], after: Sequence[float], *, axis: str, names: tuple[str, str]) -> Figure:
    """One point per prompt: its score before (across) and after (up); below the diagonal it fell.

    Args:
        before: scores between 0 and 1.
        after: the same prompts.
        axis: what is scored.
        names: of the two conditions.
    """
    with house_style():
        figure, axes = _axes(3.5)
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)))
        axes.plot(before, after, "o", color=COLOURS["edit"], markersize=5.5, alpha=0.55, markeredgewidth=0)
        axes.text(0.97, 0.06, "fell", ha="right", color=MUTED)
        axes.text(0.03, 0.92, "rose", ha="left", color=MUTED)
        axes.set_xlim(-0.03, 1.03)
        axes.set_ylim(-0.03, 1.03)
        axes.set_aspect("equal")
        axes.grid()
        axes.set_xlabel(f"{axis}: {_cut(names[0])}")
        axes.set_ylabel(f"{axis}: {_cut(names[1])}")
        return figure


def figure_svg(figure: Figure, *, name: str, description: str) -> Markup:
    """The figure as an SVG element that can stand in an HTML page beside others.

    The same figure gives the same bytes. Text stays text; styles become attributes, known colours CSS
    variables (`--fig-ink`, `--fig-edit` …) with the colour itself to fall back on; no namespace, metadata
    or reference to the outside is left.

    Args:
        figure: made by a function of this module, or any other.
        name: unique in the page; the identifiers inside begin with it.
        description: for readers who do not see it.
    """
    buffer = io.BytesIO()
    with house_style(), warnings.catch_warnings():
        # Text stays text, so the page's fonts draw it; matplotlib's own need not hold every letter.
        warnings.filterwarnings("ignore", message=r"Glyph .* missing")
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
    root.attrib.update({**shape, "role": "img", "aria-label": description})
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as SVG or PNG, by the path's ending, atomically; the same figure gives the same bytes."""
    facts = {".svg": {"Date": None}, ".png": {"Software": None}}[path.suffix]
    with house_style(), write_atomically(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:], metadata=facts, facecolor="white", dpi=160)


def _drop_styles(root: ElementTree.Element) -> None:
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag == f"{_SVG}style":
                parent.remove(child)


def _references(root: ElementTree.Element) -> set[str]:
    found: set[str] = set()
    for element in root.iter():
        for value in element.attrib.values():
            found.update(re.findall(r"url\(#([^)]+)\)", value))
        found.add(element.attrib.get(f"{_XLINK}href", "").removeprefix("#"))
    return found


def _inline(element: ElementTree.Element, name: str, wanted: set[str]) -> None:
    """Make one element independent of the rest of the page."""
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


def _axes(height: float) -> tuple[Figure, Any]:
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    return figure, figure.subplots()


def _name_rows(axes: Any, labels: Sequence[str]) -> None:
    """Rows from top to bottom, each with its label on at most two lines, right-aligned beside the axes."""
    axes.set_yticks([])
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.spines["left"].set_visible(False)
    for place, label in enumerate(labels):
        lines = textwrap.wrap(label, 21, max_lines=2, placeholder=" …")
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


def _cut(label: str, length: int = 30) -> str:
    return label if len(label) <= length else f"{label[: length - 1]}…"


@contextmanager
def house_style() -> Generator[None]:
    """Inside, matplotlib draws as reports do, whatever the reader's matplotlibrc says."""
    with style.context(["default", _STYLE]):
        yield


@dataclass(frozen=True, eq=False)
class Picture:
    """One figure of the paper, or one more."""

    name: str
    """Of its files: `figure-04-density`."""
    title: str
    """What it shows, in one sentence."""
    figure: Figure
    data: pl.DataFrame
    """What is drawn; flat columns."""

    def save(self, folder: Path) -> None:
        """Write NAME.svg, .png and .csv."""
        save_figure(self.figure, folder / f"{self.name}.svg")
        save_figure(self.figure, folder / f"{self.name}.png")
        write_text(folder / f"{self.name}.csv", self.data.write_csv())
