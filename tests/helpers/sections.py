"""Sections of a page."""

from dposcope.evaluation.statistics import Difference, Estimate
from dposcope.report.edit.figures import group_bars
from dposcope.report.edit.page import GroupSize
from dposcope.report.figures import figure_svg
from dposcope.report.section import Section, SectionFigure, SectionTable


def sections(word: str = "a word") -> list[Section]:
    figure = figure_svg(group_bars([GroupSize("TP", 4, 2)]), name="groups", description="Neurons edited")
    rows = [["none", Estimate(0.3, 0.28, 0.33, 9), None, 0], [word, Estimate(0.1, 0.08, 0.12, 9), -0.25, 12345]]
    return [
        Section("What it did", [f"It did {word}."], [SectionFigure(figure, f"Groups, {word}")]),
        Section(
            word,
            tables=[
                SectionTable("Table 2", ["Condition", "Toxicity", "Change", word], rows, note="Paired."),
                SectionTable("Table 3", ["Condition", "Gap"], [["x", Difference(-0.2, -0.3, -0.1, 9)]]),
            ],
        ),
    ]
