"""Tiny policies: variants of the families, pairs and windows of all lengths, and the three ways to train."""

import random
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from dposcope.model.language_model import LanguageModel
from dposcope.training.batches.examples import Example
from dposcope.training.batches.packing import PackedBatch, pack
from dposcope.training.batches.reading import fits_one_row
from dposcope.training.objective import Objective
from dposcope.training.policy import PreferencePolicy
from dposcope.training.trainable import all_weights, low_rank, neuron_gains
from helpers.families import CONFIGS, FAMILIES, VOCABULARY, assert_close, build, tiny

WAYS = {"full": all_weights, "lora": low_rank, "gains": neuron_gains}
WINDOWED = ("mistral", "gemma2", "gemma3")
# Families as they are (texts outgrow the sliding windows, so rows are separate), those with windows that no text
# outgrows (rows are shared), and attention that adds its mask.
VARIANTS = [*FAMILIES, *(f"{family} roomy" for family in WINDOWED), "llama eager"]

OBJECTIVES = {
    "dpo": Objective(0.1),
    "pairs": Objective(0.1, 0.7, "pairs"),
    "neutral": Objective(0.1, 0.7, "neutral"),
    "likelihood": Objective(0.1, 0.7, "mixed", loss="likelihood", unlikelihood=0.5),
}


def variant_lm(variant: str, dtype: torch.dtype = torch.float64) -> LanguageModel:
    """A tiny model of our own to play with."""
    family, _, kind = variant.partition(" ")
    lm = tiny(family)
    if kind == "roomy":
        config = CONFIGS[family]()
        config.sliding_window = 60
        lm = replace(lm, model=build(config, seed=4))
    if kind == "eager":
        lm.model.set_attn_implementation("eager")
    lm.model.to(dtype)
    return lm


def material(pairs=3, windows=2, *, seed=0, longest=12) -> list[Example]:
    """Texts of very different lengths, longer than the short windows; a completion of one token among them."""
    draw = random.Random(seed)

    def ids(low, high):
        return tuple(draw.randrange(VOCABULARY) for _ in range(draw.randint(low, high)))

    found = [Example(ids(1, longest), (ids(1, longest), ids(1, longest))) for _ in range(pairs)]
    if pairs:
        found[-1] = Example(ids(longest, longest), (ids(1, 1), ids(longest, longest)))
        # Ids that pad other rows: a mask of `ids != pad` would lose them.
        found[0] = Example((*found[0].prompt, 0, 3, 17), tuple((*ids, 3, 0, *ids) for ids in found[0].completions))
    return [*found, *(Example(ids(2, 2 * longest)) for _ in range(windows))]


def packed(lm: LanguageModel, examples: list[Example], **options) -> PackedBatch:
    """As a trainer does it."""
    return pack(examples, pad_id=lm.pad_id, shared=fits_one_row(lm.model, examples), **options)


def disturb(policy: PreferencePolicy, seed=7, scale=0.1) -> None:
    """Move what is trained away from where it starts."""
    stream = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name in sorted(policy.trainable):
            value = policy.trainable[name]
            value.add_(scale * torch.randn(value.shape, generator=stream).to(value))


def assert_gains_train_by_plain_logits(
    lm: LanguageModel, examples: list[Example], logits: Callable[[list[int], Tensor], Tensor], *, shared: bool
) -> None:
    """The preference loss of a batch and its gradient by the gains are those of plain logits, one text at a time.

    Args:
        lm: the model.
        examples: pairs.
        logits: of one text with gains, `[T, vocabulary]`.
        shared: whether texts share rows of the batch.
    """
    with neuron_gains(lm, Objective(0.1)) as trainable:
        policy = trainable.policy
        disturb(policy)
        (gains,) = policy.trainable.values()

        def likelihood(prompt, completion, factors):
            told = logits([*prompt, *completion], factors).log_softmax(-1)
            return sum(told[len(prompt) - 1 + place, token] for place, token in enumerate(completion))

        losses = []
        for example in examples:
            wanted, unwanted = (
                likelihood(example.prompt, one, gains) - likelihood(example.prompt, one, torch.ones_like(gains))
                for one in example.completions
            )
            losses.append(torch.nn.functional.softplus(-0.1 * (wanted - unwanted)))
        expected = torch.stack(losses).mean()
        found = policy(pack(examples, pad_id=lm.pad_id, shared=shared)).loss
        assert_close(found.detach(), expected.detach(), 1e-5)
        ours, naive = (torch.autograd.grad(one, gains)[0] for one in (found, expected))
        assert naive.abs().max() > 1e-3
        assert (ours - naive).norm() <= 2e-4 * naive.norm()
