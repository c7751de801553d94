"""Hooks: they read and change what they say, count, nest, and leave nothing behind."""

import copy

import pytest
import torch

from dposcope.errors import DposcopeError
from dposcope.interventions.assign import Assign
from dposcope.interventions.gains import Gains
from dposcope.interventions.steer import Steer
from dposcope.model.hooks import Site, attention_sites, hooked, mlp_sites, neuron_site, residual_site
from dposcope.model.language_model import LanguageModel
from dposcope.neurons.sets import NeuronSet
from helpers import families
from helpers.families import assert_close, copied, hook_count, logits_of, random_direction, random_gains, trace

SITES = {
    "neurons": neuron_site,
    "mlp": lambda lm, block: mlp_sites(lm, block)[0],
    "attention": lambda lm, block: attention_sites(lm, block)[0],
    "stream": residual_site,
}
IDS = [2, 40, 41, 55, 60, 61, 70, 33, 12, 90]


def test_the_tiny_models_are_not_degenerate(lm):
    """Or nothing below would mean much."""
    seen = trace(lm, IDS)
    for block in range(lm.n_blocks):
        for tensor in (seen.neurons[block], seen.mlp[block], seen.attention[block], seen.stream[block]):
            assert 1e-2 < tensor.std() < 1e3
            assert (tensor.std(0) > 1e-3).all() or tensor is seen.neurons[block]
    assert seen.logits.std() > 0.1
    assert len({int(token) for token in seen.logits.argmax(-1)}) > 2


# Reading and changing


def bent(x):
    return x * torch.linspace(0.5, 1.5, x.shape[-1]) - 0.3


@pytest.mark.parametrize("site", SITES)
def test_a_site_shows_what_a_plain_hook_on_the_module_shows(lm, site):
    expected = getattr(trace(lm, IDS), site)
    caught = {}

    def keep(block):
        def look(tensor, frame):
            caught[block] = tensor.clone()

        return look

    with hooked(lm, [(SITES[site](lm, block), keep(block)) for block in range(lm.n_blocks)]):
        logits = logits_of(lm, IDS)
    for block in range(lm.n_blocks):
        assert torch.equal(caught[block][0], expected[block]), f"block {block}"
    assert torch.equal(logits, logits_of(lm, IDS))


@pytest.mark.parametrize("site", SITES)
def test_a_change_at_a_site_is_that_change_in_a_plain_hook(lm, site):
    for block in range(lm.n_blocks):
        # Not the same for every component: a norm that follows would undo it.
        expected = trace(lm, IDS, **{site: lambda b, x, block=block: bent(x) if b == block else x}).logits
        with hooked(lm, [(SITES[site](lm, block), lambda x, frame: bent(x))]):
            changed = logits_of(lm, IDS)
        assert torch.equal(changed, expected)
        assert not torch.allclose(changed, logits_of(lm, IDS), atol=1e-3)


def test_site_names_tell_kind_and_block(lm):
    assert [make(lm, 1).name for make in SITES.values()] == ["neurons.1", "mlp.1", "attention.1", "residual.1"]


# Hooks off


def do_nothing(lm):
    return Gains.ones(lm.n_blocks, lm.d_mlp)


def test_off_is_the_plain_model_to_the_bit(lm):
    plain = logits_of(lm, IDS)
    with Gains(random_gains(lm)).on(lm):
        assert not torch.equal(logits_of(lm, IDS), plain)
    assert torch.equal(logits_of(lm, IDS), plain)
    assert hook_count(lm.model) == 0


def test_strength_zero_inside_is_the_plain_model_to_the_bit(lm):
    plain = logits_of(lm, IDS)
    for nothing in (
        do_nothing(lm),
        Gains(random_gains(lm)).strength(0.0),
        Steer(random_direction(lm), alpha=0.0),
        Steer(random_direction(lm), alpha=0.0, site="mlp", block=0),
        Assign(torch.zeros(lm.n_blocks, lm.d_mlp), NeuronSet.empty(lm.n_blocks, lm.d_mlp)),
    ):
        with nothing.on(lm):
            assert torch.equal(logits_of(lm, IDS), plain), type(nothing).__name__
    # Gains of one that do run, on every block.
    ones = [(neuron_site(lm, block), lambda m, frame: m * torch.ones(lm.d_mlp)) for block in range(lm.n_blocks)]
    with hooked(lm, ones):
        assert torch.equal(logits_of(lm, IDS), plain)


