"""The multiplications that the limit is made of are those that torch counts."""

import sys
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from helpers.families import FAMILIES, tiny

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

from limit import Machine, Shapes, Stage, Work, table


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pass_multiplies_as_often_as_torch_counts(family):
    lm, tokens, texts = tiny(family), 12, 3
    shapes = Shapes.of(lm)
    lm.model.set_attn_implementation("eager")  # the other one's products are not counted on a CPU
    with FlopCounterMode(display=False) as counted, torch.no_grad():
        lm.model(input_ids=torch.ones(texts, tokens, dtype=torch.long), use_cache=False)
    # torch computes every pair of tokens in attention, also those that the mask leaves out.
    masked = 2 * shapes.attention * texts * tokens * (tokens - 1) / 2
    expected = shapes.reading(tokens, texts).products + shapes.unembedded(texts * tokens).products
    assert counted.get_total_flops() / 2 == expected + masked


def test_a_step_costs_what_one_more_token_costs():
    shapes = Shapes.of(tiny("llama"))
    more = shapes.reading(9, 4).products - shapes.reading(8, 4).products + shapes.unembedded(4).products
    assert shapes.step(4, 9).products == more


def test_the_slower_of_products_and_reading_is_the_limit():
    machine = Machine(products=100.0, bandwidth=10.0)
    assert machine.seconds(Work(200.0, 5.0)) == 2.0
    assert machine.seconds(Work(200.0, 50.0)) == 5.0
    stage = Stage("all", lambda: None, [Work(200.0, 5.0), Work(200.0, 50.0)], 14)
    assert "| all | 14 | 1 | 50% | 25% to 100% |" in table([stage], [(machine, {"all": s}) for s in (7.0, 14.0, 28.0)])
