"""Differences in what is read from the model: h (probe features), i and o (mean activations) and m (token contrast)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from dposcope.data.seeds import load_seeds
from dposcope.directions.features import residual_features
from dposcope.directions.means import class_difference
from dposcope.directions.probe import fit_rows
from dposcope.directions.tokens import token_contrast
from dposcope.evaluation.statistics.comparisons import bootstrap_mean, paired_difference
from dposcope.model.batches import batches, encode
from dposcope.model.frames import Frame
from dposcope.model.hooks import hooked, residual_site
from dposcope.neurons.aligned import most_aligned
from dposcope.neurons.groups import group_sets
from dposcope.protocols import Protocol
from versus.bench import Bench, masks, overlap
from versus.rows import Row

TOKENS = 128
"""Comments are cut to so many (paper's code)."""

TOXIC = 256
"""Toxic neurons (paper 4); on a small model an eighth of all."""


@dataclass(frozen=True, eq=False)
class FeatureSets:
    """Features of the same comments, one change at a time, `[texts, d]` each."""

    strict: Tensor
    padded: Tensor
    """Strict, but padding to 128 tokens, on the left, and special tokens are in the mean."""
    normed: Tensor
    """Strict, but after the final norm."""
    reference: Tensor
    """Both."""


def feature_sets(bench: Bench, texts: Sequence[str]) -> FeatureSets:
    """Two passes of the library, watched: the stream before the final norm is there in both."""
    lm, size = bench.lm, bench.batch_size
    special = torch.tensor(sorted(lm.special_ids), dtype=torch.long)
    encoded = encode(lm, texts, max_tokens=min(TOKENS, lm.context_length), keep="start")
    order = list(batches(lm, encoded, batch_size=size, side="right"))
    padded, normed = (torch.zeros(len(texts), lm.d_model, dtype=torch.float64) for _ in range(2))
    passes = iter(order)
    # Called past its hooks: one of them is ours.
    norm = lm.final_norm.forward

    def after_norm(stream: Tensor, _frame: Frame) -> None:
        batch = next(passes)
        counted = (batch.mask == 1) & ~torch.isin(batch.ids, special.to(batch.ids.device))
        for place, row in enumerate(batch.rows):
            normed[row] = norm(stream)[place][counted[place]].double().mean(0).cpu()

    def with_padding(stream: Tensor, _frame: Frame) -> None:
        padded[next(passes).rows] = stream.double().mean(1).cpu()

    bench.tell(f"features of {len(texts):,} comments, strict")
    with torch.inference_mode(), hooked(lm, [(residual_site(lm, lm.n_blocks - 1), after_norm)]):
        strict = residual_features(lm, texts, max_tokens=TOKENS, batch_size=size)
    passes = iter(order)
    bench.tell(f"features of {len(texts):,} comments, reference")
    with hooked(lm, [(residual_site(lm, lm.n_blocks - 1), with_padding)]):
        reference = residual_features(lm, texts, protocol="reference", max_tokens=TOKENS, batch_size=size)
    return FeatureSets(strict.vectors, padded, normed, reference.vectors)


def probe_features(bench: Bench) -> list[Row]:
    """h: probes and differences of means of each kind of features."""
    fit, test = bench.data.fit, bench.data.test
    found = feature_sets(bench, [*fit.texts, *test.texts])
    cases: tuple[tuple[str, Tensor, Protocol], ...] = (
        ("padding and BOS in the mean", found.padded, "strict"),
        ("after the final norm", found.normed, "strict"),
        ("plain fit", found.strict, "reference"),
        ("all", found.reference, "reference"),
    )
    strict = _probe(bench, found.strict, "strict")
    rows: list[Row] = []
    for title, features, protocol in cases:
        other = _probe(bench, features, protocol)
        rows += [
            Row(
                f"probe, {title}: held-out accuracy",
                bootstrap_mean(strict.right),
                bootstrap_mean(other.right),
                paired_difference(other.right, strict.right),
            ),
            *_beside(bench, f"probe, {title}", strict.vector, other.vector),
        ]
    means = class_difference(found.strict[: len(fit)], fit.labels)
    for title, features, _ in (case for case in cases if case[0] != "plain fit"):
        rows += _beside(
            bench, f"difference of means, {title}", means, class_difference(features[: len(fit)], fit.labels)
        )
    return rows


@dataclass(frozen=True, eq=False)
class _Probe:
    vector: Tensor
    right: np.ndarray
    """1 where a held-out comment is told right, `[texts]`."""


def _probe(bench: Bench, features: Tensor, protocol: Protocol) -> _Probe:
    fit, test = bench.data.fit, bench.data.test
    x = features.numpy()
    fitted = fit_rows(x[: len(fit)], fit.labels, protocol=protocol, seed=0)
    said = x[len(fit) :] @ fitted.weight + fitted.intercept > 0
    return _Probe(torch.from_numpy(fitted.weight.copy()), (said == test.labels).astype(np.float64))


def _beside(bench: Bench, title: str, strict: Tensor, other: Tensor) -> list[Row]:
    """Two directions: their cosine, and the toxic neurons that both find."""
    n = min(TOXIC, bench.lm.n_neurons // 8)
    everything = torch.ones(n, dtype=torch.bool)
    sets = [most_aligned(bench.lm, one, n).chosen(everything).mask for one in (strict, other)]
    return [
        Row(f"{title}: cosine with the strict direction", 1.0, float(cosine_similarity(strict, other, dim=0))),
        Row(f"{title}: the same of {n} toxic neurons", n, int((sets[0] & sets[1]).sum())),
    ]


def mean_activations(bench: Bench) -> list[Row]:
    """i: two ways to take the mean activations, neuron by neuron."""
    strict, reference = bench.means, bench.reference_means
    one, other = strict.mean, reference.mean
    groups = [group_sets(bench.cosine, mean) for mean in (one, other)]
    same = [(groups[0][group].mask & groups[1][group].mask).sum() for group in groups[0]]
    return [
        Row("tokens counted", strict.count, reference.count),
        Row("correlation over neurons", 1.0, _correlation(one, other)),
        # A few neurons of large means decide the one above.
        Row("rank correlation over neurons", 1.0, _correlation(_ranks(one), _ranks(other))),
        Row("share of equal signs", 1.0, float((one.sign() == other.sign()).double().mean())),
        Row("share of neurons in the same group", 1.0, float(torch.stack(same).sum()) / one.numel()),
        Row("share with a negative mean", float((one < 0).double().mean()), float((other < 0).double().mean())),
        Row(
            "share of the same neurons in the edit",
            1.0,
            overlap(masks(bench.selection()), masks(bench.selection(mean=other))),
        ),
    ]


def _correlation(one: Tensor, other: Tensor) -> float:
    return float(np.corrcoef(one.flatten(), other.flatten())[0, 1])


def _ranks(values: Tensor) -> Tensor:
    return values.flatten().argsort().argsort().double()


HALF_LARGEST = 65_504
"""The largest number of half precision."""

SUMMED_TOKENS = 1_199 * 20
"""Tokens that the published code adds up."""


def half_precision(bench: Bench) -> list[Row]:
    """o: neurons whose sum over the paper's prompts leaves half precision."""
    beyond = bench.reference_means.mean.abs() * SUMMED_TOKENS > HALF_LARGEST
    return [Row("neurons whose sum over 1,199 prompts is beyond half precision", 0, int(beyond.sum()))]


def embeddings(bench: Bench) -> list[Row]:
    """m: the token contrast from either matrix."""
    seeds = load_seeds()
    contrasts = [token_contrast(bench.lm, seeds.toxic, seeds.non_toxic, matrix=m) for m in ("input", "output")]
    return _beside(bench, "token contrast", *(one.vector for one in contrasts))
