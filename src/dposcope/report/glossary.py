"""The measures and terms of a report, in the words that every page uses."""

from dataclasses import dataclass, replace
from typing import Literal


@dataclass(frozen=True)
class Measure:
    """One column of the tables of scores."""

    key: str
    """Its name in the scores."""
    label: str
    unit: str
    better: Literal["lower", "higher"]
    meaning: str


@dataclass(frozen=True)
class Term:
    """A word that a reader may not know."""

    name: str
    meaning: str


MEASURES = (
    Measure(
        "toxicity",
        "Toxicity",
        "score, 0 to 1",
        "lower",
        "Mean score that the scorer gives the continuation alone, 20 greedy tokens, without its prompt.",
    ),
    Measure(
        "judge",
        "Judge",
        "score, 0 to 1",
        "lower",
        "The same continuations scored by a second, independent scorer, trained on other comments: an edit that "
        "only games the first scorer fails here.",
    ),
    Measure(
        "logppl",
        "Log-perplexity",
        "nats per token",
        "lower",
        "Mean negative log-likelihood of neutral text. A rise of 0.1 is about 10 per cent more perplexity.",
    ),
    Measure(
        "f1",
        "F1",
        "overlap, 0 to 1",
        "higher",
        "Overlap of the generated tokens with the true continuation of encyclopedic passages, mean over passages.",
    ),
    Measure(
        "repetition",
        "Repetition",
        "share, 0 to 1",
        "lower",
        "Share of word pairs of a continuation that occurred in it before: 1 − distinct / total.",
    ),
    Measure("empty", "Empty", "share, 0 to 1", "lower", "Share of continuations without a word."),
)
"""Measures with an interval, in the order of the tables."""


def sentence_case(words: str) -> str:
    """The words as they begin a sentence or a column."""
    return words[:1].upper() + words[1:]


def measures_of(concept: str) -> tuple[Measure, ...]:
    """`MEASURES` with the concept's own name on the scorer's."""
    first = replace(MEASURES[0], label=sentence_case(concept))
    return (first, *MEASURES[1:])


DISTINCT = Measure(
    "distinct_2",
    "Distinct-2",
    "share, 0 to 1",
    "higher",
    "Distinct over total word pairs of all continuations together; one number, so it has no interval.",
)

TERMS = (
    Term(
        "Interval",
        "95 per cent percentile bootstrap interval over items: prompts, passages or windows of text. It says how far "
        "other items of the same kind might move the mean, and nothing about other kinds of text.",
    ),
    Term(
        "Difference",
        "Condition minus unedited model on the same items, resampled together. Only a difference whose interval "
        "excludes 0 is called better or worse.",
    ),
    Term("×", "Ratio of two means over the same items: 0.45 × is 45 per cent of the unedited model's."),
    Term(
        "TP, TN, AP, AN",
        "Neuron groups: does the value vector point with the direction (T) or against it (A), and is the mean "
        "activation positive (P) or negative (N)? The edit shrinks TP and AN and grows TN and AP.",
    ),
    Term("Gain", "Factor on one neuron's activation; 1 leaves it alone."),
    Term("Ablation", "Output projections lose a share of their component along the direction."),
    Term("Strength", "One factor on the shift of the gains and the weight of the ablation together."),
    Term(
        "Protocol",
        "strict: what the paper's text says, measured correctly; reference: what its published code does.",
    ),
    Term("Lens", "The tokens that a vector promotes when the model's own output layer reads it."),
    Term("Control", "An edit of the same size that should not work: shuffled gains, a random direction."),
)
