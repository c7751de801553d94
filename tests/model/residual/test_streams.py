"""Several residual streams, against plain runs of the blocks that pass them on."""

from contextlib import contextmanager

import pytest
import torch

from dposcope.directions.features import residual_features
from dposcope.directions.lens import lens
from dposcope.errors import DposcopeError
from dposcope.interventions.ablate import ablate
from dposcope.interventions.edit import Edit
from dposcope.interventions.gains import Gains
from dposcope.interventions.paired.attribution import attribution
from dposcope.interventions.paired.interchange import Interchange, Parts
from dposcope.interventions.paired.mediation import mediation
from dposcope.interventions.steer import Steer
from dposcope.model.cache import check_keys_and_values
from dposcope.model.checks import layout as checks
from dposcope.model.generate import generate
from dposcope.model.hooks import attention_sites, heads_site, hooked, mlp_sites, neuron_sites, residual_site
from dposcope.model.load import load
from dposcope.model.residual.streams import ActiveStream, AllStreams, MeanStream, residual_streams
from dposcope.shipping.checkpoint import fold_checkpoint
from helpers.changes import tuned_copy
from helpers.families import TEXTS, assert_close, bits, copied, logits_of, random_direction, random_gains
from helpers.more_families import MORE
from helpers.streams import COUNT, STREAMS, made, parted

IDS = [2, 40, 41, 55, 60, 61, 70, 33, 12, 90]
NORMS = {"deepseek_v4": "norm", "hy_v4": "norm", "qwen4_exp_text": "hyper_connection_mixer"}


@pytest.fixture(params=STREAMS)
def name(request):
    """Every model in turn, which stays as it is."""
    before = bits(made(request.param).model)
    yield request.param
    assert bits(made(request.param).model) == before


def first(output):
    return output if isinstance(output, torch.Tensor) else output[0]


