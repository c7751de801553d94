"""Families whose blocks, residual stream or logits are of a kind of their own, against plain runs of their modules."""

import copy
import random
from dataclasses import fields
from functools import cache
from importlib.util import find_spec

import pytest
import torch

from dposcope.directions.features import residual_features
from dposcope.directions.lens import lens
from dposcope.errors import DposcopeError
from dposcope.evaluation.perplexity import window_losses
from dposcope.interventions.ablate import ablate
from dposcope.interventions.edit import Edit
from dposcope.interventions.fold import fold
from dposcope.interventions.gains import Gains
from dposcope.interventions.paired.interchange import Interchange, Parts
from dposcope.interventions.paired.mediation import mediation
from dposcope.interventions.steer import Steer
from dposcope.jobs.explain.explanation import explain
from dposcope.model.generate import generate
from dposcope.model.hooks import attention_sites, hooked, mlp_sites, neuron_sites, residual_site
from dposcope.model.language_model import LanguageModel
from dposcope.model.load import load
from dposcope.model.outline import outline
from dposcope.model.size import size_of
from dposcope.neurons.activations import collect_means
from dposcope.neurons.contributions import contributions
from dposcope.neurons.sets import NeuronSet
from dposcope.training.batches.examples import Example
from dposcope.training.batches.packing import PackedBatch
from dposcope.training.batches.reading import fits_one_row
from dposcope.training.collator import VALIDATION, Collator, Material
from dposcope.training.lean_reference import Reads, lean_reference
from dposcope.training.objective import Objective
from dposcope.training.precompute import ReferenceStates, precompute_reference
from dposcope.training.schedule import Schedule
from dposcope.training.trainable import neuron_gains
from helpers.changes import tuned_copy
from helpers.families import (
    TEXTS,
    VOCABULARY,
    assert_close,
    bits,
    logits_of,
    random_direction,
    random_gains,
)
from helpers.more_families import MORE
from helpers.naive import naive_means
from helpers.policies import assert_gains_train_by_plain_logits, disturb, material

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
    old = ("bloom", "mpt", "gpt_neo", "falcon", "openai-gpt")
    assert lm.d_mlp == {**dict.fromkeys(old, 64), "gemma4_wide": 48}.get(name, 24)
    assert lm.gated == (name not in (*old, "nanochat"))
    assert lm.norm_repeats == (name == "nanochat")
    if family.norm is None:
        assert isinstance(lm.final_norm, torch.nn.Identity)
    else:
        assert lm.final_norm is lm.model.get_submodule(family.norm)
    for block in range(4):
        assert lm.mlp_outs[block] is family.mlp_out(lm, block)
        assert lm.mixer_outs[block] == family.attention_outs(lm, block)
        assert lm.attention_outs[block] is lm.mixer_outs[block][0]
        own = family.vectors(lm, block)
        assert torch.equal(lm.value_vectors(block)[: len(own)], own)
        assert not lm.value_vectors(block)[len(own) :].any()
        assert lm.here is None or lm.here[block].tolist() == [place < len(own) for place in range(lm.d_mlp)]
    assert (lm.here is None) == (name != "gemma4_wide")
    assert lm.n_neurons == sum(len(family.vectors(lm, block)) for block in range(4))


def test_hooks_that_give_back_what_they_saw_change_no_bit(name):
    lm = made(name)
    sites = [site for block in range(4) for site in (*neuron_sites(lm, block), *mlp_sites(lm, block))]
    sites += [site for block in range(4) for site in (*attention_sites(lm, block), residual_site(lm, block))]
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
            returned[block] = (stream[0] if family.streams == "first" else stream)[0]
            if family.streams == "mean":
                returned[block] = sum(returned[block][:, one] for one in range(3)) / 3

        return after

    handles = [family.block(lm, block).register_forward_hook(look(block)) for block in range(4)]
    with hooked(lm, [(residual_site(lm, block), keep(block)) for block in range(4)]):
        logits_of(lm, IDS)
    for handle in handles:
        handle.remove()
    for block in range(3):
        assert_close(seen[block], returned[block], 1e-6 if family.streams == "mean" else 0)
    # What the final norm reads gives the logits, whatever is between the last block and it.
    assert_close(family.unembed(lm, seen[3]), logits_of(lm, IDS), 1e-6)
    assert torch.equal(seen[3], returned[3]) == (family.streams is None)


