"""What a point of the search is as an edit."""

import pytest
import torch

from dposcope.errors import DposcopeError
from dposcope.interventions.gains import Gains
from dposcope.search.family import NO_GAINS, Family, Point, Source

VALUES = torch.tensor([[1.0, 1.5, 0.5], [2.0, 1.0, 1.0], [0.0, 1.0, 1.2], [1.0, 1.0, -1.0]])


def family(**kwargs):
    return Family({"learned": Source.line(Gains(VALUES))}, torch.tensor([3.0, 4.0]), 4, **kwargs)


def test_gains_are_on_the_line_and_tilted_by_block():
    found = family().edit(Point("learned", 0.5, tilt=0.6)).gains.values
    for block in range(4):
        factor = 0.5 * (1 + 0.6 * (2 * block / 3 - 1))
        torch.testing.assert_close(found[block], 1 + factor * (VALUES[block] - 1))


def test_a_point_without_tilt_is_the_line_to_the_bit():
    assert torch.equal(family().edit(Point("learned", 0.3)).gains.values, Gains(VALUES).strength(0.3).values)
    assert torch.equal(family().edit(Point("learned", 1.0)).gains.values, VALUES)


def test_the_ablation_is_of_mlps_in_the_later_half():
    edit = family().edit(Point("learned", 1.0, 0.0, 0.7))
    (ablation,) = edit.ablations
    assert (ablation.weight, ablation.blocks, ablation.mlp, ablation.attention) == (0.7, (2, 3), True, False)
    torch.testing.assert_close(ablation.direction, torch.tensor([0.6, 0.8]))
    assert edit.gains is not None


def test_no_gains_and_no_strength_are_no_gains():
    assert family().edit(Point(NO_GAINS, 1.0, 0.3, 0.5)).gains is None
    assert family().edit(Point("learned", 0.0)).gains is None
    assert family().edit(Point("learned", 0.0)).ablations == ()


def test_scaling_a_point_scales_gains_and_ablation():
    whole = family().edit(Point("learned", 0.8, 0.2, 1.0)).strength(0.5)
    half = family().edit(Point("learned", 0.8, 0.2, 1.0).scaled(0.5))
    torch.testing.assert_close(half.gains.values, whole.gains.values)
    assert half.ablations[0].weight == whole.ablations[0].weight == 0.5


def test_warm_starts_are_members():
    for one in (family(), family(ablates=False)):
        points = one.warm_starts()
        assert {point.source for point in points} == set(one.names)
        for point in points:
            one.edit(point)


def test_bad_points_and_families_are_refused():
    with pytest.raises(DposcopeError, match="no source 'other'; there are learned, none"):
        family().edit(Point("other", 1.0))
    with pytest.raises(DposcopeError, match="no ablation"):
        family(ablates=False).edit(Point("learned", 1.0, 0.0, 0.5))
    with pytest.raises(DposcopeError, match="nothing to search"):
        Family({}, torch.ones(2), 4, ablates=False)
    with pytest.raises(DposcopeError, match="may not be called"):
        Family({NO_GAINS: Source.line(Gains(VALUES))}, torch.ones(2), 4)