@contextmanager
def ends(lm, rule):
    """What blocks pass on, and what the final norm reads, go through `rule(place, tensor)`; place 4 is the norm's."""

    def after(place):
        def look(_module, _args, output):
            new = rule(place, first(output))
            return new if isinstance(output, torch.Tensor) else (new, *output[1:])

        return look

    inner = lm.model.model
    handles = [block.register_forward_hook(after(place)) for place, block in enumerate(inner.layers)]
    norm = inner.get_submodule(NORMS[lm.model.config.model_type])
    handles.append(norm.register_forward_pre_hook(lambda _module, args: (rule(4, args[0]),)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def passed_on(lm, ids):
    """Of each block, and what the final norm reads."""
    seen = {}

    def keep(place, tensor):
        seen[place] = tensor.clone()
        return tensor

    with ends(lm, keep):
        logits_of(lm, ids)
    return seen


def mean_of(tensor):
    """Of the streams, or the one that is there."""
    return tensor if tensor.shape[-1] == 16 and tensor.ndim == 3 else sum(parted(tensor)) / COUNT


def to_each(tensor, added):
    """A vector is added to every stream."""
    if tensor.ndim == 3 and tensor.shape[-1] == 16:
        return tensor + added
    whole = [one + added for one in parted(tensor)]
    return torch.stack(whole, 2) if tensor.ndim == 4 else torch.cat(whole, -1)


def test_hooks_that_give_back_what_they_saw_change_no_bit(name):
    lm = made(name)
    sites = [site for block in range(4) for site in (*neuron_sites(lm, block), *mlp_sites(lm, block))]
    sites += [site for block in range(4) for site in attention_sites(lm, block)]
    plain = logits_of(lm, IDS)
    for every in (False, True):
        ours = [*sites, *(residual_site(lm, block, every_stream=every) for block in range(4))]
        with hooked(lm, [(site, lambda tensor, _frame: tensor.clone()) for site in ours]):
            assert torch.equal(logits_of(lm, IDS), plain)


def test_the_residual_stream_is_the_mean_of_the_streams(name):
    lm, seen = made(name), {}
    sites = [residual_site(lm, block) for block in range(4)]
    with hooked(lm, [(site, lambda x, _frame, n=site.name: seen.update({n: x.clone()})) for site in sites]):
        logits_of(lm, IDS)
    passed = passed_on(lm, IDS)
    for block in range(3):
        assert_close(seen[f"residual.{block}"], mean_of(passed[block]), 1e-6)
        apart = [one - seen[f"residual.{block}"] for one in parted(passed[block])]
        assert min(one.abs().max() for one in apart) > 1e-2  # or their mean would show nothing
    assert_close(seen["residual.3"], mean_of(passed[4]), 1e-6)


@pytest.mark.parametrize("block", [1, 3])
def test_what_is_added_to_the_residual_stream_is_added_to_every_stream(name, block):
    lm = made(name)
    added = random_direction(lm).float()
    at = 4 if block == 3 else block
    with ends(lm, lambda place, x: to_each(x, added) if place == at else x):
        expected = logits_of(lm, IDS)
    with Steer(added, -1.0, block=block).on(lm):
        found = logits_of(lm, IDS)
    assert_close(found, expected, 1e-5)
    assert (found - logits_of(lm, IDS)).abs().max() > 1e-2


def test_the_lens_norms_a_vector_as_if_it_were_every_stream(name):
    lm = made(name)
    vector = random_direction(lm).float()
    norm = lm.model.model.get_submodule(NORMS[name])
    given = torch.cat([vector] * COUNT) if name == "qwen4_exp_text" else vector
    with torch.no_grad():
        logits = lm.model.lm_head(norm(given.reshape(1, 1, -1)))[0, 0]
    told = lens(lm, vector, k=5)[0]
    assert_close(torch.tensor(told.top_logits), logits.topk(5).values, 1e-6)


def test_features_are_means_of_the_residual_stream(name):
    lm = made(name)
    means = []
    for text in TEXTS[:3]:
        ids = lm.tokenizer(text)["input_ids"]
        kept = [place for place, token in enumerate(ids) if token not in lm.special_ids]
        means.append(mean_of(passed_on(lm, ids)[1])[0, kept].double().mean(0))
    found = residual_features(lm, TEXTS[:3], block=1, protocol="strict").vectors
    assert_close(found, torch.stack(means), 1e-5)


@torch.no_grad()
@pytest.mark.parametrize("block", [1, 3])
def test_an_interchange_takes_all_streams_of_the_other_model(name, block):
    lm = made(name)
    other = tuned_copy(lm, strength=0.05)
    at = 4 if block == 3 else block
    theirs = passed_on(other, IDS)[at]
    with ends(lm, lambda place, x: theirs if place == at else x):
        expected = logits_of(lm, IDS)
    with Interchange(other, Parts(residuals={block})).on(lm):
        found = logits_of(lm, IDS)
    assert_close(found, expected, 1e-5)
    assert (found - logits_of(lm, IDS)).abs().max() > 1e-2
    with Interchange(lm, Parts(residuals={block})).on(lm):
        assert torch.equal(logits_of(lm, IDS), logits_of(made(name), IDS))


def test_a_model_with_one_active_stream_takes_all_of_them_too():
    family = MORE["gemma3n_text"]
    lm = family.build()
    other, kept = tuned_copy(lm, strength=0.05), {}
    handle = family.block(other, 1).register_forward_hook(lambda _module, _args, out: kept.update(out=first(out)))
    logits_of(other, IDS)
    handle.remove()
    handle = family.block(lm, 1).register_forward_hook(lambda _module, _args, _out: kept["out"])
    expected = logits_of(lm, IDS)
    handle.remove()
    with Interchange(other, Parts(residuals={1})).on(lm):
        assert_close(logits_of(lm, IDS), expected, 1e-6)


def test_batches_and_cache_change_no_token(name):
    lm = copied(made(name))
    lm.model.generation_config.eos_token_id = []
    edit = Edit.of(Gains(random_gains(lm)), ablate(random_direction(lm), weight=0.7))
    with edit.on(lm):
        texts = [one.ids for one in generate(lm, TEXTS, new_tokens=8)]
        for options in ({"batch_size": 1}, {"batch_size": 3}, {"use_cache": False}):
            assert [one.ids for one in generate(lm, TEXTS, new_tokens=8, **options)] == texts
    assert len({tuple(one) for one in texts}) == len(texts)


def test_a_folder_takes_the_edit_without_loading_the_model(name, tmp_path):
    lm = made(name)
    lm.save_pretrained(tmp_path / "base")
    again = load(tmp_path / "base", dtype="float32", device="cpu")
    assert again.fingerprint == lm.fingerprint
    assert torch.equal(logits_of(again, IDS), logits_of(lm, IDS))
    edit = Edit.of(Gains(random_gains(lm)), ablate(random_direction(lm), weight=0.7))
    fold_checkpoint(tmp_path / "base", edit, tmp_path / "folded")
    folded = load(tmp_path / "folded", dtype="float32", device="cpu")
    with edit.on(lm):
        assert_close(logits_of(folded, IDS), logits_of(lm, IDS), 2e-5)


def test_where_a_change_of_neurons_comes_from(name):
    """Only the first block is tuned: there it is their own, in the last it comes from what went before."""
    base = made(name)
    tuned = copied(base)
    with torch.no_grad():
        mlp = tuned.model.model.layers[0].mlp
        (mlp.up_proj.weight if name == "hy_v4" else mlp.experts.gate_up_proj).mul_(1.001)
    written = generate(base, TEXTS[:4], new_tokens=4, stop_at_end=False)
    found = mediation(base, tuned, written)
    assert found.change[0].sum() > 0
    assert_close(found.own[0], found.change[0], 1e-9)
    assert found.change[3].sum() > 0
    assert_close(found.before[3], found.change[3], 1e-3)
    effect = attribution(base, tuned, written[:2], written[2:])
    assert effect.effect[0].any()
    assert effect.effect[3].any()


def test_heads_that_are_mixed_in_groups_are_refused():
    lm = made("deepseek_v4")
    for ask in (lambda: lm.n_heads, lambda: lm.d_attention, lambda: heads_site(lm, 1)):
        with pytest.raises(DposcopeError, match="a projection mixes the attention heads of tiny-deepseek_v4 in groups"):
            ask()
    assert heads_site(made("hy_v4"), 1).module is made("hy_v4").model.model.layers[1].self_attn.o_proj


def test_compressed_keys_are_not_shifted():
    with pytest.raises(DposcopeError, match=r"holds more than keys and values .* or compressed keys"):
        check_keys_and_values(made("deepseek_v4").model)
    check_keys_and_values(made("hy_v4").model)


def test_streams_of_an_unknown_kind_are_refused(name, monkeypatch):
    lm = copied(made(name))
    monkeypatch.setattr(checks, "residual_streams", lambda _model: None)
    monkeypatch.setattr(checks, "is_covered", lambda *_: False)
    with pytest.raises(DposcopeError, match=f"blocks of {name} pass on several residual streams of an unknown kind"):
        _ = lm.layout


@pytest.mark.parametrize(
    ("streams", "shape"),
    [
        (ActiveStream(1), (3, 2, 5, 4)),
        (MeanStream(3, flat=False), (2, 5, 3, 4)),
        (MeanStream(3, flat=True), (2, 5, 12)),
    ],
    ids=("active", "apart", "side by side"),
)
def test_what_is_written_is_read_again(streams, shape):
    draw = torch.Generator().manual_seed(0)
    passed = torch.randn(shape, generator=draw)
    assert streams.fit(passed, 4)
    assert not streams.fit(passed, 5)
    new = torch.randn(2, 5, 4, generator=draw)
    assert_close(streams.read(streams.written(passed, new)), new, 1e-6)
    assert torch.equal(streams.written(passed, streams.read(passed)), passed)
    whole = AllStreams(streams)
    assert whole.read(passed).shape == (2, 5, 12)
    assert torch.equal(whole.written(passed, whole.read(passed)), passed)


def test_streams_are_told_from_the_config():
    assert residual_streams(made("deepseek_v4").model) == MeanStream(COUNT, flat=False)
    assert residual_streams(made("qwen4_exp_text").model) == MeanStream(COUNT, flat=True)
    assert residual_streams(MORE["gemma3n_text"].build().model) == ActiveStream(0)
    assert residual_streams(MORE["granite"].build().model) is None
