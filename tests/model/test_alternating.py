"""Nemotron-H, whose blocks have an MLP, experts, attention or a state space, and one of them only."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from dposcope.directions.features import residual_features
from dposcope.errors import DposcopeError
from dposcope.interventions.ablate import ablate
from dposcope.interventions.assign import Assign
from dposcope.interventions.edit import Edit
from dposcope.interventions.fold import fold
from dposcope.interventions.gains import Gains
from dposcope.interventions.paired.attribution import attribution
from dposcope.interventions.paired.interchange import Interchange, Parts
from dposcope.interventions.paired.mediation import mediation
from dposcope.interventions.steer import Steer
from dposcope.jobs.explain.explanation import explain
from dposcope.model.generate import generate
from dposcope.model.hooks import (
    attention_sites,
    hooked,
    mlp_input_sites,
    mlp_sites,
    neuron_site,
    neuron_sites,
    residual_site,
)
from dposcope.model.language_model import LanguageModel
from dposcope.model.layout import table
from dposcope.model.layout.table import Layout, register_layout
from dposcope.model.load import load
from dposcope.model.size import size_of
from dposcope.neurons.activations import collect_means
from dposcope.neurons.contributions import contributions
from dposcope.neurons.sets import NeuronSet
from dposcope.shipping.checkpoint import fold_checkpoint
from dposcope.training.batches.packing import pack
from dposcope.training.batches.reading import fits_one_row
from dposcope.training.objective import Objective
from dposcope.training.trainable import all_weights, low_rank
from helpers.alternating import DENSE, EXPERTS, KINDS, SHARED, WIDTH, config, made
from helpers.changes import tuned_copy
from helpers.families import (
    TEXTS,
    assert_close,
    bits,
    bos_tokenizer,
    build,
    hook_count,
    logits_of,
    random_direction,
    random_gains,
    tiny,
)
from helpers.policies import assert_gains_train_by_plain_logits, disturb, material

IDS = [2, 40, 41, 55, 60, 61, 70, 33, 12, 90]
CLOSE = 2e-5
"""Of the largest value: float32, added up in another order."""


@pytest.fixture(params=KINDS)
def kind(request):
    """Both in turn, whose models stay as they are."""
    before = bits(made(request.param).model)
    yield request.param
    assert bits(made(request.param).model) == before


def with_neurons(kind: str) -> list[int]:
    return [block for block, of_block in enumerate(KINDS[kind]) if of_block in ("mlp", "moe")]


def columns_of(kind: str) -> int:
    """As many whole experts as the widest block needs: 4 routed ones and 20 shared neurons are 7 of 8."""
    return DENSE if kind == "dense" else 7 * WIDTH


def mixer(lm: LanguageModel, block: int):
    return lm.model.model.layers[block].mixer


@torch.no_grad()
def vectors(lm: LanguageModel, kind: str, block: int) -> torch.Tensor:
    """Value vectors of a block, `[columns, d]`, row by row from the weights."""
    rows, whole = torch.zeros(columns_of(kind), 16), mixer(lm, block)
    if KINDS[kind][block] == "mlp":
        for place in range(DENSE):
            rows[place] = whole.down_proj.weight[:, place]
    elif KINDS[kind][block] == "moe":
        for expert in range(EXPERTS):
            for place in range(WIDTH):
                rows[expert * WIDTH + place] = whole.experts.down_proj[expert, :, place]
        for place in range(SHARED):
            rows[EXPERTS * WIDTH + place] = whole.shared_experts.down_proj.weight[:, place]
    return rows


def naive(lm: LanguageModel, kind: str, ids: list[int], gains: torch.Tensor | None = None, ablated=None):
    """Activations and weights `[L, T, columns]` and logits `[T, V]`: MLPs token by token, expert by expert.

    Gains multiply m; a direction is taken out of what every block writes.
    """
    shape = (5, len(ids), columns_of(kind))
    values, weights = torch.zeros(shape), torch.zeros(shape)

    def squared(projection: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        return (projection @ state).clamp(min=0) ** 2

    def run_of(block: int):
        whole, rows_of_v = mixer(lm, block), vectors(lm, kind, block)

        def run(states: torch.Tensor) -> torch.Tensor:
            routes = whole.gate(states)[1:] if KINDS[kind][block] == "moe" else None
            out = []
            for token, state in enumerate(states.reshape(-1, 16)):
                m, r = torch.zeros(columns_of(kind)), torch.zeros(columns_of(kind))
                if routes is None:
                    m[:DENSE], r[:DENSE] = squared(whole.up_proj.weight, state), 1.0
                else:
                    for by, expert in zip(routes[0][token], routes[1][token].tolist(), strict=True):
                        here = slice(expert * WIDTH, (expert + 1) * WIDTH)
                        m[here], r[here] = squared(whole.experts.up_proj[expert], state), by
                    here = slice(EXPERTS * WIDTH, EXPERTS * WIDTH + SHARED)
                    m[here], r[here] = squared(whole.shared_experts.up_proj.weight, state), 1.0
                m = m if gains is None else m * gains[block]
                values[block, token], weights[block, token] = m.detach(), r.detach()
                out.append((m * r) @ rows_of_v)
            return torch.stack(out).reshape(states.shape)

        return run

    def remove(_module, _args, output):
        written = output[0] if isinstance(output, tuple) else output
        unit = ablated / ablated.norm()
        new = written - (written @ unit).unsqueeze(-1) * unit
        return (new, *output[1:]) if isinstance(output, tuple) else new

    handles = []
    for block in with_neurons(kind):
        mixer(lm, block).forward = run_of(block)
    if ablated is not None:
        handles = [mixer(lm, block).register_forward_hook(remove) for block in range(5)]
    try:
        logits = lm.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
    finally:
        for block in with_neurons(kind):
            del mixer(lm, block).forward
        for handle in handles:
            handle.remove()
    return values, weights, logits


def test_blocks_have_an_mlp_or_what_mixes_tokens(kind):
    lm, blocks = made(kind), with_neurons(kind)
    widths = {"mlp": DENSE, "moe": EXPERTS * WIDTH + SHARED}
    each = [widths.get(of_block, 0) for of_block in KINDS[kind]]
    assert (lm.n_blocks, lm.d_model, lm.d_mlp) == (5, 16, columns_of(kind))
    assert lm.n_neurons == sum(each) == len(NeuronSet.of(lm))
    assert not lm.gated
    assert lm.here.tolist() == [[place < width for place in range(lm.d_mlp)] for width in each]
    for block in range(5):
        own = lm.value_vectors(block)
        assert torch.equal(own, vectors(lm, kind, block))
        assert own.dtype == torch.float32
        if block not in blocks:  # as large as the others, and without memory
            assert own.stride(0) == 0
        has = block in blocks
        sites = (neuron_sites, mlp_sites, mlp_input_sites)
        assert [bool(find(lm, block)) for find in sites] == [has] * 3
        assert (lm.mlp_outs[block] is not None) == has
        assert len(attention_sites(lm, block)) == len(lm.mixer_outs[block]) == (not has)
        assert (lm.attention_outs[block] is None) == has
        assert lm.device_of_block(block) == torch.device("cpu")
    told = " ".join(lm.columns.told())
    assert f"Only blocks {', '.join(map(str, blocks))} have an MLP." in told
    assert ("Dense blocks (3) count as experts" in told) == (kind == "experts")


def test_hooks_that_give_back_what_they_saw_change_no_bit_and_see_the_loops_neurons(kind):
    lm, plain = made(kind), logits_of(made(kind), IDS)
    values, weights, logits = naive(lm, kind, IDS)
    assert_close(plain, logits, CLOSE)
    seen = torch.zeros_like(values)

    def keep(block, columns):
        def look(activations, frame):
            seen[block, :, columns] = activations[0]
            if frame.routing is not None:
                by = frame.routing.weights[0].repeat_interleave(WIDTH, 1)[:, : activations.shape[-1]]
                assert_close(by, weights[block, :, columns], CLOSE)
            return activations.clone()

        return look

    changes = [(site, keep(block, site.columns)) for block in range(5) for site in neuron_sites(lm, block)]
    for find in (mlp_sites, attention_sites, lambda of, block: [residual_site(of, block)]):
        changes += [(site, lambda tensor, _frame: tensor.clone()) for block in range(5) for site in find(lm, block)]
    with hooked(lm, changes) as applied:
        assert torch.equal(logits_of(lm, IDS), plain)
    assert set(applied.fired.values()) == {1}
    assert_close(seen, values, CLOSE)
    assert hook_count(lm.model) == 0


def test_an_edit_by_hooks_is_that_of_loops_and_folds(kind, tmp_path):
    lm = made(kind)
    values, direction = random_gains(lm), random_direction(lm).float()
    edit = Edit.of(Gains(values), ablate(direction))
    with edit.on(lm):
        changed, written = logits_of(lm, IDS), generate(lm, TEXTS, new_tokens=5)
    assert_close(changed, naive(lm, kind, IDS, values, direction)[2], CLOSE)
    assert not torch.allclose(changed, logits_of(lm, IDS), atol=1e-2)
    folded = fold(lm, edit)
    assert_close(logits_of(folded, IDS), changed, CLOSE)
    assert generate(folded, TEXTS, new_tokens=5) == written
    lm.save_pretrained(tmp_path / "plain")
    size = size_of(str(tmp_path / "plain"))
    assert (size.blocks, size.width, size.mlp) == (5, 16, lm.d_mlp)
    assert torch.equal(logits_of(load(tmp_path / "plain", dtype="float32", device="cpu"), IDS), logits_of(lm, IDS))
    fold_checkpoint(tmp_path / "plain", edit, tmp_path / "folded")
    read = load(tmp_path / "folded", dtype="float32", device="cpu")
    assert_close(logits_of(read, IDS), changed, CLOSE)


def test_constants_and_gains_of_absent_neurons_have_no_effect_and_fold():
    """With a bias, which constants need to fold."""
    lm = LanguageModel(build(config("dense", mlp_bias=True)), bos_tokenizer())
    mask = torch.arange(5 * DENSE).reshape(5, DENSE) % 3 == 0
    for edit in (Assign(torch.full((5, DENSE), 0.7), NeuronSet(mask), "all"), Gains(random_gains(lm))):
        with edit.on(lm) as applied:
            changed = logits_of(lm, IDS)
        assert list(applied.fired) == ["neurons.1", "neurons.3"]
        assert not torch.allclose(changed, logits_of(lm, IDS), atol=1e-2)
        assert_close(logits_of(fold(lm, edit), IDS), changed, CLOSE)


def test_batches_and_cache_change_no_token(kind):
    lm = made(kind)
    for gains in (Gains.ones(5, lm.d_mlp), Gains(random_gains(lm), positions="generated")):
        with gains.on(lm):
            together = generate(lm, TEXTS, new_tokens=6, stop_at_end=False)
            for options in ({"batch_size": 1}, {"use_cache": False}, {"batch_size": 1, "use_cache": False}):
                assert generate(lm, TEXTS, new_tokens=6, stop_at_end=False, **options) == together
        assert len({tuple(one.ids) for one in together}) > 3, "texts that are all one would prove nothing"


def test_means_and_contributions_are_those_of_loops(kind):
    base = made(kind)
    tuned, w = tuned_copy(base, strength=0.05), random_direction(base)
    means, less = [], torch.zeros(2, 5, dtype=torch.float64)
    for side, lm in enumerate((base, tuned)):
        rows = []
        for one in generate(lm, TEXTS, new_tokens=4, batch_size=1):
            values, weights, _ = naive(lm, kind, one.prompt_ids + one.ids)
            start = len(one.prompt_ids) - 1
            place = slice(start, start + min(4, len(one.ids) + 1))
            rows.append((values[:, place].double(), weights[:, place].double()))
        values, weights = (torch.cat(one, 1) for one in zip(*rows, strict=True))
        found = collect_means(lm, TEXTS, new_tokens=4)
        assert found.count == values.shape[1]
        assert_close(found.mean, (values * (weights != 0)).sum(1) / (weights != 0).sum(1).clamp(min=1), 1e-4)
        assert found.to_polars().height == lm.n_neurons
        means.append(found)
        for block in range(5):
            written = (values * weights)[block].mean(0) @ vectors(lm, kind, block).double()
            less[side, block] = written @ w.double() / w.double().norm()
    change = contributions(base, tuned, *means, w)
    assert_close(change.total.sum(1), less[0] - less[1], 1e-4)
    assert change.neurons == change.to_polars().height == base.n_neurons
    told = explain(base, tuned, w, TEXTS, new_tokens=4, toxic_sets=[8])
    assert_close(told.contributions.total, change.total, 1e-12)


def test_preferences_train_gains(kind):
    """The loss of a batch and its gradient, against loops over one text at a time."""
    lm, examples = made(kind), material(windows=0)
    assert not fits_one_row(lm.model, examples)
    assert_gains_train_by_plain_logits(lm, examples, lambda ids, gains: naive(lm, kind, ids, gains)[2], shared=False)


def test_all_weights_and_low_rank_train():
    lm, batch = made("dense"), pack(material(windows=0), pad_id=3, shared=False)
    with all_weights(lm, Objective(0.1)) as trainable:
        trainable.policy(batch).loss.backward()
        assert all(one.grad is not None for one in trainable.policy.trainable.values())
    with low_rank(lm, Objective(0.1)) as trainable:
        disturb(trainable.policy)
        adapted = {name.split(".lora_")[0].rpartition("layers.")[2] for name in trainable.policy.trainable}
        blocks = {0: ("in_proj",), 2: ("q_proj", "k_proj", "v_proj", "o_proj"), 4: ("in_proj",)}
        blocks |= {1: ("up_proj", "down_proj"), 3: ("up_proj", "down_proj")}
        assert adapted == {f"{block}.mixer.{name}" for block, names in blocks.items() for name in names}
        on, merged = logits_of(lm, IDS), logits_of(trainable.export().lm, IDS)
    assert_close(merged, on, 1e-5)
    assert (on - logits_of(lm, IDS)).abs().max() > 0.05


@torch.no_grad()
def test_parts_take_what_the_other_model_has(kind):
    base = made(kind)
    tuned = LanguageModel(copy.deepcopy(base.model), base.tokenizer, base.name)
    whole = mixer(tuned, 1)
    for projection in [whole.up_proj.weight] if kind == "dense" else [whole.experts.up_proj]:
        projection.mul_(1.5)
    expected = logits_of(tuned, IDS)
    assert not torch.allclose(expected, logits_of(base, IDS), atol=1e-3)
    own = NeuronSet((torch.arange(5) == 1).unsqueeze(1) & base.here)
    for parts in (Parts(own), Parts(mlps={0, 1, 2}), Parts(residuals={1})):
        with Interchange(tuned, parts).on(base):
            assert_close(logits_of(base, IDS), expected, CLOSE)
    other = tuned_copy(base, strength=0.05)
    seen = {}
    for block in (0, 2):
        handle = mixer(other, block).register_forward_hook(lambda _m, _a, out, block=block: seen.update({block: out}))
        logits_of(other, IDS)
        handle.remove()
    handles = [mixer(base, block).register_forward_hook(lambda *_, block=block: seen[block]) for block in seen]
    expected = logits_of(base, IDS)
    for handle in handles:
        handle.remove()
    with Interchange(other, Parts(attentions=frozenset({0, 1, 2}))).on(base):
        assert_close(logits_of(base, IDS), expected, CLOSE)


def test_a_change_before_the_neurons_is_their_own_or_comes_from_before(kind):
    base = made(kind)
    tuned = LanguageModel(copy.deepcopy(base.model), base.tokenizer, base.name)
    first, *_, last = with_neurons(kind)
    whole = mixer(tuned, first)
    with torch.no_grad():
        for module in [whole] if kind == "dense" else [whole.experts, whole.shared_experts]:
            up = module.up_proj
            (up if isinstance(up, torch.nn.Parameter) else up.weight).mul_(1.001)
    written = generate(base, TEXTS[:4], new_tokens=4, stop_at_end=False)
    found = mediation(base, tuned, written)
    assert found.change[first].sum() > 0
    assert_close(found.own[first], found.change[first], 1e-9)
    assert_close(found.before[last], found.change[last], 1e-3)
    assert not found.change[~base.here].any()
    effect = attribution(base, tuned, written[:2], written[2:])
    assert effect.effect.any()
    assert not effect.effect[~base.here].any()


@torch.no_grad()
def test_residual_features_are_what_blocks_return(kind):
    lm, rows = made(kind), []
    for text in TEXTS[:3]:
        ids, seen = lm.tokenizer(text)["input_ids"], []
        handle = lm.model.model.layers[4].register_forward_hook(lambda _m, _a, out, seen=seen: seen.append(out[0]))
        logits_of(lm, ids)
        handle.remove()
        rows.append(seen[0][[token not in lm.special_ids for token in ids]].double().mean(0))
    assert_close(residual_features(lm, TEXTS[:3]).vectors, torch.stack(rows), 1e-5)


def test_what_a_block_has_not_is_refused(kind):
    lm, vector = made(kind), random_direction(made(kind)).float()
    own = f"tiny-{kind}"
    with pytest.raises(DposcopeError, match=f"block 0 of {own} has no MLP, so it has no neurons; choose another"):
        neuron_site(lm, 0)
    with pytest.raises(DposcopeError, match=f"block 2 of {own} has no MLP to steer; choose another, or site residual"):
        Steer(vector, 0.5, block=2, site="mlp").changes(lm)
    for parts, what in (
        (Parts(mlps={0, 2}), rf"none of the blocks \[0, 2\] of {own} has an MLP; choose others"),
        (Parts(attentions={1}), rf"none of the blocks \[1\] of {own} has attention, nor anything in its place; choose"),
    ):
        with pytest.raises(DposcopeError, match=what), Interchange(lm, parts).on(lm):
            pass
    with pytest.raises(DposcopeError, match=r"some blocks of .* have no attention heads"):
        _ = lm.n_heads


@pytest.mark.parametrize("latent", [8, 16])
def test_experts_that_write_elsewhere_than_into_the_stream_are_refused(latent):
    """Into a space that more than one projection leads out of; one as wide as the stream is no other case."""
    model = AutoModelForCausalLM.from_config(config("experts", moe_latent_size=latent)).eval()
    for layer in model.model.layers:
        if hasattr(layer.mixer, "experts"):
            layer.mixer.fc2_latent_proj = nn.Sequential(layer.mixer.fc2_latent_proj, nn.Linear(16, 16))
    said = (
        "experts of nemotron_h write 8 numbers that another projection turns into 16"
        if latent == 8
        else "nemotron_h is a mixture of an unknown kind: beside its experts, NemotronHMoE writes by"
    )
    with pytest.raises(DposcopeError, match=said):
        _ = LanguageModel(model, bos_tokenizer()).layout


@pytest.fixture
def registry(monkeypatch):
    """The table, as it was again afterwards."""
    monkeypatch.setattr(table, "_LAYOUTS", dict(table._LAYOUTS))


@pytest.mark.usefixtures("registry")
def test_a_layout_of_ones_own_is_checked():
    model = made("dense").model
    good = Layout("model.layers", "mixer.down_proj", ("mixer.o_proj", "mixer.out_proj"), "model.norm_f")
    for layout, said in (
        (good, "has no module 'mixer.down_proj'"),
        (replace(good, alternating=True, attention_out="mixer.o_proj"), "layout: block 0 has none of the projections"),
        (
            replace(good, alternating=True, attention_out=("norm", *good.attention_out)),
            "an output projection is a Nemotron",
        ),
        (
            replace(good, alternating=True, mlp_out="mixer.w2", attention_out=(*good.attention_out, good.mlp_out)),
            r"layout: no block has mixer\.w2, so there are no neurons",
        ),
    ):
        register_layout("nemotron_h", layout)
        with pytest.raises(DposcopeError, match=said):
            _ = LanguageModel(model, bos_tokenizer()).layout
    register_layout(
        "llama", Layout("model.layers", "mlp.down_proj", "self_attn.o_proj", "model.norm", alternating=True)
    )
    with pytest.raises(DposcopeError, match="layout: block 0 has an MLP and attention; leave alternating out"):
        _ = LanguageModel(tiny("llama").model, bos_tokenizer()).layout
    register_layout("nemotron_h", replace(good, alternating=True))
    lm = LanguageModel(model, bos_tokenizer())
    assert lm.layout.alternating
    assert lm.n_neurons == 2 * DENSE