def test_an_exception_inside_leaves_the_plain_model(lm):
    plain = logits_of(lm, IDS)

    def fail():
        with Gains(random_gains(lm)).on(lm):
            logits_of(lm, IDS)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert hook_count(lm.model) == 0
    assert torch.equal(logits_of(lm, IDS), plain)


def test_an_exception_inside_a_hook_leaves_the_plain_model(llama):
    def broken(tensor, frame):
        raise RuntimeError("in the hook")

    plain = logits_of(llama, IDS)
    with pytest.raises(RuntimeError, match="in the hook"), hooked(llama, [(neuron_site(llama, 1), broken)]):
        logits_of(llama, IDS)
    assert hook_count(llama.model) == 0
    assert torch.equal(logits_of(llama, IDS), plain)


def test_an_exception_before_any_pass_is_not_hidden_by_the_complaint_about_silent_sites(llama):
    with pytest.raises(ZeroDivisionError), Gains(random_gains(llama)).on(llama):
        _ = 1 / 0


def test_a_registration_that_fails_half_way_leaves_the_plain_model(llama):
    class Refuses(torch.nn.Module):
        def register_forward_pre_hook(self, *args, **kwargs):
            raise RuntimeError("no hooks here")

    plain = logits_of(llama, IDS)
    double = [(neuron_site(llama, block), lambda m, frame: 2 * m) for block in (0, 1)]
    with (
        pytest.raises(RuntimeError, match="no hooks here"),
        hooked(llama, [*double, (Site("bad", Refuses(), "input"), lambda m, frame: m)]),
    ):
        pytest.fail("the context was entered")
    assert hook_count(llama.model) == 0
    assert torch.equal(logits_of(llama, IDS), plain)


# Nesting and manners


def test_contexts_nest_the_inner_sees_what_the_outer_left(lm):
    first, second = random_gains(lm, 1), random_direction(lm, 2).float()
    expected = trace(
        lm,
        IDS,
        neurons=lambda block, m: m * first[block],
        stream=lambda block, x: x - 0.5 * second if block == lm.n_blocks - 1 else x,
    ).logits
    with Gains(first).on(lm):
        alone = logits_of(lm, IDS)
        with Steer(second, alpha=0.5).on(lm):
            assert_close(logits_of(lm, IDS), expected)
        assert torch.equal(logits_of(lm, IDS), alone)
    assert hook_count(lm.model) == 0


def test_nested_changes_of_one_site_apply_outer_first(llama):
    site = neuron_site(llama, 1)
    expected = trace(llama, IDS, neurons=lambda block, m: 2 * (m + 1) if block == 1 else m).logits
    with hooked(llama, [(site, lambda m, frame: m + 1)]), hooked(llama, [(site, lambda m, frame: 2 * m)]):
        assert torch.equal(logits_of(llama, IDS), expected)


@pytest.mark.parametrize("family", ["gpt2", "gemma2"])
def test_only_own_handles_are_removed(family):
    lm = families.tiny(family)
    calls = []
    modules = [lm.mlp_outs[0], lm.blocks[1], lm.final_norm, lm.model.base_model, lm.model]
    handles = [module.register_forward_pre_hook(lambda *_: calls.append(1)) for module in modules]
    handles += [module.register_forward_hook(lambda *_: calls.append(1)) for module in modules]
    with Gains(random_gains(lm)).on(lm), Steer(random_direction(lm), alpha=1.0, block=0).on(lm):
        logits_of(lm, IDS)
    assert len(calls) == len(handles) == hook_count(lm.model)
    logits_of(lm, IDS)
    assert len(calls) == 2 * len(handles)


def test_contexts_may_be_left_in_another_order(llama):
    plain = logits_of(llama, IDS)
    factors = random_gains(llama, 2)
    only_second = trace(llama, IDS, neurons=lambda block, m: m * factors[block]).logits
    first, second = Gains(random_gains(llama, 1)).on(llama), Gains(factors).on(llama)
    first.__enter__()
    second.__enter__()
    logits_of(llama, IDS)
    first.__exit__(None, None, None)
    assert_close(logits_of(llama, IDS), only_second)
    second.__exit__(None, None, None)
    assert torch.equal(logits_of(llama, IDS), plain)


