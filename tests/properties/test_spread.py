"""A model that is spread over devices: whatever is done with it gives what it gives on one device.

The devices are pretended (`helpers/fake_devices.py`): an operation on tensors of two devices raises an error, as with
GPUs. No GPU takes part.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from dposcope.model.hooks import hooked, neuron_site
from dposcope.model.language_model import LanguageModel
from dposcope.training.objective import Objective
from dposcope.training.trainable import low_rank, neuron_gains
from helpers.deeds import DONE, EVERY, ON_ONE, SOME, ids, neurons_of, pair, unequal
from helpers.fake_devices import GPUS, FakeDevices, MixedDevices, dispatched, spread
from helpers.policies import disturb, material, packed


@pytest.mark.parametrize("what", DONE)
def test_it_gives_what_it_gives_on_one_device(what):
    wanted = DONE[what](*pair("llama"))
    base, tuned = pair("llama")
    with FakeDevices():
        found = DONE[what](spread(base), spread(tuned, 3))
    assert unequal(found, wanted) is None


@pytest.mark.parametrize("family", EVERY)
def test_every_family(family):
    wanted = [DONE[what](*pair(family)) for what in SOME]
    base, tuned = pair(family)
    with FakeDevices():
        found = [DONE[what](spread(base), spread(tuned, 3)) for what in SOME]
    assert unequal(found, wanted) is None


# Training

TRAINED: dict[str, Callable[[LanguageModel, Objective, LanguageModel], Any]] = {
    "gains": lambda lm, objective, teacher: neuron_gains(
        lm, objective, heads=True, among=neurons_of(lm), sparsity=0.1, teacher=teacher
    ),
    "lora": lambda lm, objective, teacher: low_rank(lm, objective, teacher=teacher),
    "lora, recomputed": lambda lm, objective, teacher: low_rank(lm, objective, recompute=True, teacher=teacher),
}


def learned(way: str, lm: LanguageModel, teacher: LanguageModel) -> Any:
    """Loss, gradients and trained numbers of two steps, and what comes out."""
    objective = Objective(0.1, 0.7, "mixed", teacher_weight=0.5)
    with TRAINED[way](lm, objective, teacher) as trainable:
        policy = trainable.policy
        disturb(policy)
        batch = packed(lm, material(3, 2)).to(lm.device)
        optimiser = torch.optim.AdamW(policy.trainable.values(), lr=1e-2, foreach=False)
        losses, slopes = [], {}
        for _ in range(2):
            found = policy(batch, 2, policy.reference_states(batch) if way == "lora" else None)
            optimiser.zero_grad()
            found.loss.backward()
            slopes = {name: value.grad.cpu().clone() for name, value in policy.trainable.items()}
            optimiser.step()
            losses.append(float(found.loss.detach()))
        made = trainable.export()
        edit = [one.values for one in (made.gains, made.head_gains) if one is not None]
        trained = {name: value.detach().cpu() for name, value in policy.trainable.items()}
        return losses, slopes, trained, edit, ids(made.lm)


def test_hooks_of_accelerate_change_no_bit():
    """All parts are on the CPU."""
    family = "llama"
    for what in ON_ONE:
        wanted = DONE[what](*pair(family))
        found = DONE[what](*map(dispatched, pair(family)))
        assert unequal(found, wanted, exact=True) is None, what
    for way in TRAINED:
        wanted = learned(way, *pair(family))
        assert unequal(learned(way, *map(dispatched, pair(family))), wanted, exact=True) is None, way


@pytest.mark.filterwarnings("ignore:User provided device_type of 'cuda':UserWarning")
@pytest.mark.parametrize(
    ("family", "way"), [*(("llama", way) for way in TRAINED), ("gemma3", "gains"), ("gpt2", "lora")]
)
def test_it_learns_what_it_learns_on_one_device(family, way):
    wanted = learned(way, *pair(family))
    base, tuned = pair(family)
    with FakeDevices():
        found = learned(way, spread(base), spread(tuned, 3))
    assert unequal(found, wanted) is None


# The pretence itself


def test_an_operation_on_two_devices_is_an_error():
    with FakeDevices():
        one, other = torch.ones(3, device=GPUS[0]), torch.ones(3).to(GPUS[1])
        assert (one.device, other.device, one[:2].device, torch.zeros_like(other).device) == (*GPUS[:2], *GPUS[:2])
        for mixed in (
            lambda: one + other,
            lambda: one + torch.ones(3),
            lambda: torch.cat([one, other]),
            lambda: one[torch.tensor([0, 1], device=GPUS[1])],
            lambda: torch.where(other > 0, one, 0.0),
            one.numpy,
        ):
            with pytest.raises(MixedDevices):
                mixed()
        assert (one + torch.tensor(2.0)).device == GPUS[0]
        assert one[torch.tensor([0, 1])].device == GPUS[0]
        assert (one.to(other.device) + other).device == GPUS[1]
        assert one.cpu().numpy().tolist() == [1, 1, 1]


def test_a_gradient_comes_back_to_the_device_of_its_tensor():
    with FakeDevices():
        leaf = torch.ones(3, device=GPUS[0], requires_grad=True)
        (leaf.to(GPUS[1]) * torch.arange(3, device=GPUS[1])).sum().backward()
        assert leaf.grad is not None
        assert leaf.grad.device == GPUS[0]
        assert leaf.grad.tolist() == [0, 1, 2]
        (slope,) = torch.autograd.grad((leaf.to(GPUS[1]) ** 2).sum(), [leaf])
        assert (slope.device, slope.tolist()) == (GPUS[0], [2, 2, 2])


def factors_on(device: torch.device) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda activations: torch.ones(activations.shape[-1], device=device)


MISTAKES = {
    "a gain that stays on the first device": lambda lm: (neuron_site(lm, 2), lambda m, _: m * factors_on(lm.device)(m)),
    "a mask that stays on the first device": lambda lm: (
        neuron_site(lm, 2),
        lambda m, frame: m.masked_fill((frame.positions.to(lm.device) < 0).unsqueeze(-1), 0),
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_would_be_seen(mistake):
    """On one device it changes nothing."""
    lm, _ = pair("llama")
    plain = ids(lm)
    with hooked(lm, [MISTAKES[mistake](lm)]):
        assert ids(lm) == plain
    with FakeDevices():
        lm = spread(lm)
        with hooked(lm, [MISTAKES[mistake](lm)]), pytest.raises(MixedDevices):
            ids(lm)