def test_a_change_of_the_residual_stream_reaches_the_logits(name):
    """And of several streams, only the one that is read is replaced, or each takes what their mean gains."""
    lm, family = made(name), MORE[name]
    added = random_direction(lm).float()
    with hooked(lm, [(residual_site(lm, 1), lambda tensor, _frame: tensor + added)]):
        changed = logits_of(lm, IDS)

    def add(_module, args, kwargs):
        given = (args[0] if args else kwargs["hidden_states"]).clone()
        if family.streams == "first":
            given[0] += added
        else:
            given += added
        return ((given, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": given})

    handle = family.block(lm, 2).register_forward_pre_hook(add, with_kwargs=True)
    expected = logits_of(lm, IDS)
    handle.remove()
    assert_close(changed, expected, 1e-5 if family.streams == "mean" else 0)
    assert not torch.allclose(changed, logits_of(lm, IDS), atol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("name", [name for name, family in MORE.items() if not family.streams])
def test_the_end_of_the_last_block_is_what_it_returns_for_all_who_read_or_change_it(name):
    lm = made(name)
    other, vector, last = tuned_copy(lm, strength=0.05), random_direction(lm).float(), MORE[name].block(lm, 3)

    def run(of, ids, rule):
        """Logits, with a rule for what the last block returns, `[T, d]`."""

        def after(_module, _args, output):
            bare = output if isinstance(output, torch.Tensor) else output[0]
            new = rule(bare[0]).unsqueeze(0)
            return new if isinstance(output, torch.Tensor) else (new, *output[1:])

        handle = MORE[name].block(of, 3).register_forward_hook(after)
        logits = logits_of(of, ids)
        handle.remove()
        return logits

    def returned(of, ids):
        seen = []
        run(of, ids, lambda stream: seen.append(stream.clone()) or stream)
        return seen[0]

    plain = logits_of(lm, IDS)
    with Steer(vector, 0.5).on(lm) as applied:
        steered = logits_of(lm, IDS)
    assert applied.fired == {"residual.3": 1}
    assert_close(steered, run(lm, IDS, lambda stream: stream - 0.5 * vector), 1e-6)
    theirs = returned(other, IDS)
    with Interchange(other, Parts(residuals={3})).on(lm):
        changed = logits_of(lm, IDS)
    assert_close(changed, run(lm, IDS, lambda _stream: theirs), 1e-6)
    assert min((steered - plain).abs().max(), (changed - plain).abs().max()) > 1e-2
    means = []
    for text in TEXTS[:3]:
        ids = lm.tokenizer(text)["input_ids"]
        means.append(returned(lm, ids)[[token not in lm.special_ids for token in ids]].double().mean(0))
    assert_close(residual_features(lm, TEXTS[:3]).vectors, torch.stack(means), 1e-5)
    assert not last._forward_hooks


@torch.no_grad()
def test_blocks_take_what_the_other_model_writes(name):
    """Values are recorded before the model goes on, whatever it then does with the tensors."""
    lm, family = made(name), MORE[name]
    other = tuned_copy(lm, strength=0.05)
    plain = logits_of(lm, IDS)
    for parts, outs in (
        (Parts(mlps={1}), lambda of, block: [family.mlp_out(of, block)]),
        (Parts(attentions={1}), family.attention_outs),
    ):
        seen = {}
        handles = [
            one.register_forward_hook(
                lambda _m, _a, output, place=place, seen=seen: seen.update({place: output.clone()})
            )
            for place, one in enumerate(outs(other, 1))
        ]
        logits_of(other, IDS)
        handles += [
            one.register_forward_hook(lambda _m, _a, _output, place=place, seen=seen: seen[place])
            for place, one in enumerate(outs(lm, 1))
        ]
        expected = logits_of(lm, IDS)
        for handle in handles:
            handle.remove()
        with Interchange(other, parts).on(lm):
            assert_close(logits_of(lm, IDS), expected, 1e-6)
        assert not torch.allclose(expected, plain, atol=1e-4)


@torch.no_grad()
def test_an_edit_by_hooks_is_that_of_a_plain_run_and_folds(name):
    lm, family = made(name), MORE[name]
    gains, direction = random_gains(lm), random_direction(lm)
    edit = Edit.of(Gains(gains), ablate(direction))
    naive = family.logits(lm, IDS, gains, direction)
    with edit.on(lm) as applied:
        hooked_logits = logits_of(lm, IDS)
        written = generate(lm, TEXTS, new_tokens=5)
    assert len(applied.fired) == 8 + sum(len(family.attention_outs(lm, block)) for block in range(4))
    assert_close(hooked_logits, naive, 1e-6)
    assert not torch.allclose(naive, logits_of(lm, IDS), atol=1e-2)
    folded = fold(lm, edit)
    assert_close(logits_of(folded, IDS), hooked_logits, 2e-5)
    assert generate(folded, TEXTS, new_tokens=5) == written


def test_batches_and_cache_change_no_token(name):
    """Under an edit of what is generated, which would go wrong wherever the model or a hook mistakes a position."""
    lm = made(name)
    gains = Gains(random_gains(lm), positions="generated")
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
            means[block, : len(family.vectors(lm, block))]
            * (family.vectors(lm, block).double() @ direction / direction.norm())
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
    assert_gains_train_by_plain_logits(lm, examples, lambda ids, gains: family.logits(lm, ids, gains), shared=shared)


LENGTHS = {
    # A window is the longest text; the second completion of the shortest is one token, which stands at its prompt.
    "blind": ([(12, 9, 7), (10, 8, 8), (2, 1, 1)], [40, 30]),
    # No second completion stands apart from its prompt; together, texts are longer than the context.
    "long": ([(20, 30, 1)] * 5, [100, 90]),
}


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("name", ["mpt", "gpt_neo"])
def test_the_loss_is_that_of_each_text_alone_whatever_the_lengths(name, lengths, tmp_path):
    """As a trainer reads a batch, with a reference that runs and with one that ran before."""
    lm, family, draw = made(name), MORE[name], random.Random(0)

    def ids(count):
        return tuple(draw.randrange(4, VOCABULARY) for _ in range(count))

    pairs, windows = LENGTHS[lengths]
    examples = [Example(ids(prompt), (ids(first), ids(second))) for prompt, first, second in pairs]
    given = Material(examples, examples[:1], [Example(ids(count)) for count in windows])
    objective, losses = Objective(0.1, 0.5, "neutral"), []
    with neuron_gains(lm, objective) as trainable, torch.no_grad():
        precompute_reference(
            lm, trainable.policy, {"train": examples, "validation": examples[:1], "window": given.windows}, tmp_path
        )
        disturb(trainable.policy)
        (gains,) = trainable.policy.trainable.values()
        for example in examples:
            margin = 0.0
            for sign, completion in zip((1, -1), example.completions, strict=True):
                for side, factors in ((1, gains), (-1, torch.ones_like(gains))):
                    told = family.logits(lm, [*example.prompt, *completion], factors).double().log_softmax(-1)
                    chosen = told[len(example.prompt) - 1 : -1].gather(1, torch.tensor(completion).unsqueeze(1))
                    margin += sign * side * float(chosen.sum())
            losses.append(torch.nn.functional.softplus(torch.tensor(-0.1 * margin)))
        for reference in (None, ReferenceStates(tmp_path, validation_offset=VALIDATION)):
            batch = Collator(lm, given, objective, Schedule(), reference)(range(len(examples)))
            read = PackedBatch(**{field.name: batch[field.name] for field in fields(PackedBatch)})
            found = trainable.policy(read, int(batch["windows"]), batch.get("reference_hidden"))
            assert_close(found.losses, torch.stack(losses), 1e-5)
    assert torch.stack(losses).std() > 1e-3


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
    with MORE[name].installed():
        size = size_of(str(tmp_path / "it"))
        again = load(tmp_path / "it", dtype="float32", device="cpu")
    assert (size.blocks, size.width, size.mlp) == (4, 16, lm.d_mlp)
    assert size.parameters == sum(parameter.numel() for parameter in lm.model.parameters())
    assert torch.equal(logits_of(again, IDS), logits_of(lm, IDS))
    assert again.model.config.model_type == lm.model.config.model_type


# What is not right on them is refused


def test_what_a_part_needs_is_named_where_it_is_missing(tmp_path):
    if find_spec("timm") is not None:
        pytest.skip("timm is installed")
    made("gemma3n").save_pretrained(tmp_path / "it")
    for ask in (lambda: load(tmp_path / "it"), lambda: size_of(str(tmp_path / "it")), lambda: outline(tmp_path / "it")):
        with pytest.raises(DposcopeError, match=r"cannot load .*it: .* requires the timm library .*; install what it"):
            ask()


@pytest.mark.parametrize("name", MIXED)
def test_what_is_done_by_head_is_refused_where_blocks_have_none(name):
    lm = made(name)
    for ask in (lambda: lm.n_heads, lambda: lm.d_attention):
        beside = r"blocks of .* have a state space beside their attention heads"
        without = r"some blocks of .* have no attention heads, but linear attention, a state space or a convolution"
        with pytest.raises(DposcopeError, match=beside if name == "falcon_h1" else without):
            ask()


@pytest.mark.parametrize("where", ["last", "generated", "prompt", "all"])
def test_blocks_that_read_only_the_last_token_are_changed_at_the_same_positions(where):
    """Gemma 4's last blocks skip the prompt where only the next token is asked for: its length may not matter."""
    lm = made("gemma4_text")
    gains = Gains(random_gains(lm), positions=where)
    fits = []
    look = [
        (neuron_sites(lm, block)[0], lambda tensor, frame: fits.append(tensor.shape[:2] == frame.positions.shape))
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
