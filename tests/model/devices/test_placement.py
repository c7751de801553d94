"""Where parts go: whole blocks in order, no device fuller than it must be, and every weight in one place."""

from itertools import combinations_with_replacement

import pytest
import torch
from accelerate.utils import check_device_map
from hypothesis import given
from hypothesis import strategies as st

from dposcope.model.devices.placement import USABLE, PartBytes, Placement, split
from helpers.families import FAMILIES, MIXTURES, tiny
from helpers.more_families import MORE

GPUS = tuple(torch.device("cuda", number) for number in range(4))
GB = 10**9


def test_equal_gpus_share_equal_blocks():
    found = split(PartBytes(2 * GB, (GB,) * 12, 2 * GB), dict.fromkeys(GPUS, 10 * GB))
    assert found == Placement(GPUS[0], tuple(GPUS[number] for number in (0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3)), GPUS[3])


def test_a_gpu_with_half_the_memory_takes_half_as_much():
    found = split(PartBytes(0, (GB,) * 9, 0), {GPUS[0]: 20 * GB, GPUS[1]: 10 * GB})
    assert found is not None
    assert [found.blocks.count(one) for one in GPUS[:2]] == [6, 3]


def test_one_gpu_takes_all():
    found = split(PartBytes(GB, (GB,) * 3, GB), {GPUS[1]: 10 * GB})
    assert found == Placement(GPUS[1], (GPUS[1],) * 3, GPUS[1])
    assert not found.spread


def fullest(parts: PartBytes, places: tuple[int, ...], free: list[int]) -> float:
    """Share of its free memory that the fullest device takes; `places` are of blocks and end."""
    taken = [0] * len(free)
    taken[0] += parts.first
    for size, place in zip((*parts.blocks, parts.last), places, strict=True):
        taken[place] += size
    return max(one / room for one, room in zip(taken, free, strict=True))


@given(
    first=st.integers(0, 40),
    blocks=st.lists(st.integers(1, 30), min_size=1, max_size=5),
    last=st.integers(0, 40),
    free=st.lists(st.integers(20, 90), min_size=1, max_size=3),
)
def test_it_is_the_best_of_all_ways(first, blocks, last, free):
    """Every way to put whole blocks in order is tried."""
    parts = PartBytes(first, tuple(blocks), last)
    ways = combinations_with_replacement(range(len(free)), len(blocks) + 1)
    best = min(fullest(parts, way, free) for way in ways)
    found = split(parts, dict(zip(GPUS, free, strict=False)))
    if found is None:
        assert best > USABLE * (1 - 1e-9)
        return
    assert found.first == GPUS[0]
    places = tuple(GPUS.index(one) for one in (*found.blocks, found.last))
    assert list(places) == sorted(places)
    assert fullest(parts, places, free) == pytest.approx(best)


@pytest.mark.parametrize("family", [*FAMILIES, *MIXTURES, *MORE])
def test_every_weight_is_in_one_place_and_blocks_are_whole(family):
    lm = MORE[family].build() if family in MORE else tiny(family)
    blocks = tuple(GPUS[1 + number % 2] for number in range(lm.n_blocks))
    placement = Placement(GPUS[0], blocks, GPUS[3])
    places = placement.device_map(lm.model, lm.layout)
    check_device_map(lm.model, dict(places))
    for name, parameter in lm.model.named_parameters():
        (place,) = [places[key] for key in places if name == key or name.startswith(f"{key}.")]
        block = name.removeprefix(f"{lm.layout.blocks}.")
        if block != name:
            assert place == blocks[int(block.partition(".")[0])]
        elif any(name.startswith(f"{end}.") for end in (lm.layout.final_norm, lm.layout.transform) if end is not None):
            assert place == GPUS[3]
        elif parameter is lm.model.get_input_embeddings().weight:
            assert place == GPUS[0]
        elif any(parameter is one for one in lm.model.get_output_embeddings().parameters()):
            assert place == GPUS[3]
        else:
            assert place == GPUS[0]
    assert sum(name.startswith(f"{lm.layout.blocks}.") for name in places) == lm.n_blocks
    head = next(name for name, one in lm.model.named_modules() if one is lm.model.get_output_embeddings())
    tied = lm.model.get_output_embeddings().weight is lm.model.get_input_embeddings().weight
    assert places[head] == (GPUS[0] if tied else GPUS[3])


def test_of_a_model_on_one_device(llama):
    assert Placement.of(llama) == Placement(llama.device, (llama.device,) * llama.n_blocks, llama.device)
    assert not Placement.of(llama).spread
