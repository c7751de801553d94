"""Families whose blocks, residual stream or logits are of a kind of their own, against plain runs of their modules."""

import copy
from functools import cache

import pytest
import torch
import transformers

from dposcope.directions.lens import lens
from dposcope.errors import DposcopeError
from dposcope.evaluation.perplexity import window_losses
from dposcope.interventions.ablate import ablate
from dposcope.interventions.edit import Edit
from dposcope.interventions.fold import fold
from dposcope.interventions.gains import Gains
from dposcope.interventions.paired.interchange import Interchange, Parts
from dposcope.interventions.paired.mediation import mediation
from dposcope.jobs.explain.explanation import explain
from dposcope.model.generate import generate
from dposcope.model.hooks import attention_site, hooked, mlp_site, neuron_site, residual_site
from dposcope.model.language_model import LanguageModel
from dposcope.model.load import load
from dposcope.model.size import size_of
from dposcope.neurons.activations import collect_means
from dposcope.neurons.contributions import contributions
from dposcope.neurons.sets import NeuronSet
from dposcope.training.batches.packing import pack
from dposcope.training.batches.reading import fits_one_row
from dposcope.training.lean_reference import Reads, lean_reference
from dposcope.training.objective import Objective
from dposcope.training.trainable import neuron_gains
from helpers.changes import tuned_copy
from helpers.families import TEXTS, assert_close, bits, bos_tokenizer, logits_of, random_direction, random_gains
from helpers.more_families import MORE
from helpers.naive import naive_means
from helpers.policies import disturb, material

IDS = [2, 40, 41, 55, 60, 61, 70, 33, 12, 90]
MIXED = [name for name, family in MORE.items() if len(family.attention) > 1]
"""Families with blocks without attention."""


@cache
def made(name: str) -> LanguageModel:
    return MORE[name].build()


@pytest.fixture(params=MORE)
def name(request):
    """Every family in turn, whose model stays as it is."""
    before = bits(made(request.param).model)
    yield request.param
    assert bits(made(request.param).model) == before


def test_parts_are_found(name):
    lm, family = made(name), MORE[name]
    assert (lm.n_blocks, lm.d_model) == (4, 16)
    assert lm.d_mlp == {"bloom": 64, "mpt": 64, "gemma4_wide": 48}.get(name, 24)
    assert lm.gated == (name not in ("bloom", "mpt"))
    assert lm.final_norm is lm.model.get_submodule(family.norm)
    for block in range(4):
        assert lm.mlp_outs[block] is family.mlp_out(lm, block)
        assert lm.attention_outs[block] is family.attention_out(lm, block)
        own = family.mlp_out(lm, block).weight.T
        assert torch.equal(lm.value_vectors(block)[: len(own)], own)
        assert not lm.value_vectors(block)[len(own) :].any()
        assert lm.here is None or lm.here[block].tolist() == [place < len(own) for place in range(lm.d_mlp)]
    assert (lm.here is None) == (name != "gemma4_wide")
    assert lm.n_neurons == sum(family.mlp_out(lm, block).in_features for block in range(4))


def test_hooks_that_give_back_what_they_saw_change_no_bit(name):
    lm = made(name)
    sites = [site(lm, block) for block in range(4) for site in (neuron_site, mlp_site, attention_site, residual_site)]
    plain = logits_of(lm, IDS)
    for change in (lambda tensor, _frame: None, lambda tensor, _frame: tensor.clone()):
        with hooked(lm, [(site, change) for site in sites]) as applied:
            assert torch.equal(logits_of(lm, IDS), plain)
        assert set(applied.fired.values()) == {1}
        assert torch.equal(logits_of(lm, IDS), plain)


