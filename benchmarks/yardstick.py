"""What an edited model really writes: beside its toxicity, the price on harmless text, relevance, variety and phrases.

    python benchmarks/yardstick.py gemma-3-270m --condition edit=edit:gemma-3-270m --prompts prompts.jsonl \\
        [--rows 0:60] [--samples 25] [--dtype bfloat16] [--batch-size 64]

Conditions are those of `dposcope evaluate`, without what needs comments. Each prompt is continued greedily and sampled
(temperature 1, top-p 0.9, 20 tokens, one stream of draws for all conditions). `ideal` is the plain model's samples that
score below 0.5. Harmless log-perplexity is the rise, in nats per token, that a condition gives those samples. Relevance
is what a text's own prompt explains of it under the plain model, in nats per token. Distinct pairs and the phrase are
of greedy text: pairs as a share of the plain model's, and the phrase whose share of texts rose most.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import dposcope as ds
from dposcope.data.masking import mask_offensive
from dposcope.data.prompts import load_prompts
from dposcope.errors import DposcopeError
from dposcope.evaluation.conditions.scores import BASE
from dposcope.evaluation.numbers import Format
from dposcope.evaluation.perplexity import WindowLosses
from dposcope.evaluation.sampled.continuations import continuation_losses, relevance
from dposcope.evaluation.sampled.phrases import Phrase, distinct_pairs, risen_phrases
from dposcope.evaluation.sampled.real_toxicity import RealToxicity, distinct_per_prompt, harmless, sample_texts
from dposcope.evaluation.scorers import load_scorer
from dposcope.evaluation.statistics.comparisons import bootstrap_mean, paired_difference
from dposcope.evaluation.statistics.intervals import Difference, Estimate
from dposcope.jobs.ingredients.prepared import Ingredients
from dposcope.jobs.measuring.conditions import parse_condition
from dposcope.model.generate import Continuation, generate
from dposcope.report.table import Column, Table, frame_of

IDEAL = "ideal"


@dataclass(frozen=True)
class Row:
    """One condition."""

    name: str
    greedy: dict[str, Estimate]
    """Scorer → mean toxicity of greedy text."""
    sampled: dict[str, RealToxicity]
    """Scorer → the protocol of RealToxicityPrompts."""
    harmless: Difference | None
    """Rise of harmless log-perplexity; None for the plain model and the ideal."""
    relevance: Estimate
    distinct: tuple[float, ...]
    """dist-1, dist-2, dist-3 of samples."""
    pairs_kept: float | None
    phrase: Phrase | None


def main() -> None:
    """The command."""
    options = _parser().parse_args()
    try:
        rows = list(measure(options))
    except DposcopeError as error:
        print(f"yardstick: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(2) from error
    print(table(rows).markdown())


def measure(options: argparse.Namespace) -> Iterator[Row]:
    """The plain model, the ideal, then every condition."""
    specs = [parse_condition(text) for text in options.condition]
    prompts = load_prompts(options.prompts)[slice(*options.rows)]
    scorers = {name: load_scorer(name) for name in options.scorers}
    lm = ds.load(options.model, dtype=options.dtype)
    named: dict[str, Any] = {BASE: None} | {spec.name: spec.build(_no_comments, options.seed) for spec in specs}
    base_greedy: list[str] = []
    ideal: list[Continuation] = []
    before: WindowLosses | None = None
    for name, condition in named.items():
        print(name, file=sys.stderr, flush=True)

        def applied(condition: Any = condition) -> AbstractContextManager[Any]:
            return nullcontext() if condition is None else condition.on(lm)

        with applied():
            greedy = [one.text for one in generate(lm, prompts, batch_size=options.batch_size)]
            samples = sample_texts(
                lm, prompts, samples=options.samples, seed=options.seed, batch_size=options.batch_size
            )
        texts = [one.text for one in samples]
        scores = {name: scorer(texts) for name, scorer in scorers.items()}
        if before is None:
            base_greedy, ideal = greedy, harmless(samples, scores[options.scorers[0]])
        with applied():
            losses = continuation_losses(lm, ideal, batch_size=options.batch_size)
        before = before or losses
        rise = None if name == BASE else paired_difference(losses.nll, before.nll, denominators=losses.tokens)
        shape = (len(prompts), options.samples)
        yield Row(
            name,
            {key: bootstrap_mean(scorer(greedy)) for key, scorer in scorers.items()},
            {key: RealToxicity.of(found.reshape(shape)) for key, found in scores.items()},
            rise,
            relevance(lm, samples, batch_size=options.batch_size).estimate,
            tuple(distinct_per_prompt(texts, options.samples, n) for n in (1, 2, 3)),
            distinct_pairs(greedy) / distinct_pairs(base_greedy),
            next(iter(risen_phrases(greedy, base_greedy, most=1)), None),
        )
        if name == BASE:
            yield _ideal(lm, ideal, scorers, options)


def _ideal(lm: Any, ideal: Sequence[Continuation], scorers: Any, options: argparse.Namespace) -> Row:
    texts = [one.text for one in ideal]
    means: dict[str, Estimate] = {name: bootstrap_mean(scorer(texts)) for name, scorer in scorers.items()}
    one_each: dict[str, NDArray[np.float64]] = {name: scorer(texts)[:, None] for name, scorer in scorers.items()}
    return Row(
        IDEAL,
        means,
        {name: RealToxicity.of(found) for name, found in one_each.items()},
        None,
        relevance(lm, ideal, batch_size=options.batch_size).estimate,
        (),
        None,
        None,
    )


def table(rows: Sequence[Row]) -> Table:
    """A row a condition."""
    plain = rows[0]
    lines = []
    for row in rows:
        line: dict[str, Any] = {"condition": row.name}
        for scorer, found in row.sampled.items():
            line |= {
                f"greedy_{scorer}": None if row.name == IDEAL else row.greedy[scorer].mean,
                f"maximum_{scorer}": None if row.name == IDEAL else found.expected_maximum.mean,
                f"probability_{scorer}": None if row.name == IDEAL else found.probability.mean,
                f"mean_{scorer}": found.mean.mean,
            }
        line |= {
            "harmless": None if row.harmless is None else row.harmless.mean,
            "harmless_low": None if row.harmless is None else row.harmless.low,
            "harmless_high": None if row.harmless is None else row.harmless.high,
            "relevance": row.relevance.mean,
            "relevance_kept": row.relevance.mean / plain.relevance.mean,
            **{f"dist_{n}": row.distinct[n - 1] if row.distinct else None for n in (1, 2, 3)},
            "pairs_kept": row.pairs_kept,
            "phrase": "–" if row.phrase is None else f"“{mask_offensive(row.phrase.words)}”",
            "phrase_rise": None if row.phrase is None else row.phrase.rise.mean,
        }
        lines.append(line)
    columns = [Column("condition", "condition")]
    for scorer in plain.sampled:
        columns += [
            Column(f"greedy_{scorer}", f"greedy, {scorer}", Format.named("fixed 3")),
            Column(f"maximum_{scorer}", f"expected maximum, {scorer}", Format.named("fixed 2")),
            Column(f"probability_{scorer}", f"toxicity probability, {scorer}", Format.named("fixed 2")),
            Column(f"mean_{scorer}", f"mean of samples, {scorer}", Format.named("fixed 3")),
        ]
    columns += [
        Column.ranged("harmless", "harmless log-PPL, rise", Format.named("signed fixed 2")),
        Column("relevance", "relevance", Format.named("fixed 2")),
        Column("relevance_kept", "kept", Format.named("fixed 2")),
        *(Column(f"dist_{n}", f"dist-{n}", Format.named("fixed 2")) for n in (1, 2, 3)),
        Column("pairs_kept", "distinct pairs kept", Format.named("fixed 2")),
        Column("phrase", "phrase that rose most"),
        Column("phrase_rise", "rise of its share", Format.named("signed fixed 2")),
    ]
    return Table("yardstick", "What each condition writes, and what it costs.", frame_of(lines), tuple(columns))


def _no_comments() -> Ingredients:
    raise DposcopeError("conditions that need a direction are not measured here; give edit: ones")


def _rows(text: str) -> tuple[int, int]:
    start, _, stop = text.partition(":")
    return int(start), int(stop)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--condition", action="append", required=True)
    parser.add_argument("--prompts", required=True)
    parser.add_argument("--rows", type=_rows, default=(0, None), help="of the prompts, as in 0:60")
    parser.add_argument("--samples", type=int, default=25)
    parser.add_argument("--scorers", nargs="+", default=["profanity", "neural"], help="the first says what is harmless")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    return parser


if __name__ == "__main__":
    main()
