"""Differences that need a tuned model: j (the KL term) and n (which neurons reduce)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from dposcope.evaluation.statistics.comparisons import bootstrap_mean, paired_ratio
from dposcope.model.language_model import LanguageModel
from dposcope.neurons.activations import collect_means
from dposcope.neurons.contributions import contributions
from dposcope.protocols import Protocol
from dposcope.training.batches.examples import Example, tokenise
from dposcope.training.batches.packing import pack
from dposcope.training.batches.reading import fits_one_row
from dposcope.training.objective import Objective
from dposcope.training.policy import Arm, PreferencePolicy
from versus.bench import Bench
from versus.rows import Row

TRAINING, VALIDATION = 1, 8
"""Pairs in a micro-batch and in a validation batch of the published configuration. There a micro-batch is cut out of
a batch of 4 that is padded already, so training lies between the two."""


@dataclass(frozen=True, eq=False)
class TunedBench:
    """A bench whose tuned model and pairs are there."""

    bench: Bench
    tuned: LanguageModel
    examples: Sequence[Example]


def kl_term(of: TunedBench) -> list[Row]:
    """j: KL_preferred + KL_dispreferred per batch, in nats per token, as each protocol averages it."""
    rows: list[Row] = []
    for size, what in ((TRAINING, "one pair at a time"), (VALIDATION, "8 at a time, as in validation")):
        strict, reference = (_penalties(of, protocol, size) for protocol in ("strict", "reference"))
        ratio = paired_ratio(reference, strict)
        rows.append(Row(f"KL term, {what}", bootstrap_mean(strict), bootstrap_mean(reference), ratio))
    return rows


@torch.no_grad()
def _penalties(of: TunedBench, protocol: Protocol, size: int) -> np.ndarray:
    lm = of.bench.lm
    of.bench.tell(f"KL term: {protocol}, {size} at a time")
    objective = Objective(kl_weight=1.0, protocol=protocol)
    policy = PreferencePolicy(of.tuned.model, Arm(of.tuned.model), Arm(lm.model), objective)
    published = protocol == "reference"
    shared = not published and fits_one_row(lm.model, of.examples)
    found: list[float] = []
    for start in range(0, len(of.examples), size):
        batch = pack(of.examples[start : start + size], pad_id=lm.pad_id, shared=shared, whole=published)
        found.append(float(policy(batch.to(lm.device)).penalty))
    return np.array(found)


def reducing(of: TunedBench) -> list[Row]:
    """n: which neurons reduce, by Equation 2 and by the sign of the activation shift."""
    bench = of.bench
    bench.tell("mean activations of the tuned model")
    after = collect_means(of.tuned, bench.data.learn, batch_size=bench.batch_size)
    made = contributions(bench.lm, of.tuned, bench.means, after, bench.direction.vector)
    by_projection = made.reduces.mask
    by_shift = made.activation_shift * made.cosine.sign() > 0
    return [
        Row("share of neurons that reduce", _share(by_projection), _share(by_shift)),
        Row("share of neurons on which both agree", 1.0, _share(by_projection == by_shift)),
    ]


def _share(mask: torch.Tensor) -> float:
    return float(mask.double().mean())


def tuned_bench(bench: Bench) -> TunedBench | None:
    """None without a tuned model."""
    if bench.tuned is None:
        return None
    pairs = bench.data.pairs
    return TunedBench(bench, bench.tuned, [] if pairs is None else tokenise(bench.lm, pairs))
