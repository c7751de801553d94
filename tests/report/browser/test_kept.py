"""Which neurons a page holds where it has no room for all, against the same by sorting plain lists."""

import numpy as np
import pytest

from dposcope.report.browser.kept import kept
from dposcope.report.browser.neurons import GROUPS, TokenActivations
from helpers.browsers import browser, lens


def ragged(**changes):
    """Ties, zeros of both signs, and a narrow block."""
    made = browser(3, 40, n_lenses=0, n_opened=2)
    contribution = made.contribution.copy()
    contribution[1, :12] = contribution[1, 12:24]
    contribution[2, :4], contribution[2, 4:8] = 0.0, -0.0
    contribution[0, :6] = -contribution[1, 12:18]
    here = np.ones((3, 40), bool)
    here[0, 30:] = False
    contribution[~here] = 0
    return browser(3, 40, contribution=contribution, here=here, **({"n_lenses": 0, "n_opened": 2} | changes))


def strongest_of(value, most: int) -> list[int]:
    flat = value.contribution.astype(np.float32).ravel().tolist()
    here = [n for n in range(120) if value.here.ravel()[n]]
    return sorted(here, key=lambda n: (-abs(flat[n]), n))[:most]


@pytest.mark.parametrize("most", [0, 1, 17, 50, 110, 1000])
def test_the_strongest_and_those_with_more_to_show(most):
    opened = np.array([119, 7])
    activations = TokenActivations(opened, np.zeros((2, 36)), np.zeros((2, 36)))
    value = ragged(lenses={5: lens(" a", "b"), 80: lens("c", "d")}, activations=activations)
    found = kept(value, most)
    assert found.neurons.tolist() == sorted({*strongest_of(value, most), 5, 80, 119, 7})
    assert found.total == 110
    assert found.rows(opened).tolist() == [found.neurons.tolist().index(n) for n in (119, 7)]


def test_ranks_are_among_all_neurons():
    value = ragged()
    found = kept(value, 60)
    flat, group = value.contribution.astype(np.float32).ravel().tolist(), value.group.ravel().tolist()
    order = sorted((n for n in range(120) if value.here.ravel()[n]), key=lambda n: (-flat[n], n))
    assert found.ranks.tolist() == [order.index(n) + 1 for n in found.neurons.tolist()]

    def kind(n: int) -> tuple[int, int]:
        return group[n], 1 if flat[n] > 0 else 2 if flat[n] < 0 else 0

    for n, rank in zip(found.neurons.tolist(), found.peer_ranks.tolist(), strict=True):
        peers = [one for one in order if kind(one) == kind(n)]
        if kind(n)[1] == 2:
            peers.reverse()
        assert rank == peers.index(n) + 1
    for code in range(len(GROUPS)):
        for effect in range(3):
            assert found.peers[code * 3 + effect] == sum(kind(n) == (code, effect) for n in order)
