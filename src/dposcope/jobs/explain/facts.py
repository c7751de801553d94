"""What is read of `explain.json`, by a report over several explanations. No model is loaded."""

from dataclasses import dataclass
from typing import Any, Final

from dposcope.evaluation.statistics.intervals import Share
from dposcope.jobs.explain.claims.claim import Verdict
from dposcope.protocols import Protocol

KIND: Final = "dposcope explain"
"""What the file calls itself."""


@dataclass(frozen=True)
class ClaimFacts:
    """A claim of the paper; see `Claim.to_dict`."""

    section: str
    claim: str
    here: str
    measured: str
    value: float | None
    low: float | None
    high: float | None
    verdict: Verdict


@dataclass(frozen=True)
class ExplainFacts:
    """The main numbers of an explanation."""

    base: str
    tuned: str
    protocol: Protocol
    settings: dict[str, Any]
    reducing: float
    """Share of neurons that reduce the concept."""
    share_of_dpo: dict[str, Share | None]
    """Patch → share of tuning's reduction; null where it is not defined."""
    claims: list[ClaimFacts]
