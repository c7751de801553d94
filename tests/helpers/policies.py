"""Tiny policies: variants of the families, pairs and windows of all lengths, and the three ways to train."""

import random
from dataclasses import replace

import torch

from dposcope.model.language_model import LanguageModel
from dposcope.training.batches.examples import Example
from dposcope.training.batches.packing import PackedBatch, pack
from dposcope.training.batches.reading import fits_one_row
from dposcope.training.objective import Objective
from dposcope.training.policy import PreferencePolicy
from dposcope.training.trainable import all_weights, low_rank, neuron_gains
from helpers.families import CONFIGS, FAMILIES, VOCABULARY, build, tiny

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
