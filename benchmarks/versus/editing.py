"""Differences in what is done to the model: a, b, c, d, k and l."""

from collections.abc import Callable, Sequence
from typing import cast

import numpy as np

from dposcope.evaluation.overlap import strict_pair
from dposcope.evaluation.perplexity import WindowLosses
from dposcope.evaluation.repetition import repetition, share_empty
from dposcope.evaluation.statistics.comparisons import bootstrap_mean, bootstrap_ratio, paired_difference
from dposcope.evaluation.statistics.intervals import Difference, Estimate
from dposcope.neurons.groups import Ranking
from versus.bench import TRIM, Bench, masks, overlap
from versus.measuring import f1_scores, toxicity_row
from versus.rows import Row


def perplexity_positions(bench: Bench) -> list[Row]:
    """a: log-perplexity of the edit, acting everywhere and at position 0 alone."""
    plain, everywhere, first = (bench.losses(name) for name in ("none", "assign", "assign first"))
    # Where each window begins with BOS, position 0 is the one that a model may rest its attention on.
    code_plain, code_first = (bench.losses(name, "reference") for name in ("none", "assign first"))
    return [
        log_perplexity_row("log-PPL of the assigned edit", everywhere, first),
        Row("its rise over the plain model", rise(everywhere, plain), rise(first, plain)),
        Row("the same with the code's windows (g), too", rise(everywhere, plain), rise(code_first, code_plain)),
    ]


def assignment(bench: Bench) -> list[Row]:
    """b: the same α, β and neurons, scaled and assigned."""
    names = ("none", "scale", "assign")
    rows: list[Row] = []
    for measure, values in {
        "toxicity": [bench.toxicity(name) for name in names],
        "F1": [f1_scores(bench, name, strict_pair) for name in names],
        "repetition": [_by_text(bench.texts(name), repetition) for name in names],
        "share of empty texts": [_by_text(bench.texts(name), lambda text: share_empty([text])) for name in names],
    }.items():
        plain, scaled, assigned = values
        rows += [
            paired_row(measure, scaled, assigned),
            Row(
                f"{measure}, change from the plain model",
                paired_difference(scaled, plain),
                paired_difference(assigned, plain),
            ),
        ]
    return rows


def _by_text(texts: Sequence[str], function: Callable[[str], float]) -> np.ndarray:
    return np.array([function(text) for text in texts])


def rankings(bench: Bench) -> list[Row]:
    """c: the assigned edit of other neurons, as many of each group."""
    chosen = masks(bench.selection())
    rows: list[Row] = []
    for ranking, title in (
        ("reference", "the code's order"),
        ("signed", "signed cosine, descending"),
        ("activation", "|mean activation|, ascending"),
    ):
        other = masks(bench.selection(cast(Ranking, ranking)))
        rows += [
            Row(f"{title}: share of the same neurons", 1.0, overlap(chosen, other)),
            toxicity_row(f"{title}: toxicity", bench, "assign", f"assign {ranking}"),
        ]
    return rows


def trim(bench: Bench) -> list[Row]:
    """d: the assigned edit without the most active neurons."""
    whole, trimmed = bench.selection(), bench.selection(trim=TRIM)
    sizes = {group: (whole.sizes[group], trimmed.sizes[group]) for group in sorted(whole.sizes)}
    return [
        *(Row(f"neurons to choose from in {group}", before, after) for group, (before, after) in sizes.items()),
        Row("share of the same neurons", 1.0, overlap(masks(whole), masks(trimmed))),
        toxicity_row("toxicity", bench, "assign", "assign trimmed"),
    ]


def hooks_left(bench: Bench) -> list[Row]:
    """k: what is measured after the assigned edit while its hooks stay.

    None under the edit's hooks is the same computation as the edit, and is not run twice.
    """
    return [
        toxicity_row("plain model after the assigned edit: toxicity", bench, "none", "assign"),
        toxicity_row("the scaled edit after the assigned one: toxicity", bench, "scale", "scale after assign"),
    ]


def steering(bench: Bench) -> list[Row]:
    """l: αW, α = 1 and W the difference of means, taken out at either place."""
    plain, stream, mlp = (bench.losses(name) for name in ("none", "steer residual", "steer mlp"))
    return [
        toxicity_row("toxicity", bench, "steer residual", "steer mlp"),
        log_perplexity_row("log-PPL", stream, mlp),
        Row("its rise over the plain model", rise(stream, plain), rise(mlp, plain)),
    ]


def paired_row(measure: str, strict: Sequence[float] | np.ndarray, reference: Sequence[float] | np.ndarray) -> Row:
    """Of values item by item."""
    return Row(measure, bootstrap_mean(strict), bootstrap_mean(reference), paired_difference(reference, strict))


def log_perplexity_row(measure: str, strict: WindowLosses, reference: WindowLosses) -> Row:
    """Of the same windows."""
    return Row(measure, mean_loss(strict), mean_loss(reference), rise(reference, strict))


def mean_loss(losses: WindowLosses) -> Estimate:
    """Log-perplexity with its interval over windows."""
    return bootstrap_ratio(losses.nll, losses.tokens)


def rise(losses: WindowLosses, over: WindowLosses) -> Difference:
    """Difference of log-perplexities of the same windows."""
    return paired_difference(losses.nll, over.nll, denominators=over.tokens)
