"""Two threads run one model at once: each pass is changed as it is alone."""

import copy
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from threading import Barrier

import pytest
import torch

from dposcope.interventions.gains import Gains
from dposcope.interventions.paired.interchange import Interchange, Parts
from dposcope.model.frames import Positions, prompted
from dposcope.model.mixtures.experts import Experts
from dposcope.neurons.activations import ActivationAccumulator, recording
from dposcope.neurons.sets import NeuronSet
from helpers import alternating, families, shared_experts
from helpers.families import copied, random_gains

TEXTS = ([2, 40, 41, 55, 60, 61, 70, 33, 12, 90], [2, 33, 70, 12])
PROMPTS = (3, 2)
"""Tokens of each text that are its prompt."""


def model(kind):
    if kind == "alternating":
        return copied(alternating.made("experts"))
    return copied(shared_experts.shared_mixture_of(kind)) if kind == "qwen2_moe" else families.tiny(kind)


def run(lm, place):
    with torch.no_grad(), prompted(torch.tensor([PROMPTS[place]])):
        return lm.model(input_ids=torch.tensor([TEXTS[place]]), use_cache=False).logits[0]


def both_at_once(lm):
    """Logits of both texts; no pass comes past a place of the model before the other one is there."""
    barrier = Barrier(2, timeout=20)

    def wait(*_):
        barrier.wait()

    experts = [one for one in lm.model.modules() if Experts.of(one) is not None]
    gated = [part.shared.mlp for parts in lm.columns.parts for part in parts if part.shared is not None]
    with ExitStack() as stack, ThreadPoolExecutor(2) as threads:
        for module in (lm.blocks[0], *experts, *gated):
            stack.callback(module.register_forward_pre_hook(wait).remove)
        return list(threads.map(lambda place: run(lm, place), range(2)))


@pytest.mark.parametrize("kind", ["llama", "gpt_oss", "qwen2_moe", "alternating"])
@pytest.mark.parametrize("way", ["gains", "interchange"])
def test_each_thread_has_its_own_pass(kind, way):
    lm = model(kind)
    change = Gains(random_gains(lm), positions=Positions.PROMPT)
    if way == "interchange":
        source = copied(lm)
        with torch.no_grad():
            for weight in source.model.parameters():
                weight.mul_(1.2)
        change = Interchange(source, Parts(neurons=NeuronSet.of(lm)), positions=Positions.PROMPT)
    with change.on(lm):
        alone = [run(lm, place) for place in range(2)]
        for found, expected in zip(both_at_once(lm), alone, strict=True):
            assert torch.equal(found, expected)
    assert not torch.equal(alone[0], run(lm, 0))


def test_a_model_may_be_copied_where_a_pass_was_followed():
    lm = families.tiny("gpt_oss")
    with recording(lm) as recorded:
        run(lm, 0)
        assert isinstance(copy.deepcopy(recorded), ActivationAccumulator)
        twin = copy.deepcopy(lm.model)
    assert type(twin) is type(lm.model)
