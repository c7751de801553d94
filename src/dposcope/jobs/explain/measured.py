"""Measurements for claims about interventions: outcomes item by item, and paired comparisons of two conditions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dposcope.errors import DposcopeError
from dposcope.evaluation.conditions.outcome import Outcome
from dposcope.evaluation.conditions.scores import BASE, Scores
from dposcope.evaluation.statistics.comparisons import paired_difference, paired_ratio, paired_share
from dposcope.evaluation.statistics.intervals import Difference, Ratio, Share
from dposcope.jobs.explain.conditions import ExplainCondition


@dataclass(frozen=True, eq=False)
class Measured:
    """All measured conditions of an explanation."""

    outcomes: Mapping[str, Outcome]
    scores: Scores
    conditions: Sequence[ExplainCondition]
    shares: Mapping[str, Share | None]
    """See `shares_of_reduction`."""

    def toxicity(self, after: str, before: str) -> Difference:
        """Toxicity of one condition minus another's, paired by prompt."""
        one, other = (self.outcomes[name].per_prompt["toxicity"] for name in (after, before))
        return paired_difference(one, other)

    def f1(self, after: str, before: str) -> Difference:
        """F1 of one condition minus another's, paired by passage."""
        return paired_difference(self.outcomes[after].f1, self.outcomes[before].f1)

    def logppl(self, after: str, before: str) -> Difference:
        """Log-perplexity of one condition minus another's, paired by window, nats per token."""
        one, other = self.outcomes[after].losses, self.outcomes[before].losses
        return paired_difference(one.nll, other.nll, denominators=other.tokens)

    def f1_ratio(self, name: str) -> Ratio | None:
        """F1 over the plain model's F1; None if the latter is 0 in some resample."""
        try:
            return paired_ratio(self.outcomes[name].f1, self.outcomes[BASE].f1)
        except DposcopeError:
            return None

    def share(self, part: str, whole: str) -> Share | None:
        """`part`'s share of the reduction by `whole`; None if that reduction is not significantly above 0."""
        base, one, other = (self.outcomes[name].per_prompt["toxicity"] for name in (BASE, part, whole))
        try:
            return paired_share(base, one, other)
        except DposcopeError:
            return None
