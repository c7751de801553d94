"""How toxic and how fluent PPLM's text is at each step size and share of fusion: the trade-off as a table and a figure.

    python benchmarks/pplm_strength.py --learn-text F --comments F --out DIR [--model gemma-3-270m] [--dtype bfloat16]
        [--steps 0.005,0.01,0.02,0.04] [--fusions 0.8,0.9] [--count 100] [--seed 1] [--batch-size 32]

Each setting is one run of `dposcope pairs`, so what was made stays in DIR and an interrupted sweep goes on. Prompts
come in one order for all settings; a pair whose sides are equal is left out and the next prompt taken, so the weaker
settings see a few more prompts. The seed is not the default's. Writes DIR/strength.md and DIR/strength.svg.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from matplotlib.figure import Figure

import dposcope as ds
from dposcope.artefacts import write_text
from dposcope.errors import DposcopeError
from dposcope.evaluation.repetition import repetition
from dposcope.evaluation.scorer import Scorer
from dposcope.evaluation.scorers import load_scorer
from dposcope.evaluation.statistics.comparisons import bootstrap_mean
from dposcope.evaluation.statistics.intervals import Estimate
from dposcope.jobs.pairs.job import run_pairs
from dposcope.jobs.pairs.settings import PairsSettings
from dposcope.model.language_model import LanguageModel
from dposcope.pairs.checks import Fluency, PairScores, check_pairs, completion_logppl
from dposcope.pairs.pairs import load_pairs
from dposcope.report.figures import COLOURS, house_style, save_figure


@dataclass(frozen=True)
class Point:
    """One setting and what its pairs are like."""

    step_size: float
    fusion: float
    scores: PairScores
    fluency: Fluency
    repetition: Estimate
    """Of the pushed text."""


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="gemma-3-270m")
    parser.add_argument("--learn-text")
    parser.add_argument("--comments")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--steps", type=_numbers, default=[0.005, 0.01, 0.02, 0.04])
    parser.add_argument("--fusions", type=_numbers, default=[0.8, 0.9])
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=32)
    options = parser.parse_args()
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        lm = ds.load(options.model, dtype=options.dtype)
        scorer = load_scorer("profanity")
        points = [
            measured(lm, scorer, step, fusion, options) for fusion, step in product(options.fusions, options.steps)
        ]
        text = table(points)
        write_text(options.out / "strength.md", f"{text}\n")
        save_figure(tradeoff(points), options.out / "strength.svg")
        print(text)
    except DposcopeError as error:
        print(f"pplm_strength: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(2) from error


def measured(lm: LanguageModel, scorer: Scorer, step: float, fusion: float, options: argparse.Namespace) -> Point:
    """The pairs of one setting, made where they are not there yet, and their statistics."""
    settings = PairsSettings(
        method="pplm",
        learn_text=options.learn_text,
        comments=options.comments,
        count=options.count,
        seed=options.seed,
        dtype=options.dtype,
        batch_size=options.batch_size,
        step_size=step,
        gm_scale=fusion,
    )
    made = run_pairs(options.model, options.out / f"step-{step:g}-fusion-{fusion:g}.jsonl", settings)
    pairs = load_pairs(str(made.path))
    scores = check_pairs(pairs, None, scorer).scores
    assert scores is not None
    print(f"step {step:g}, fusion {fusion:g}: {scores.more_toxic.mean:.0%} more toxic", file=sys.stderr)
    pushed = bootstrap_mean([repetition(text) for text in pairs.dispreferred])
    return Point(step, fusion, scores, completion_logppl(lm, pairs, batch_size=options.batch_size), pushed)


def table(points: Sequence[Point]) -> str:
    """Markdown, a row a setting."""
    lines = [
        "| step | fusion | pairs | more toxic | toxicity, greedy | pushed | ratio "
        "| log-PPL, greedy | pushed | repetition |",
        f"|{' --- |' * 10}",
    ]
    for point in points:
        scores, fluency = point.scores, point.fluency
        cells = (
            f"{point.step_size:g}",
            f"{point.fusion:g}",
            scores.more_toxic.n,
            f"{scores.more_toxic.mean:.0%} ({scores.more_toxic.low:.0%}–{scores.more_toxic.high:.0%})",
            scores.preferred,
            scores.dispreferred,
            "–" if scores.ratio is None else scores.ratio,
            fluency.preferred,
            fluency.dispreferred,
            point.repetition,
        )
        lines.append("".join(f"| {cell} " for cell in cells) + "|")
    return "\n".join(lines)


def tradeoff(points: Sequence[Point]) -> Figure:
    """Toxicity of pushed text over its log-perplexity, one line per fusion; the greedy text is the grey point."""
    with house_style():
        figure = Figure(figsize=(6.4, 3.9), layout="constrained")
        axes = figure.subplots()
        for fusion, role in zip(sorted({point.fusion for point in points}), ("edit", "control", "part"), strict=False):
            own = [point for point in points if point.fusion == fusion]
            across, up = [p.fluency.dispreferred for p in own], [p.scores.dispreferred for p in own]
            axes.errorbar(
                [value.mean for value in across],
                [value.mean for value in up],
                xerr=_arms(across),
                yerr=_arms(up),
                color=COLOURS[role],
                marker="o",
                markersize=4,
                linewidth=1.2,
                elinewidth=0.8,
                label=f"fusion {fusion:g}",
            )
            for point in own:
                place = (point.fluency.dispreferred.mean, point.scores.dispreferred.mean)
                axes.annotate(f"{point.step_size:g}", place, xytext=(5, -11), textcoords="offset points", fontsize=8)
        plain = points[0]
        axes.plot(
            plain.fluency.preferred.mean,
            plain.scores.preferred.mean,
            "o",
            color=COLOURS["base"],
            markersize=6,
            label="greedy",
        )
        axes.set_xlabel("log-perplexity of the continuation under the plain model, nats per token")
        axes.set_ylabel("toxicity")
        axes.set_ylim(bottom=0)
        axes.grid()
        axes.legend(frameon=False, loc="upper left")
        return figure


def _arms(values: Sequence[Estimate]) -> list[list[float]]:
    return [[value.mean - value.low for value in values], [value.high - value.mean for value in values]]


def _numbers(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]


if __name__ == "__main__":
    main()
