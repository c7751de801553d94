"""What can be done with a model, each as a function of a base and its tuned copy, to be done on any devices."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any

import numpy as np
import torch

from dposcope.directions.features import residual_features
from dposcope.directions.lens import lens
from dposcope.directions.tokens import token_contrast
from dposcope.evaluation.perplexity import window_losses
from dposcope.evaluation.sampled.agreement import agreement
from dposcope.evaluation.sampled.continuations import continuation_losses
from dposcope.interventions.ablate import ablate
from dposcope.interventions.assign import Assign
from dposcope.interventions.edit import Edit
from dposcope.interventions.edited import edited
from dposcope.interventions.extrapolate import along
from dposcope.interventions.fold import fold, folded
from dposcope.interventions.gains import Gains
from dposcope.interventions.group_gains import group_gains
from dposcope.interventions.least_squares import LeastSquares
from dposcope.interventions.paired.attribution import attribution
from dposcope.interventions.paired.interchange import Interchange, Parts
from dposcope.interventions.paired.mediation import mediation
from dposcope.interventions.steer import Steer
from dposcope.jobs.explain.explanation import explain
from dposcope.model.chat.prompts import encode_prompts
from dposcope.model.frames import Positions
from dposcope.model.generate import Sampling, generate
from dposcope.model.language_model import LanguageModel
from dposcope.neurons.activations import ActivationAccumulator, accumulate, collect_means, recording
from dposcope.neurons.contributions import contributions
from dposcope.neurons.groups import cosines
from dposcope.neurons.sets import NeuronSet
from dposcope.neurons.subspace import change_signs, svd_subspace
from dposcope.neurons.traces import trace
from dposcope.pairs.checks import completion_logppl
from dposcope.pairs.pairs import Pairs
from dposcope.pairs.pplm import Perturbation, perturbed_continuations
from dposcope.search.divergence import NeutralText
from helpers.alternating import KINDS as ALTERNATING
from helpers.alternating import made as alternating
from helpers.changes import tuned_copy
from helpers.edits import both_of, heads_of
from helpers.families import (
    FAMILIES,
    MIXTURES,
    TEXTS,
    copied,
    random_direction,
    random_gains,
    random_head_gains,
    tiny,
)
from helpers.more_families import MORE

PROMPTS = TEXTS[:4]
NEUTRAL = " ".join(TEXTS * 3)
NEW = 4
WITHOUT_HEADS = {
    f"tiny-{family.config().model_type}"
    for name, family in MORE.items()
    if name in ("gemma4_text", "gemma4") or len(family.attention) > 1
} | {f"tiny-{name}" for name in ALTERNATING}
"""Of whose heads nothing can be changed: blocks differ in them, or some have none."""


def unequal(found: Any, wanted: Any, place: str = "", *, exact: bool = False) -> str | None:
    """Where two results differ by more than the order of additions may change, or at all; None: nowhere."""
    if isinstance(wanted, torch.Tensor):
        same = (
            torch.equal(found, wanted)
            if exact
            else found.shape == wanted.shape and torch.allclose(found.double(), wanted.double(), rtol=1e-4, atol=1e-5)
        )
        return None if same else place
    if isinstance(wanted, np.ndarray):
        return unequal(torch.from_numpy(found), torch.from_numpy(wanted), place, exact=exact)
    if isinstance(wanted, float) and not exact:
        return None if math.isclose(found, wanted, rel_tol=1e-4, abs_tol=1e-5) else place
    if is_dataclass(wanted):
        parts = {one.name: (getattr(found, one.name), getattr(wanted, one.name)) for one in fields(wanted)}
    elif isinstance(wanted, Mapping):
        parts = {key: (found[key], value) for key, value in wanted.items()}
    elif isinstance(wanted, Sequence) and not isinstance(wanted, str):
        parts = dict(enumerate(zip(found, wanted, strict=True)))
    else:
        return None if found == wanted else place
    return next((told for key, pair in parts.items() if (told := unequal(*pair, f"{place}/{key}", exact=exact))), None)


def ids(lm: LanguageModel, **options: Any) -> list[list[int]]:
    return [one.ids for one in generate(lm, PROMPTS, new_tokens=NEW, **options)]


def under(intervention: Any) -> Callable[[LanguageModel, LanguageModel], Any]:
    """What is written, and the loss, under an intervention."""

    def run(lm: LanguageModel, tuned: LanguageModel) -> Any:
        with intervention(lm, tuned).on(lm):
            losses = None
            if not isinstance(intervention(lm, tuned), Interchange):
                losses = window_losses(lm, NEUTRAL, window=24, max_windows=2, chunk=5).nll
            return ids(lm), losses

    return run


def edit_of(lm: LanguageModel) -> Edit:
    return both_of(lm) if lm.name in WITHOUT_HEADS else heads_of(lm)


def neurons_of(lm: LanguageModel) -> NeuronSet:
    return NeuronSet(random_gains(lm) > 1.5)


def assigned(lm: LanguageModel, positions: Positions) -> Assign:
    return Assign(random_gains(lm, 3), neurons_of(lm), positions)


def all_parts(lm: LanguageModel) -> Parts:
    heads = None
    if lm.name not in WITHOUT_HEADS:
        heads = torch.zeros(lm.n_blocks, lm.n_heads, dtype=torch.bool)
        heads[:, 0] = True
    return Parts(neurons_of(lm), heads, frozenset({1}), frozenset({0}), frozenset({lm.n_blocks - 2}))


def means_of(lm: LanguageModel, protocol: str = "strict") -> Any:
    found = collect_means(lm, PROMPTS, new_tokens=NEW, protocol=protocol)
    return found.mean, found.second_moment, found.count, found.written


def by_fold(lm: LanguageModel) -> Any:
    sums = ActivationAccumulator.of(lm, folds=2)
    options = {"new_tokens": NEW, "max_prompt_tokens": 64, "protocol": "strict", "batch_size": 3, "progress": None}
    sums = accumulate(lm, PROMPTS, sums, **options)
    return [sums.value(fold=fold).mean for fold in (None, 0, 1)]


def recorded(lm: LanguageModel) -> Any:
    with recording(lm) as sums:
        generate(lm, PROMPTS[:2], new_tokens=NEW)
    return sums.value().mean


def changed(lm: LanguageModel, tuned: LanguageModel) -> Any:
    before, after = (collect_means(one, PROMPTS, new_tokens=NEW) for one in (lm, tuned))
    found = contributions(lm, tuned, before, after, random_direction(lm))
    signs = change_signs(lm, tuned, found, svd_subspace(lm, random_direction(lm), vectors=8, axes=2))
    return found.total, found.from_vectors, signs.share, signs.random_share


def explained(lm: LanguageModel, tuned: LanguageModel) -> Any:
    found = explain(lm, tuned, random_direction(lm), PROMPTS, new_tokens=NEW, toxic_sets=[8])
    return found.contributions.total


def steered(lm: LanguageModel, **settings: Any) -> Any:
    how = Perturbation(step_size=0.1, kl_scale=0.1, window=3, **settings)
    return [one.ids for one in perturbed_continuations(lm, PROMPTS[:2], random_direction(lm), how, new_tokens=2)]


def in_weights(lm: LanguageModel, _: LanguageModel) -> Any:
    edit = edit_of(lm)
    with folded(lm, edit) as inside:
        return ids(fold(lm, edit)), ids(inside), ids(lm)


def by_edited(lm: LanguageModel, _: LanguageModel) -> Any:
    with edited(lm, edit_of(lm)) as other:
        return ids(other), means_of(other), ids(lm)


def continued(lm: LanguageModel) -> list[Any]:
    return generate(lm, PROMPTS, new_tokens=NEW, stop_at_end=False)


def attributed(lm: LanguageModel, tuned: LanguageModel) -> Any:
    written = continued(lm)
    return attribution(lm, tuned, written[:2], written[2:])


def neutral_cost(lm: LanguageModel, _: LanguageModel) -> Any:
    read = NeutralText.read(lm, NEUTRAL, windows=2, length=12)
    with Gains(random_gains(lm)).on(lm):
        found = read.cost(lm)
    return found.kl, found.rise


def fluent(lm: LanguageModel, _: LanguageModel) -> Any:
    pairs = Pairs(tuple(PROMPTS), tuple(f" {text}" for text in TEXTS[4:]), tuple(f" {text}" for text in PROMPTS))
    return completion_logppl(lm, pairs, batch_size=3)


DONE: dict[str, Callable[[LanguageModel, LanguageModel], Any]] = {
    "greedy": lambda lm, _: ids(lm),
    "without a cache": lambda lm, _: ids(lm, use_cache=False),
    "sampled": lambda lm, _: ids(lm, sampling=Sampling(1.0, 0.8, 1)),
    "gains, heads, ablations": under(lambda lm, _: edit_of(lm)),
    "gains at the last positions": under(lambda lm, _: Gains(random_gains(lm), Positions.LAST)),
    "gains of heads while generating": under(
        lambda lm, _: Gains(random_head_gains(lm), Positions.GENERATED, of="heads")
    ),
    "ablation": under(lambda lm, _: ablate(random_direction(lm), weight=0.9)),
    "constants": under(lambda lm, _: assigned(lm, Positions.LAST)),
    "constants at the first position": under(lambda lm, _: assigned(lm, Positions.FIRST)),
    "steering at the end": under(lambda lm, _: Steer(random_direction(lm), 0.5)),
    "steering between devices": under(lambda lm, _: Steer(random_direction(lm), 0.5, block=0, positions="prompt")),
    "steering of an MLP": under(lambda lm, _: Steer(random_direction(lm), 0.5, block=1, site="mlp")),
    "interchange": under(lambda lm, tuned: Interchange(tuned, all_parts(lm), Positions.LAST)),
    "interchange of the same weights": under(lambda lm, _: Interchange(lm, all_parts(lm))),
    "groups": lambda lm, _: (
        group_gains(lm, collect_means(lm, PROMPTS, new_tokens=2), random_direction(lm), alpha=0.1).values
    ),
    "least squares": lambda lm, _: (
        LeastSquares.of(lm, collect_means(lm, PROMPTS, new_tokens=2), random_direction(lm)).pull
    ),
    "means": lambda lm, _: means_of(lm),
    "means, reference": lambda lm, _: means_of(lm, "reference"),
    "means by fold": lambda lm, _: by_fold(lm),
    "recording": lambda lm, _: recorded(lm),
    "traces": lambda lm, _: trace(lm, encode_prompts(lm, TEXTS), [0, 3, lm.d_mlp + 1, lm.n_neurons - 1]),
    "features": lambda lm, _: [residual_features(lm, TEXTS, block=block).vectors for block in (0, 1, -1)],
    "features, reference": lambda lm, _: residual_features(lm, TEXTS, protocol="reference").vectors,
    "token contrast": lambda lm, _: token_contrast(lm, ["idiot"], ["river"]).vector,
    "unembedding contrast": lambda lm, _: token_contrast(lm, ["idiot"], ["river"], matrix="output").vector,
    "cosines": lambda lm, _: cosines(lm, random_direction(lm)),
    "lens": lambda lm, _: lens(lm, random_direction(lm), k=3),
    "contributions": changed,
    "explanation": explained,
    "attribution": attributed,
    "mediation": lambda lm, tuned: mediation(lm, tuned, continued(lm)),
    "log-perplexity": lambda lm, _: window_losses(lm, NEUTRAL, window=24, protocol="reference", chunk=5).nll,
    "losses of continuations": lambda lm, tuned: continuation_losses(tuned, continued(lm)).nll,
    "agreement": lambda lm, _: agreement(lm, continued(lm)),
    "fluency of pairs": fluent,
    "cost on neutral text": neutral_cost,
    "PPLM": lambda lm, _: steered(lm),
    "PPLM, sampled": lambda lm, _: steered(lm, sample=True, gamma=0.9),
    "folded": in_weights,
    "edited": by_edited,
    "extrapolated": lambda lm, tuned: {name: value.cpu() for name, value in along(lm, tuned, 1.5)},
    "fingerprint": lambda lm, tuned: [lm.fingerprint, tuned.fingerprint],
}

SOME = ("gains, heads, ablations", "attribution")

EVERY = (*FAMILIES, *MIXTURES, *ALTERNATING, *(name for name in MORE if not name.startswith("gemma3n")))
"""Models that are spread over devices, and streamed."""


@cache
def made(family: str) -> LanguageModel:
    if family in ALTERNATING:
        return alternating(family)
    return MORE[family].build() if family in MORE else tiny(family)


def pair(family: str) -> tuple[LanguageModel, LanguageModel]:
    """A model and its tuned copy, to be changed."""
    return copied(made(family)), tuned_copy(made(family))


ON_ONE = (
    *("greedy", "gains, heads, ablations", "constants", "steering between devices", "interchange", "means by fold"),
    *("attribution", "mediation", "log-perplexity", "folded", "edited", "extrapolated", "fingerprint"),
)
