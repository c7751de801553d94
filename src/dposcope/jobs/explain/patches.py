"""The paper's patches by name: the base model with some neurons set to their means after tuning (paper 3.3, 4, 5.2)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch

from dposcope.data.given.numbers import whole
from dposcope.data.short import short_repr
from dposcope.errors import DposcopeError
from dposcope.interventions.assign import Assign
from dposcope.neurons.contributions import Contributions, check_change
from dposcope.neurons.groups import Group, group_sets
from dposcope.neurons.sets import NeuronSet

ORDER = (Group.TP, Group.AN, Group.TN, Group.AP)
"""Order in which the paper adds groups (Table 2)."""

FOUR_GROUPS = f"patch-{'+'.join(ORDER)}"
"""The name of the patch of all four groups."""

INCREASING, RANDOM_BY_BLOCK = "patch-increasing", "patch-random-layers"
"""Names of the patch of all neurons that increase, and of the control with as many random neurons in each block."""

TOXIC_TOKENS = "patch-toxic-tokens"
"""The name of the patch of neurons that promote toxic tokens."""


def toxic_patch(label: str) -> str:
    """The name of a patch of toxic neurons, by their label: `top 256`."""
    return f"patch-{label.replace(' ', '-')}"


Kind = Literal["toxic", "group", "sum", "against", "control"]


@dataclass(frozen=True, eq=False)
class Patch:
    """The neurons of a patch, with its name and its label."""

    name: str
    label: str
    kind: Kind
    neurons: NeuronSet

    __repr__ = short_repr

    def assign(self, contributions: Contributions) -> Assign:
        """m_i := m_i^post for these neurons, at the positions that predict."""
        check_change(contributions)
        return Assign(contributions.after.mean, self.neurons)


def patches(
    contributions: Contributions, *, toxic: dict[str, NeuronSet], seed: int = 0, controls: bool = True
) -> list[Patch]:
    """Every patch of Tables 2, 3 and 19, and two controls that the paper does not have. Empty patches are left out.

    Args:
        contributions: of the two models.
        toxic: label → toxic neurons, such as `top 256` and those with toxic tokens.
        seed: of the controls.
        controls: add patches of random neurons, as many as the four groups have: in total, and in each block.
    """
    check_change(contributions)
    _check_toxic(toxic)
    reducing = {
        group: neurons & contributions.reduces
        for group, neurons in group_sets(contributions.cosine, contributions.before.mean).items()
    }
    listed = [Patch(toxic_patch(name), f"Patch {name}", "toxic", neurons) for name, neurons in toxic.items()]
    listed += [Patch(f"patch-{group.value}", f"Patch {group.value}↓", "group", reducing[group]) for group in ORDER]
    together, names = reducing[ORDER[0]], [ORDER[0].value]
    for group in ORDER[1:]:
        together = together | reducing[group]
        names.append(group.value)
        label = "Patch four groups" if group is ORDER[-1] else "Patch " + "+".join(f"{name}↓" for name in names)
        listed.append(Patch("patch-" + "+".join(names), label, "sum", together))
    listed.append(Patch(INCREASING, "Patch ↑ neurons", "against", contributions.increases))
    if controls:
        listed += [
            Patch(
                RANDOM_BY_BLOCK,
                "Random, as many per block",
                "control",
                together.random_like(seed, among=contributions.everything),
            ),
            Patch("patch-random", "Random, as many", "control", _random(together, seed, contributions.everything)),
        ]
    return [patch for patch in listed if len(patch.neurons)]


def _check_toxic(given: object) -> None:
    if not isinstance(given, Mapping):
        raise DposcopeError(f"toxic is a {type(given).__name__}; give a dictionary, such as {{'top 256': neurons}}")


def _random(neurons: NeuronSet, seed: int, everything: NeuronSet) -> NeuronSet:
    """The same number of random neurons, in any block."""
    stream = torch.Generator().manual_seed(whole("seed", seed))
    return everything.top(len(neurons), by=torch.rand(neurons.mask.shape, generator=stream, dtype=torch.float64))
