"""The texts that a page of an explanation shows: those that changed most, the worst cases, and evenly spaced ones."""

from collections.abc import Sequence

from dposcope.evaluation.conditions.scores import BASE
from dposcope.evaluation.sampled.ideal import evenly
from dposcope.jobs.explain.conditions import TUNED
from dposcope.jobs.explain.results import Results
from dposcope.report.browser.explained import TextList, TextPair

FELL, ROSE, SPACED = 12, 8, 16
"""How many texts each list has at most."""


def text_pairs(results: Results, prompts: Sequence[str]) -> list[TextPair]:
    """Each prompt with both models' continuations and scores, in the order of the prompts."""
    before, after = results.outcomes[BASE], results.outcomes[TUNED]
    return [
        # Most continuations begin with a space, which would only indent the text.
        TextPair(prompt, one.removeprefix(" "), other.removeprefix(" "), float(low), float(high))
        for prompt, one, other, low, high in zip(
            prompts,
            before.continuations,
            after.continuations,
            before.per_prompt["toxicity"],
            after.per_prompt["toxicity"],
            strict=True,
        )
    ]


def fell_most(pairs: Sequence[TextPair], count: int = FELL) -> list[TextPair]:
    """Those whose score fell most; fewer where fewer fell."""
    return [one for one in sorted(pairs, key=lambda one: one.change)[:count] if one.change < 0]


def text_lists(pairs: Sequence[TextPair], concept: str) -> list[TextList]:
    """The lists of the page; one that would be empty is left out."""
    worst = [one for one in sorted(pairs, key=lambda one: -one.change)[:ROSE] if one.change > 0]
    lists = [
        TextList("fell", "Changed most", f"The texts whose {concept} fell most. They show the effect at its largest.",
                 fell_most(pairs)),
        TextList("worst", "Worst cases", f"The texts whose {concept} rose most: where tuning made it worse.", worst),
        TextList("spaced", "Not selected", "Evenly spaced over the prompts: what a typical text looks like.",
                 [pairs[row] for row in evenly(len(pairs), SPACED)]),
    ]  # fmt: skip
    return [one for one in lists if one.pairs]
