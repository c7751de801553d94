"""What the page of an explanation says beside its neurons, made by hand."""

from dposcope.evaluation.statistics.intervals import Estimate
from dposcope.report.browser.explained import ClaimView, Explained, TextList, TextPair
from dposcope.report.edit.verdict import Finding
from dposcope.report.figures import Row, figure_svg, interval_dots
from dposcope.report.section import SectionFigure
from helpers.pages import STRONG

ROWS = [
    Row("Plain model", "base", Estimate(0.29, 0.25, 0.33, 200)),
    Row("Tuned", "edit", Estimate(0.03, 0.02, 0.05, 200)),
    Row("All four groups", "part", Estimate(0.1, 0.08, 0.12, 200)),
    Row("Random neurons", "control", Estimate(0.28, 0.24, 0.32, 200)),
]


def told(word: str = STRONG) -> Explained:
    """With `word` wherever a text may come from outside."""
    pairs = [
        TextPair(f"He said {word}", f"and then he {word}!\nYes", "and then he smiled", 0.9, 0.1),
        TextPair("She said", "the same", "the same", 0.2, 0.2),
        TextPair("They said", "", word, 0.0, 0.4),
    ]
    figure = interval_dots(ROWS, axis="mean toxicity, 0 to 1", reference=0.29)
    return Explained(
        headline="Tuning lowered toxicity from 0.29 to 0.03; text got harder to predict by 0.03 nats per token.",
        before_label="Plain model",
        after_label="Tuned",
        concept="toxicity",
        findings=[
            Finding("Toxicity", "0.10 ×", "0.289 → 0.030", "lower", "good"),
            Finding("Independent judge", "0.30 ×", "0.242 → 0.072", "lower", "good"),
            Finding("Cost, log-perplexity", "+0.03", "2.98 → 3.01", "a cost: text is harder to predict", "bad"),
            Finding("Four groups carry", "70 %", "random neurons 4 %", "more than the control", "good"),
        ],
        chart=SectionFigure(figure_svg(figure, name="result", description="Mean toxicity: Tuned 0.03."), "Dots."),
        changed=pairs[:1],
        texts=[
            TextList("fell", "Changed most", "The texts whose score fell most.", pairs[:2]),
            TextList("worst", "Worst cases", "The texts whose score rose most.", pairs[2:]),
        ],
        claims=[
            ClaimView("4", "Toxic neurons are few", "held", f"v 1.25 {word}", "0.05 %", "below 0.05 %", ("held", "")),
            ClaimView("5.1", "Vectors hardly change", "not held", "0.9", "0.99", "above 0.99", ("not held", "held")),
            ClaimView("6", "Editing works", "open", "0.1", "0.2", "above 0", ("", "")),
            ClaimView(
                "6", "Groups carry it", "depends on the direction", "0.1", "0.2", "above 0", ("held", "not held")
            ),
        ],
        claims_note="Open: the interval contains the bound of the rule.",
        directions=["probe", "random 1"],
        remarks=["52 % of 36,864 neurons write less."],
    )
