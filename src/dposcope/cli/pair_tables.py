"""Statistics of pairs as a table in the terminal."""

from collections.abc import Iterator, Mapping
from typing import Any

from dposcope.cli.console import print_facts
from dposcope.data.concept import TOXICITY, Concept
from dposcope.evaluation.statistics import Estimate, Ratio


def print_statistics(statistics: Mapping[str, Any], concept: Concept = TOXICITY) -> None:
    """Print pair statistics (from `PairStatistics.to_json`) in 80 columns; `concept` is what was scored."""
    print_facts(_rows(statistics, concept))


def _rows(statistics: Mapping[str, Any], concept: Concept) -> Iterator[tuple[str, str]]:
    yield "pairs", f"{statistics['count']:,}"
    for name in ("identical", "blank", "repeated_prompts", "prompt_in_text"):
        yield _LABELS[name], f"{statistics[name]:,}"
    for side, lengths in statistics.get("lengths", {}).items():
        shown = (
            f"mean {lengths['mean']:.1f}, median {lengths['median']:g}, p95 {lengths['p95']:g}, max {lengths['max']:,}"
        )
        yield f"tokens, {side}", shown
    if scores := statistics.get("scores"):
        yield "scorer", scores["scorer"]
        yield f"dispreferred more {concept.adjective}", str(Estimate.from_dict(scores["more_toxic"]))
        yield f"{concept.noun}, preferred", str(Estimate.from_dict(scores["preferred"]))
        yield f"{concept.noun}, dispreferred", str(Estimate.from_dict(scores["dispreferred"]))
        yield "dispreferred over preferred", "–" if scores["ratio"] is None else str(Ratio.from_dict(scores["ratio"]))
    for side, estimate in statistics.get("fluency", {}).items():
        yield f"log-PPL, {side}", f"{Estimate.from_dict(estimate)} nats per token"
    if leakage := statistics.get("leakage"):
        yield "validation pairs", f"{leakage['validation']:,}"
        yield "… with a prompt of these", f"{leakage['prompts']:,}"
        yield "… with a text of these", f"{leakage['texts']:,}"


_LABELS = {
    "identical": "identical sides, left out",
    "blank": "a blank side, left out",
    "repeated_prompts": "repeat an earlier prompt",
    "prompt_in_text": "a side begins with its prompt",
}