# Counting


def test_fired_counts_forward_passes_per_site(lm):
    with Gains(random_gains(lm)).on(lm) as applied:
        assert set(applied.fired.values()) == {0}
        for _ in range(3):
            logits_of(lm, IDS)
    assert applied.fired == {f"neurons.{block}": 3 for block in range(lm.n_blocks)}
    assert "neurons.0×3" in str(applied)


def test_fired_counts_passes_also_where_two_changes_share_a_site(llama):
    site = mlp_sites(llama, 0)[0]
    with hooked(llama, [(site, lambda x, frame: 2 * x), (site, lambda x, frame: x + 1)]) as applied:
        logits_of(llama, IDS)
    assert applied.fired == {"mlp.0": 1}


def test_a_site_that_never_fired_is_an_error(llama):
    with pytest.raises(DposcopeError, match=r"never fired: neurons\.0, .*run the model inside the context"):  # noqa: SIM117
        with Gains(random_gains(llama)).on(llama):
            pass
    assert hook_count(llama.model) == 0


def test_a_site_the_model_bypasses_is_named(llama):
    lm = copied(llama)
    spare = copy.deepcopy(lm.mlp_outs[0])
    with pytest.raises(DposcopeError, match=r"never fired: spare;"):  # noqa: SIM117
        with hooked(lm, [(neuron_site(lm, 0), lambda m, f: m), (Site("spare", spare, "input"), lambda m, f: m)]):
            logits_of(lm, IDS)


def test_a_hook_outside_its_models_pass_says_so(llama):
    """Positions are unknown when a block is called on its own."""
    with hooked(llama, [(neuron_site(llama, 0), lambda m, frame: m)]):
        with pytest.raises(DposcopeError, match="outside its model's forward pass"):
            llama.mlp_outs[0](torch.zeros(1, 2, llama.d_mlp))
        logits_of(llama, IDS)


def test_blocks_that_share_a_projection_cannot_be_told_apart_by_hooks(llama):
    """A hook for block 1 sits on the module that block 0 runs as well: it would act twice."""
    lm = copied(llama)
    lm.model.model.layers[1].mlp.down_proj = lm.model.model.layers[0].mlp.down_proj
    values = torch.ones(3, 24)
    values[1] = 0.5
    with pytest.raises(DposcopeError, match="share one output projection"), Gains(values).on(lm):
        logits_of(lm, IDS)


# Compiled models

# torch.compile loads parts of torch that torch itself calls outdated.
loads_the_compiler = pytest.mark.filterwarnings("ignore:.torch.jit.*deprecated:DeprecationWarning")


@loads_the_compiler
def test_a_compiled_model_is_refused_with_the_way_out(llama):
    wrapped = LanguageModel(torch.compile(copied(llama).model), llama.tokenizer)
    with pytest.raises(DposcopeError, match=r"compiled.*fold the edit first"):
        hooked(wrapped, []).__enter__()
    in_place = copied(llama)
    in_place.model.compile()
    with pytest.raises(DposcopeError, match="compiled"):
        Gains(random_gains(llama)).on(in_place).__enter__()
    block = copied(llama)
    block.blocks[1].compile()
    with pytest.raises(DposcopeError, match="compiled"):
        Gains(random_gains(llama)).on(block).__enter__()


@loads_the_compiler
def test_a_model_with_one_compiled_block_is_refused(llama):
    lm = copied(llama)
    lm.model.model.layers[1] = torch.compile(lm.model.model.layers[1])
    with pytest.raises(DposcopeError, match="compiled"):
        Gains(random_gains(llama)).on(lm).__enter__()


def test_half_precision_changes_keep_the_dtype(llama):
    lm = copied(llama)
    lm.model.to(torch.bfloat16)
    seen = []
    with (
        Gains(random_gains(lm)).on(lm),
        Steer(random_direction(lm), alpha=1.0).on(lm),
        hooked(lm, [(neuron_site(lm, 1), lambda m, frame: seen.append(m.dtype))]),
    ):
        logits = logits_of(lm, IDS)
    assert seen == [torch.bfloat16]
    assert logits.dtype == torch.bfloat16
