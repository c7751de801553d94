"""Whether an edit holds where text is sampled: toxicity and variety of continuations at several temperatures.

    python benchmarks/sampled_text.py gemma-3-270m --condition edit=edit:runs/tune/edit --prompts prompts.jsonl \\
        [--temperatures 0,0.7,1] [--limit 200] [--dtype bfloat16] [--batch-size 32]

Everything else here measures greedy text, of which one phrase may take a large part: wherever it is the likeliest, it
is what comes. Conditions are those of `dposcope evaluate`, without what needs comments. Prompts are the first half of
the file's; each gets 20 tokens, greedy at temperature 0. Elsewhere each prompt draws from a stream of its own that all
conditions share. `distinct_2` is the distinct share of all word pairs; the favourite phrase is the four words that most
texts hold, and the last column the share of texts that hold them.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

import dposcope as ds
from dposcope.data.masking import mask_offensive
from dposcope.data.prompts import load_prompts, split_prompts
from dposcope.errors import DposcopeError
from dposcope.evaluation.conditions.scores import BASE
from dposcope.evaluation.repetition import distinct_n, repetition, word_grams
from dposcope.evaluation.scorer import Scorer
from dposcope.evaluation.scorers import load_scorer
from dposcope.evaluation.statistics.comparisons import bootstrap_mean, paired_ratio
from dposcope.evaluation.statistics.intervals import Estimate, Ratio
from dposcope.jobs.ingredients.prepared import Ingredients
from dposcope.jobs.measuring.conditions import parse_condition
from dposcope.model.generate import Sampling, generate

NEW_TOKENS = 20
PHRASE = 4
"""Words."""


@dataclass(frozen=True)
class Row:
    """One condition at one temperature."""

    temperature: float
    condition: str
    toxicity: Estimate
    ratio: Ratio | None
    """To the plain model at the same temperature; None for that model itself, or where it scores too little for one."""
    repetition: Estimate
    distinct_2: float
    phrase: str
    share: float
    """Of the texts that hold the phrase."""


def main() -> None:
    """The command."""
    options = _parser().parse_args()
    try:
        rows = measure(options)
    except DposcopeError as error:
        print(f"sampled_text: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(2) from error
    print(table(rows))


def measure(options: argparse.Namespace) -> list[Row]:
    """All conditions at all temperatures."""
    specs = [parse_condition(text) for text in options.condition]
    if len({spec.name for spec in specs}) < len(specs):
        raise DposcopeError("two conditions have one name; give each its own, as in mine=edit:FILE")
    prompts = list(split_prompts(load_prompts(options.prompts)).report)[: options.limit]
    scorer = load_scorer(options.scorer)
    lm = ds.load(options.model, dtype=options.dtype)
    named = {BASE: None} | {spec.name: spec.build(_no_comments, options.seed) for spec in specs}
    rows: list[Row] = []
    for temperature in options.temperatures:
        sampling = Sampling(temperature=temperature, seed=options.seed) if temperature else None
        texts: dict[str, list[str]] = {}
        for name, condition in named.items():
            print(f"{name} at temperature {temperature:g}", file=sys.stderr, flush=True)
            with nullcontext() if condition is None else condition.on(lm):
                written = generate(lm, prompts, new_tokens=NEW_TOKENS, sampling=sampling, batch_size=options.batch_size)
            texts[name] = [one.text for one in written]
        rows += rows_of(temperature, texts, scorer)
    return rows


def _no_comments() -> Ingredients:
    raise DposcopeError("conditions that need a direction are not measured here; give edit: or model: ones")


def rows_of(temperature: float, texts: dict[str, list[str]], scorer: Scorer) -> list[Row]:
    """What the texts of one temperature tell; those of the plain model come first."""
    scores = {name: scorer(own) for name, own in texts.items()}
    rows: list[Row] = []
    for name, own in texts.items():
        phrase, share = favourite(own)
        ratio = None if name == BASE else _ratio(scores[name], scores[BASE])
        repeated = bootstrap_mean(np.array([repetition(text) for text in own]))
        rows.append(
            Row(temperature, name, bootstrap_mean(scores[name]), ratio, repeated, distinct_n(own, 2), phrase, share)
        )
    return rows


def _ratio(edited: NDArray[np.float64], plain: NDArray[np.float64]) -> Ratio | None:
    try:
        return paired_ratio(edited, plain)
    except DposcopeError:
        return None


def favourite(texts: Sequence[str]) -> tuple[str, float]:
    """The words in a row that most texts hold, the first of them in the alphabet, and the share of texts."""
    held = Counter(phrase for text in texts for phrase in set(word_grams(text, PHRASE)))
    if not held:
        return "", 0.0
    best = min(held, key=lambda phrase: (-held[phrase], phrase))
    return " ".join(best), held[best] / len(texts)


def table(rows: Sequence[Row]) -> str:
    """Markdown, a row a line; offensive words masked."""
    lines = [
        "| temperature | condition | toxicity | share of the plain model's | repetition | distinct_2 "
        "| favourite phrase | texts |",
        f"|{' --- |' * 8}",
    ]
    for row in rows:
        cells = (
            "greedy" if row.temperature == 0 else f"{row.temperature:g}",
            row.condition,
            row.toxicity,
            row.ratio or "–",
            row.repetition,
            f"{row.distinct_2:.2f}",
            f"“{mask_offensive(row.phrase)}”",
            f"{row.share:.0%}",
        )
        lines.append("".join(f"| {cell} " for cell in cells) + "|")
    return "\n".join(lines)


def _temperatures(text: str) -> list[float]:
    found = [float(part) for part in text.split(",")]
    if any(not 0 <= one < float("inf") for one in found):
        raise ValueError(text)
    return found


def _limit(text: str) -> int:
    if (limit := int(text)) < 1:
        raise ValueError(text)
    return limit


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--condition", action="append", required=True)
    parser.add_argument("--prompts", required=True)
    parser.add_argument("--temperatures", type=_temperatures, default=[0.0, 0.7, 1.0])
    parser.add_argument("--limit", type=_limit)
    parser.add_argument("--scorer", default="profanity")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    return parser


if __name__ == "__main__":
    main()