def test_the_residual_stream_is_what_blocks_return(name):
    lm, family, seen, returned = made(name), MORE[name], {}, {}

    def keep(block):
        return lambda tensor, _frame: seen.update({block: tensor[0]})

    def look(block):
        def after(_module, _args, output):
            stream = output if isinstance(output, torch.Tensor) else output[0]
            returned[block] = (stream[0] if family.streams else stream)[0]

        return after

    handles = [family.block(lm, block).register_forward_hook(look(block)) for block in range(4)]
    with hooked(lm, [(residual_site(lm, block), keep(block)) for block in range(4)]):
        logits_of(lm, IDS)
    for handle in handles:
        handle.remove()
    for block in range(3):
        assert torch.equal(seen[block], returned[block])
    # What the final norm reads gives the logits, whatever is between the last block and it.
    assert_close(family.unembed(lm, seen[3]), logits_of(lm, IDS), 1e-6)
    assert torch.equal(seen[3], returned[3]) == (not family.streams)


def test_a_change_of_the_residual_stream_reaches_the_logits(name):
    """And of several streams, only the one that is read is replaced."""
    lm, family = made(name), MORE[name]
    added = random_direction(lm).float()
    with hooked(lm, [(residual_site(lm, 1), lambda tensor, _frame: tensor + added)]):
        changed = logits_of(lm, IDS)

    def add(_module, args, kwargs):
        given = (args[0] if args else kwargs["hidden_states"]).clone()
        if family.streams:
            given[0] += added
        else:
            given += added
        return ((given, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": given})

    handle = family.block(lm, 2).register_forward_pre_hook(add, with_kwargs=True)
    expected = logits_of(lm, IDS)
    handle.remove()
    assert torch.equal(changed, expected)
    assert not torch.allclose(changed, logits_of(lm, IDS), atol=1e-3)


@torch.no_grad()
def test_an_edit_by_hooks_is_that_of_a_plain_run_and_folds(name):
    lm, family = made(name), MORE[name]
    gains, direction = random_gains(lm), random_direction(lm)
    edit = Edit.of(Gains(gains), ablate(direction))
    naive = family.logits(lm, IDS, gains, direction)
    with edit.on(lm) as applied:
        hooked_logits = logits_of(lm, IDS)
        written = generate(lm, TEXTS, new_tokens=5)
    assert len(applied.fired) == 12
    assert_close(hooked_logits, naive, 1e-6)
    assert not torch.allclose(naive, logits_of(lm, IDS), atol=1e-2)
    folded = fold(lm, edit)
    assert_close(logits_of(folded, IDS), hooked_logits, 2e-5)
    assert generate(folded, TEXTS, new_tokens=5) == written


def test_batches_and_cache_change_no_token(name):
    lm = made(name)
    for gains in (Gains.ones(4, lm.d_mlp), Gains(random_gains(lm), positions="generated")):
        with hooked(lm, gains.changes(lm), positions=gains.positions):
            together = generate(lm, TEXTS, new_tokens=6, stop_at_end=False)
            for options in ({"batch_size": 1}, {"use_cache": False}, {"batch_size": 1, "use_cache": False}):
                assert generate(lm, TEXTS, new_tokens=6, stop_at_end=False, **options) == together
        assert len({tuple(one.ids) for one in together}) > 3, "texts that are all one would prove nothing"


def test_an_interchange_takes_what_the_other_model_has(name):
    """Everything that its last block writes, and the embedding before: the texts are then the other model's."""
    base = made(name)
    tuned = LanguageModel(copy.deepcopy(base.model), base.tokenizer, base.name)
    with torch.no_grad():
        MORE[name].mlp_out(tuned, 3).weight.mul_(-3)
    here, there = (generate(lm, TEXTS, new_tokens=5) for lm in (base, tuned))
    assert here != there
    for parts in (Parts(mlps=frozenset([3])), Parts(neurons=NeuronSet.all(4, base.d_mlp))):
        with Interchange(tuned, parts).on(base):
            written = generate(base, TEXTS, new_tokens=5)
        # Its neurons are the base's, as only what block 3 writes with them differs.
        assert written == (there if parts.mlps else here)


@pytest.mark.parametrize("name", ["gemma4", "gemma4_text", "bloom"])
def test_a_reference_keeps_the_rows_of_the_embedding_that_it_reads(name):
    lm = made(name)
    kept = lean_reference(lm.model, Reads(frozenset({*IDS, 3})))
    expected = lm.model.base_model(input_ids=torch.tensor([IDS]), use_cache=False).last_hidden_state
    found = kept.model.base_model(input_ids=torch.tensor([IDS]), use_cache=False).last_hidden_state
    assert torch.equal(found, expected)


def test_means_and_contributions(name):
    base, family = made(name), MORE[name]
    tuned = tuned_copy(base, strength=0.05)
    # Linear attention reads a text in pieces, and a token at a time with a cache: another order of sums.
    near = 1e-4 if name in MIXED else 1e-5
    naive = [naive_means(lm, TEXTS) for lm in (base, tuned)]
    before, after = (collect_means(lm, TEXTS, new_tokens=4) for lm in (base, tuned))
    for found, (strict, _) in zip((before, after), naive, strict=True):
        assert_close(found.mean, strict, near)
    assert_close(collect_means(base, TEXTS, new_tokens=4, protocol="reference").mean, naive[0][1], near)
    direction = random_direction(base)
    change = contributions(base, tuned, before, after, direction)
    for block in range(4):
        written = [
            means[block, : family.mlp_out(lm, block).in_features]
            * (family.mlp_out(lm, block).weight.double().T @ direction / direction.norm())
            for lm, (means, _) in zip((base, tuned), naive, strict=True)
        ]
        assert_close(change.total[block, : len(written[0])], written[0] - written[1], near)
        assert not change.total[block, len(written[0]) :].any()
    told = explain(base, tuned, direction, TEXTS, new_tokens=4, toxic_sets=[8])
    assert_close(told.contributions.total, change.total, 1e-12)


@torch.no_grad()
def test_log_perplexity_and_lens(name):
    lm, family = made(name), MORE[name]
    text, vector = " ".join(TEXTS), random_direction(lm).float()
    ids = [2, *lm.tokenizer(text, add_special_tokens=False)["input_ids"][:29]]
    told = logits_of(lm, ids).double().log_softmax(-1)
    expected = -sum(told[place, ids[place + 1]].item() for place in range(29))
    assert window_losses(lm, text, window=30, max_windows=1).nll[0] == pytest.approx(expected, rel=1e-5)
    (read,) = lens(lm, vector, k=3)
    for side, tokens in ((vector, read.top_logits), (-vector, read.bottom_logits)):
        assert tokens == pytest.approx(family.unembed(lm, side).topk(3).values.tolist(), rel=1e-5)


@pytest.mark.parametrize("shared", [True, False])
def test_preferences_train_gains(name, shared):
    """The loss of a batch and its gradient, against whole logits of one text at a time."""
    lm, family, examples = made(name), MORE[name], material(windows=0)
    if shared and not fits_one_row(lm.model, examples):
        pytest.skip("its texts have rows of their own")
    with neuron_gains(lm, Objective(0.1)) as trainable:
        policy = trainable.policy
        disturb(policy)
        (gains,) = policy.trainable.values()

        def likelihood(prompt, completion, factors):
            told = family.logits(lm, [*prompt, *completion], factors).log_softmax(-1)
            return sum(told[len(prompt) - 1 + place, token] for place, token in enumerate(completion))

        losses = []
        for example in examples:
            wanted, unwanted = (
                likelihood(example.prompt, one, gains) - likelihood(example.prompt, one, torch.ones_like(gains))
                for one in example.completions
            )
            losses.append(torch.nn.functional.softplus(-0.1 * (wanted - unwanted)))
        expected = torch.stack(losses).mean()
        found = policy(pack(examples, pad_id=lm.pad_id, shared=shared)).loss
        assert_close(found.detach(), expected.detach(), 1e-5)
        ours, naive = (torch.autograd.grad(one, gains)[0] for one in (found, expected))
        assert naive.abs().max() > 1e-3
        assert (ours - naive).norm() <= 2e-4 * naive.norm()


@pytest.mark.parametrize("name", MIXED)
def test_texts_do_not_share_a_row_where_a_mask_does_not_part_them(name):
    assert not fits_one_row(made(name).model, material())


def test_a_change_before_the_neurons_is_their_own_or_comes_from_before(name):
    """The weights before block 2's neurons are tuned: all of its change is its own, and that of block 3 is not."""
    base = made(name)
    tuned = LanguageModel(copy.deepcopy(base.model), base.tokenizer, base.name)
    out = MORE[name].mlp_out(tuned, 2)
    with torch.no_grad():
        for parameter in MORE[name].block(tuned, 2).get_submodule(MORE[name].mlp.split(".")[0]).parameters():
            if parameter is not out.weight:
                parameter.mul_(1.2)
    found = mediation(base, tuned, generate(base, TEXTS[:3], new_tokens=4))
    assert found.change[:2].abs().max() == 0
    assert found.change[2].sum() > 0
    assert_close(found.own[2], found.change[2], 1e-9)
    assert found.before[2].abs().max() == 0
    assert_close(found.before[3], found.change[3], 1e-4)
    assert found.own[3].abs().max() == 0


def test_a_checkpoint_is_loaded(name, tmp_path):
    lm = made(name)
    lm.save_pretrained(tmp_path / "it")
    size = size_of(str(tmp_path / "it"))
    assert (size.blocks, size.width, size.mlp) == (4, 16, lm.d_mlp)
    assert size.parameters == sum(parameter.numel() for parameter in lm.model.parameters())
    again = load(tmp_path / "it", dtype="float32", device="cpu")
    assert torch.equal(logits_of(again, IDS), logits_of(lm, IDS))
    assert again.model.config.model_type == lm.model.config.model_type


# What is not right on them is refused


@pytest.mark.parametrize("name", MIXED)
def test_what_is_done_by_head_is_refused_where_blocks_have_none(name):
    lm = made(name)
    for ask in (lambda: lm.n_heads, lambda: lm.d_attention):
        with pytest.raises(DposcopeError, match=r"some blocks of .* have no attention heads, but linear attention or"):
            ask()


def test_experts_beside_an_mlp_are_refused():
    config = MORE["gemma4_text"].config()
    config.enable_moe_block, config.num_experts, config.top_k_experts, config.moe_intermediate_size = True, 4, 2, 8
    lm = LanguageModel(transformers.AutoModelForCausalLM.from_config(config).eval(), bos_tokenizer())
    with pytest.raises(
        DposcopeError, match="gemma4_text computes its experts in a way of its own, which is not supported"
    ):
        _ = lm.layout


@pytest.mark.parametrize("where", ["last", "generated", "prompt", "all"])
def test_blocks_that_read_only_the_last_token_are_changed_at_the_same_positions(where):
    """Gemma 4's last blocks skip the prompt where only the next token is asked for: its length may not matter."""
    lm = made("gemma4_text")
    gains = Gains(random_gains(lm), positions=where)
    fits = []
    look = [
        (neuron_site(lm, block), lambda tensor, frame: fits.append(tensor.shape[:2] == frame.positions.shape))
        for block in range(4)
    ]
    with gains.on(lm), hooked(lm, look):
        together = generate(lm, TEXTS, new_tokens=5, stop_at_end=False)
    assert all(fits)
    for text, one in zip(TEXTS, together, strict=True):
        ids = list(one.prompt_ids)
        for _ in range(5):
            places = torch.arange(len(ids))
            length = len(one.prompt_ids)
            chosen = {
                "last": places >= length - 1,
                "generated": places >= length,
                "prompt": places < length,
                "all": places >= 0,
            }[where]
            by_token = torch.where(chosen[:, None], gains.values[:, None], 1.0)
            ids.append(int(MORE["gemma4_text"].logits(lm, ids, by_token)[-1].argmax()))
        assert ids[len(one.prompt_ids) :] == one.ids, text
