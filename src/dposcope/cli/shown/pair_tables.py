"""Statistics of pairs as a table in the terminal."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from dposcope.cli.console import print_facts
from dposcope.data.concept import TOXICITY, Concept
from dposcope.evaluation.numbers import NOTHING

if TYPE_CHECKING:
    from dposcope.pairs.checks import PairStatistics


def print_statistics(statistics: "PairStatistics", concept: Concept = TOXICITY) -> None:
    """Print statistics of pairs in 80 columns; `concept` is what was scored."""
    print_facts(_rows(statistics, concept))


def _rows(found: "PairStatistics", concept: Concept) -> Iterator[tuple[str, str]]:
    yield "pairs", f"{found.count:,}"
    yield "identical sides, left out", f"{found.identical:,}"
    yield "a blank side, left out", f"{found.blank:,}"
    yield "repeat an earlier prompt", f"{found.repeated_prompts:,}"
    yield "a side begins with its prompt", f"{found.prompt_in_text:,}"
    if (of := found.lengths) is not None:
        for side, one in (("prompt", of.prompt), ("preferred", of.preferred), ("dispreferred", of.dispreferred)):
            shown = f"mean {one.mean:.1f}, median {one.median:g}, p95 {one.p95:g}, max {one.max:,}"
            yield f"tokens, {side}", shown
    if (scores := found.scores) is not None:
        yield "scorer", scores.scorer
        yield f"dispreferred more {concept.adjective}", str(scores.more_toxic)
        yield f"{concept.noun}, preferred", str(scores.preferred)
        yield f"{concept.noun}, dispreferred", str(scores.dispreferred)
        yield "dispreferred over preferred", NOTHING if scores.ratio is None else str(scores.ratio)
    if (fluency := found.fluency) is not None:
        for side, estimate in (("preferred", fluency.preferred), ("dispreferred", fluency.dispreferred)):
            yield f"log-PPL, {side}", f"{estimate} nats per token"
    if (leakage := found.leakage) is not None:
        yield "validation pairs", f"{leakage.validation:,}"
        yield "… with a prompt of these", f"{leakage.prompts:,}"
        yield "… with a text of these", f"{leakage.texts:,}"
