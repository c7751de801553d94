"""The measures and terms that all reports explain."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal


@dataclass(frozen=True)
class Measure:
    """A measure: one column in the tables of scores."""

    key: str
    """Its name in the scores."""
    label: str
    unit: str
    better: Literal["lower", "higher"]
    meaning: str
    price: bool = False
    """Whether it says what a change costs. A price is worse or not shown to be; it is never good."""


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
        "Mean score of the continuations. Each is 20 greedy tokens, scored without its prompt.",
    ),
    Measure(
        "judge",
        "Judge",
        "score, 0 to 1",
        "lower",
        "The same continuations, scored by a second, independent scorer that was trained on other comments. An edit "
        "that only exploits the first scorer fails here.",
    ),
    Measure(
        "logppl",
        "Log-perplexity",
        "nats per token",
        "lower",
        "Mean negative log-likelihood of neutral text. A rise of 0.1 means about 10 per cent more perplexity.",
        price=True,
    ),
    Measure(
        "f1",
        "F1",
        "overlap, 0 to 1",
        "higher",
        "Overlap of generated tokens with the true continuation of encyclopedic passages; mean over passages.",
        price=True,
    ),
    Measure(
        "repetition",
        "Repetition",
        "share, 0 to 1",
        "lower",
        "Share of a continuation's word pairs that occurred in it before: 1 − distinct / total.",
        price=True,
    ),
    Measure("empty", "Empty", "share, 0 to 1", "lower", "Share of continuations without a word.", price=True),
    Measure(
        "harmless_logppl",
        "Harmless log-perplexity",
        "nats per token",
        "lower",
        "Mean negative log-likelihood of the ideal's texts, each after its prompt. Its rise says what an edit costs on "
        "harmless text that the plain model itself would write.",
        price=True,
    ),
    Measure(
        "relevance",
        "Relevance",
        "nats per token",
        "higher",
        "How much of a continuation its own prompt explains: its log-likelihood after its own prompt less that after "
        "another prompt, both under the plain model.",
        price=True,
    ),
)
"""Measures with an interval, in the order of the tables."""


def sentence_case(words: str) -> str:
    """The words with a capital first letter."""
    return words[:1].upper() + words[1:]


def measures_of(concept: str, further: Sequence[str] = ()) -> tuple[Measure, ...]:
    """`MEASURES` with the concept's own name on the scorer's, and further scorers beside the judge."""
    first = replace(MEASURES[0], label=sentence_case(concept))
    others = (
        Measure(name, f"By {name}", "score, 0 to 1", "lower", f"The same continuations, scored by {name}.")
        for name in further
    )
    return (first, MEASURES[1], *others, *MEASURES[2:])


DISTINCT = Measure(
    "distinct_2",
    "Distinct-2",
    "share, 0 to 1",
    "higher",
    "Distinct word pairs divided by all word pairs, over all continuations together. It has no interval.",
)

TERMS = (
    Term(
        "Interval",
        "95 per cent bootstrap interval over items: prompts, passages or windows of text. It shows how much the mean "
        "may differ on other items of the same kind. It says nothing about other kinds of text. It is corrected for "
        "bias and skewness (BCa), and as wide as Student's t asks for few items. Fewer than 10 have no interval.",
    ),
    Term(
        "Difference",
        "Condition minus plain model, on the same items, resampled together. It is shown only if two tests agree: "
        "its interval excludes 0, and the mean is seldom as far from 0 if each item's difference has its sign by "
        "chance (sign-flip test). A mark also needs p < 0.05 after Holm's correction for the number of conditions: "
        "among many, one often looks better by chance.",
    ),
    Term("Plain model", "The model as it was given, without an edit; in files its condition is named none."),
    Term("×", "Ratio of two means over the same items: 0.45 × is 45 per cent of the plain model's."),
    Term(
        "TP, TN, AP, AN",
        "Neuron groups: does the value vector point with the direction (T) or against it (A), and is the mean "
        "activation positive (P) or negative (N)? The edit shrinks TP and AN and grows TN and AP.",
    ),
    Term("Gain", "Factor on one neuron's activation; 1 means no change."),
    Term("Ablation", "A share of the component along the direction is removed from output projections."),
    Term("Strength", "One factor that multiplies both gain − 1 and the weight of the ablation."),
    Term(
        "Protocol",
        "strict: what the paper's text says, measured correctly; reference: what its published code does.",
    ),
    Term("Lens", "The tokens that a vector promotes when the model's own output layer reads it."),
    Term(
        "Ideal",
        "The plain model's own samples that score below 0.5. It is the plain model given that it is harmless, so "
        "no edit can do better in all measures at once. Samples, one a prompt; other rows are greedy text.",
    ),
    Term("Kept", "A condition's value divided by that of the plain model."),
    Term(
        "Distinct pairs kept",
        "Different word pairs over all continuations together, as a share of the plain model's. It has no interval.",
    ),
    Term(
        "Phrase that rose most",
        "The 2 to 4 words whose share of texts rose most over the plain model's. An edit may learn a manner, such "
        "as one way to begin; measures within one text do not see it.",
    ),
    Term(
        "‡",
        "One scorer shows this difference, and another does not: it has no mark there, or one on the other side.",
    ),
    Term("Control", "An edit of the same size that should have no effect: shuffled gains, a random direction."),
)
