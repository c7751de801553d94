"""The paper's edit as gains: shrink TP and AN, grow TN and AP (paper 6.1)."""

from collections.abc import Collection, Iterable
from typing import cast

import torch
from torch import Tensor

from dposcope.data.given.numbers import number
from dposcope.directions.direction import Direction
from dposcope.errors import DposcopeError
from dposcope.interventions.assign import Assign
from dposcope.interventions.gains import Gains
from dposcope.model.language_model import LanguageModel
from dposcope.neurons.activations import NeuronMeans, check_means
from dposcope.neurons.groups import Group, Ranking, Selection, cosines, select_fraction
from dposcope.neurons.sets import NeuronSet

# TN and AN are negative: growing TN and shrinking AN both move the projection on W down.
_SIGN = {Group.TP: -1.0, Group.TN: 1.0, Group.AP: 1.0, Group.AN: -1.0}


def group_gains(
    lm: LanguageModel,
    means: NeuronMeans,
    direction: Direction | Tensor,
    *,
    alpha: float,
    beta: float = 0.55,
    ranking: Ranking = "cosine",
    groups: Collection[Group] = tuple(Group),
) -> Gains:
    """Gains 1−α for the β fraction of TP and AN, 1+α for that of TN and AP, 1 elsewhere (paper 6.1).

    Args:
        lm: the model, for its value vectors.
        means: m^pre.
        direction: W, or a vector `[d]`.
        alpha: relative shift, 0 or more (paper: 0.01 or 0.05).
        beta: fraction of each group, in [0, 1] (paper: 0.55).
        ranking: which neurons of a group come first.
        groups: groups to edit.

    Raises:
        DposcopeError: α or β is out of range.
    """
    check_means(means)
    selection = select_fraction(cosines(lm, direction), means.mean, beta=beta, ranking=ranking)
    return gains_of(selection, alpha=alpha, groups=groups)


def gains_of(selection: Selection, *, alpha: float, groups: Collection[Group] = tuple(Group)) -> Gains:
    """Gains of a selection already made; see `group_gains`."""
    alpha = number("alpha", alpha)
    return Gains(1.0 + alpha * _signs(selection, alpha, groups))


def group_assign(means: NeuronMeans, selection: Selection, *, alpha: float) -> Assign:
    """The published code's edit: set chosen neurons to their *mean* activation, shifted by α.

    Unlike gains, this makes the neurons constant, which changes the text.
    """
    check_means(means)
    alpha = number("alpha", alpha)
    signs = _signs(selection, alpha, tuple(Group))
    members = NeuronSet.empty(*signs.shape)
    for chosen in selection.sets.values():
        members = members | chosen
    return Assign(means.mean * (1.0 + alpha * signs), members)


def _signs(selection: Selection, alpha: float, groups: Collection[Group]) -> Tensor:
    _check_selection(selection)
    _check_groups(groups)
    if not alpha >= 0:
        raise DposcopeError(f"alpha {alpha} is negative; it is a relative shift of 0 or more, such as 0.1")
    shape = selection.sets[Group.TP].mask.shape
    signs = torch.zeros(shape, dtype=torch.float64)
    for group in groups:
        signs[selection.sets[group].mask] = _SIGN[group]
    return signs


def _check_groups(given: object) -> None:
    several = cast(Iterable[object], given) if isinstance(given, Iterable) and not isinstance(given, str) else [None]
    if not all(one in list(Group) for one in several):
        raise DposcopeError(f"groups {given!r:.40} are not all among {', '.join(Group)}; give a list of some")


def _check_selection(given: object) -> None:
    if not isinstance(given, Selection):
        raise DposcopeError(f"selection is a {type(given).__name__}; give what dposcope.select_fraction returns")
