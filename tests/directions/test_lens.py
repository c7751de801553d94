"""The lens against the model's own way from residual stream to logits, sorted by hand."""

import math

import pytest
import torch

from dposcope.directions.lens import lens
from dposcope.errors import DposcopeError
from helpers.families import VOCABULARY, copied, random_direction, tiny, trace
from helpers.naive_lens import naive_logits, ranked


def vectors(lm, n: int) -> torch.Tensor:
    return torch.stack([random_direction(lm, seed) for seed in range(n)])


def test_top_and_bottom_are_those_of_x_and_of_minus_x(lm):
    xs = vectors(lm, 5) * torch.tensor([0.1, 1, 3, 10, 100], dtype=torch.float64).unsqueeze(1)
    found = lens(lm, xs, k=7)
    assert len(found) == 5
    for x, one in zip(xs, found, strict=True):
        for tokens, logits, naive in (
            (one.top, one.top_logits, naive_logits(lm, x)),
            (one.bottom, one.bottom_logits, naive_logits(lm, -x)),
        ):
            assert tokens == ranked(lm, naive, 7)
            assert logits == pytest.approx(sorted(naive.tolist(), reverse=True)[:7], rel=1e-5, abs=1e-5)


def test_the_lens_of_a_real_stream_is_what_the_model_predicts(lm):
    seen = trace(lm, [2, 41, 42, 60, 77])
    found = lens(lm, seen.stream[-1], k=5)
    for position, one in enumerate(found):
        assert one.top == ranked(lm, seen.logits[position], 5)


def test_the_soft_cap_bends_logits_and_keeps_ranks(gemma2):
    x = random_direction(gemma2, 2)
    capped = lens(gemma2, x, k=10)[0]
    own = copied(gemma2)
    own.model.config.final_logit_softcapping = None
    free = lens(own, x, k=10)[0]
    assert max(free.top_logits) > 1, "hardly bent"
    assert capped.top == free.top
    assert capped.bottom == free.bottom
    bent = [1.5 * math.tanh(logit / 1.5) for logit in free.top_logits]
    assert capped.top_logits == pytest.approx(bent, rel=1e-5)
    assert bent[0] < 0.9 * free.top_logits[0]


@pytest.mark.parametrize("cap", [0.05, 1.5])
def test_the_soft_cap_keeps_ranks_in_half_precision(gemma2, cap):
    """Of capped logits in bfloat16, many would be equal."""
    own = copied(gemma2)
    own.model.to(torch.bfloat16)
    own.model.config.final_logit_softcapping = cap
    seen = 0
    for x in vectors(own, 30):
        one = lens(own, x, k=8)[0]
        for tokens, logits, side in ((one.top, one.top_logits, x), (one.bottom, one.bottom_logits, -x)):
            with torch.no_grad():
                free = own.model.lm_head(own.model.model.norm(side.to(torch.bfloat16).view(1, 1, -1)))[0, 0].float()
            highest = free.sort(descending=True).values[:9].tolist()
            if len(set(highest)) == 9:  # else the product itself has equal ones
                seen += 1
                assert tokens == ranked(own, free, 8)
                assert logits == pytest.approx([cap * math.tanh(value / cap) for value in highest[:8]], rel=1e-6)
    assert seen > 10, "hardly tested"


def test_a_norm_with_a_bias_has_a_bottom_of_its_own(gpt2):
    """GPT-2's final norm adds a bias, so the lens of −x is more than the lowest logits of x."""
    x = random_direction(gpt2) * 0.5
    logits = naive_logits(gpt2, x)
    lowest = [gpt2.tokenizer.decode([token]) for token in logits.argsort()[:10].tolist()]
    assert lens(gpt2, x)[0].bottom != lowest


def test_without_a_bias_the_bottom_is_the_lowest_of_x(llama):
    x = random_direction(llama)
    lowest = [llama.tokenizer.decode([token]) for token in naive_logits(llama, x).argsort()[:10].tolist()]
    assert lens(llama, x)[0].bottom == lowest


def test_one_vector_gives_one_lens(lm):
    x = random_direction(lm)
    assert lens(lm, x) == lens(lm, x.unsqueeze(0))
    assert len(lens(lm, x)[0].top) == 10
    assert len(lens(lm, x)[0].bottom_logits) == 10


@pytest.mark.parametrize("n", [63, 64, 65, 130])
def test_many_vectors_are_each_by_itself(llama, n):
    xs = vectors(llama, n)
    together = lens(llama, xs, k=4)
    assert len(together) == n
    for place in {0, 1, 62, n - 2, n - 1}:
        assert together[place].top == lens(llama, xs[place], k=4)[0].top
        assert together[place].bottom == lens(llama, xs[place], k=4)[0].bottom


def test_no_call_unembeds_more_than_64_vectors(llama):
    own = copied(llama)
    seen = []
    own.model.lm_head.register_forward_hook(lambda _module, args, _output: seen.append(args[0].shape[:-1].numel()))
    lens(own, vectors(own, 130), k=4)
    assert max(seen) <= 64
    assert sum(seen) == 2 * 130


def test_value_vectors_of_a_half_precision_model(llama):
    own = copied(llama)
    own.model.to(torch.bfloat16)
    found = lens(own, own.value_vectors(1)[:3], k=3)
    for row, one in enumerate(found):
        assert one.top_logits == pytest.approx(
            sorted(naive_logits(own, own.value_vectors(1)[row]).tolist(), reverse=True)[:3], rel=2e-2
        )


def test_no_vectors_give_no_lens(llama):
    assert lens(llama, torch.zeros(0, llama.d_model)) == []


@pytest.mark.parametrize("k", [1, VOCABULARY])
def test_k_up_to_the_vocabulary(llama, k):
    one = lens(llama, random_direction(llama), k=k)[0]
    assert len(one.top) == len(one.bottom) == k


@pytest.mark.parametrize("k", [0, -1, VOCABULARY + 1, 10_001])
def test_k_out_of_range_is_refused(llama, k):
    with pytest.raises(DposcopeError, match=f"k {k} is out of range; give 1 to {VOCABULARY} tokens"):
        lens(llama, random_direction(llama), k=k)


@pytest.mark.parametrize("shape", [(15,), (3, 17)])
def test_another_width_is_refused(llama, shape):
    with pytest.raises(DposcopeError, match=rf"vectors of width {shape[-1]} do not fit a model of width 16"):
        lens(llama, torch.ones(shape))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_promotes_no_token(llama, bad):
    vectors = torch.ones(70, llama.d_model)
    vectors[69, 3] = bad
    with pytest.raises(DposcopeError, match="holds NaN or infinity in float32, and promotes no token"):
        lens(llama, vectors)


def test_a_vector_out_of_the_range_of_the_models_type_is_refused():
    half = tiny("llama", dtype=torch.float16)
    with pytest.raises(DposcopeError, match=r"holds NaN or infinity in float16.*make it shorter"):
        lens(half, torch.full((half.d_model,), 1e5))
