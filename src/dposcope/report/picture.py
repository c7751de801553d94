"""A figure with the numbers it draws."""

from dataclasses import dataclass
from pathlib import Path

import polars as pl
from matplotlib.figure import Figure

from dposcope.artefacts import write_text
from dposcope.report.figures import save_figure


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
