"""Sections of a page."""

import polars as pl

from dposcope.evaluation.numbers import DIFFERENCE, FACT, MEAN
from dposcope.evaluation.statistics.intervals import Difference, Estimate, columns_of
from dposcope.report.edit.figures import group_bars
from dposcope.report.edit.page import GroupSize
from dposcope.report.figures import figure_svg
from dposcope.report.section import Section, SectionFigure
from dposcope.report.table import Column, Table, frame_of


def sections(word: str = "a word") -> list[Section]:
    figure = figure_svg(group_bars([GroupSize("TP", 4, 2)]), name="groups", description="Neurons edited")
    lines = [
        {"condition": "none", "change": None, "count": 0} | columns_of("toxicity", Estimate(0.3, 0.28, 0.33, 9)),
        {"condition": word, "change": -0.25, "count": 12345} | columns_of("toxicity", Estimate(0.1, 0.08, 0.12, 9)),
    ]
    scores = (
        Column("condition", "Condition"),
        Column.ranged("toxicity", "Toxicity", MEAN),
        Column("change", "Change", FACT),
        Column("count", word, FACT),
    )
    gaps = pl.DataFrame([{"condition": "x"} | columns_of("gap", Difference(-0.2, -0.3, -0.1, 9))])
    gap = (Column("condition", "Condition"), Column.ranged("gap", "Gap", DIFFERENCE))
    return [
        Section("What it did", [f"It did {word}."], [SectionFigure(figure, f"Groups, {word}")]),
        Section(
            word,
            tables=[
                Table("two", "Table 2", frame_of(lines), scores, ("Paired.",)),
                Table("three", "Table 3", gaps, gap),
            ],
        ),
    ]
