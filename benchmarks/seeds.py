"""How much the numbers of an edit differ from seed to seed, as Markdown.

    python benchmarks/seeds.py runs/measured-0 runs/measured-1 runs/measured-2 [--figure seeds.svg]

Each run is one seed, and has conditions of the same names; a condition is compared over the runs that have it. The
interval over prompts says nothing of another training, the spread between seeds says nothing of other prompts.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from dposcope.errors import DposcopeError
from dposcope.evaluation.conditions.scores import BASE, Scores, StoredScores
from dposcope.evaluation.numbers import Format
from dposcope.reading import read_json
from dposcope.report.figures import GROUND, MUTED, house_style, save_figure
from dposcope.report.front import finish_front, spots_of
from dposcope.report.series import series_styles
from dposcope.report.table import Column, Table, frame_of

SHARE, RISE = Format.named("fixed 2"), Format.named("signed fixed 2")
_COSTS = {"logppl": "log-PPL, neutral", "harmless_logppl": "log-PPL, harmless"}


@dataclass(frozen=True)
class Seeds:
    """One measure of one condition, a value a seed."""

    values: tuple[float, ...]
    """In the order of the runs."""

    @property
    def mean(self) -> float:
        """Over seeds."""
        return float(np.mean(self.values))

    @property
    def deviation(self) -> float:
        """Standard deviation between seeds, with n − 1."""
        return float(np.std(self.values, ddof=1))

    def written(self, form: Format) -> str:
        """Every value, and their mean and standard deviation."""
        return f"{', '.join(map(form.value, self.values))}: {form.value(self.mean)} ± {SHARE.value(self.deviation)}"


def common_scorers(runs: Sequence[Scores]) -> list[str]:
    """Those that every run has."""
    return [one for one in runs[0].scorers if all(one in run.scorers for run in runs)]


def row(name: str, runs: Sequence[Scores]) -> dict[str, str]:
    """The cells of one condition over runs that have it.

    Raises:
        DposcopeError: fewer than two runs have it.
    """
    having = [run for run in runs if name in run.against_none]
    if len(having) < 2:
        raise DposcopeError(f"only one run has the condition {name!r}; name the runs of at least two seeds")
    cells = {"condition": name}
    for scorer in common_scorers(runs):
        shares = [run.conditions[name][scorer].mean / run.conditions[BASE][scorer].mean for run in having]
        cells[scorer] = Seeds(tuple(shares)).written(SHARE)
    ratios = [run.against_none[name].toxicity_ratio for run in having]
    halves = [(ratio.high - ratio.low) / 2 for ratio in ratios if ratio is not None]
    cells["prompts"] = f"± {SHARE.value(np.mean(halves))}" if halves else "–"
    for measure in _COSTS:
        found = [run.against_none[name].differences.get(measure) for run in having]
        rises = tuple(rise.mean for rise in found if rise is not None)
        cells[measure] = Seeds(rises).written(RISE) if len(rises) == len(having) else "–"
    return cells


def read(folders: Sequence[Path]) -> list[Scores]:
    """What the runs measured.

    Raises:
        DposcopeError: a folder is no finished run.
    """
    runs: list[Scores] = []
    for folder in folders:
        path = folder / "scores.json"
        if not path.exists():
            raise DposcopeError(f"{folder} holds no scores.json; name the folder of a finished run")
        runs.append(Scores.from_json(read_json(path, StoredScores)))
    return runs


def table_of(runs: Sequence[Scores]) -> Table:
    """A row a condition, in the order of the first run that has it.

    Raises:
        DposcopeError: a condition stands in one run only.
    """
    names = dict.fromkeys(name for run in runs for name in run.against_none)
    columns = [
        Column("condition", "condition"),
        *(Column(scorer, f"{scorer}, share of the plain model's") for scorer in common_scorers(runs)),
        Column("prompts", "half of its 95 % interval over prompts, mean"),
        *(Column(measure, label) for measure, label in _COSTS.items()),
    ]
    title = "Each seed, then their mean and the standard deviation between seeds."
    return Table("seeds", title, frame_of([row(name, runs) for name in names]), tuple(columns))


def drawn(runs: Sequence[Scores]) -> Figure:
    """Each condition of each seed as a dot with its interval over prompts, over the price on harmless text."""
    names = dict.fromkeys(name for run in runs for name in run.against_none)
    styles = series_styles(list(names))
    with house_style():
        figure = Figure(figsize=(6.4, 3.6), layout="constrained")
        axes = figure.subplots()
        axes.axhline(1, color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)))
        axes.axvline(0, color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)))
        for name in names:
            spots = [spot for run in runs for spot in spots_of(run) if spot.label == name]
            style = styles[name]
            for spot in spots:
                axes.plot(
                    [spot.rise.mean] * 2, [spot.left.low, spot.left.high], color=style.colour, linewidth=1, alpha=0.5
                )
            places = [spot.rise.mean for spot in spots], [spot.left.ratio for spot in spots]
            axes.plot(*places, style.marker, color=style.colour, markeredgecolor=GROUND, label=name)
        finish_front(figure, axes, runs[0].concept)
        return figure


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--figure", type=Path)
    options = parser.parse_args()
    try:
        runs = read(options.runs)
        table = table_of(runs)
    except DposcopeError as error:
        print(f"seeds: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(2) from error
    print(table.markdown())
    if options.figure is not None:
        save_figure(drawn(runs), options.figure)


if __name__ == "__main__":
    main()
