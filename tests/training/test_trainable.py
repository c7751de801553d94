"""Three ways to train: what they train, what they export, and that they leave the model as it was."""

from dataclasses import replace

import pytest
import torch

from dposcope.errors import DposcopeError
from dposcope.interventions.edit import Edit
from dposcope.interventions.fold import fold
from dposcope.interventions.gains import Gains
from dposcope.model.language_model import LanguageModel
from dposcope.model.load import load
from dposcope.training import trainable as ways
from dposcope.training.trainable import all_weights, low_rank, neuron_gains
from helpers.families import (
    MIXTURES,
    VOCABULARY,
    assert_close,
    bits,
    copied,
    hook_count,
    logits_of,
    random_gains,
    random_head_gains,
    tiny,
    trace,
)
from helpers.mixtures import run, shared_mixture
from helpers.more_families import MORE
from helpers.policies import OBJECTIVES, WAYS, disturb, material, packed
from helpers.quantised import by_hand, in_bytes

# What is trained


def test_what_is_trained(lm):
    names = dict(lm.model.named_parameters())
    with all_weights(lm, OBJECTIVES["dpo"]) as trainable:
        assert {name: value.shape for name, value in trainable.policy.trainable.items()} == {
            name: value.shape for name, value in names.items()
        }
        assert {value.dtype for value in trainable.policy.trainable.values()} == {torch.float32}
    with low_rank(lm, OBJECTIVES["dpo"], rank=4) as trainable:
        shapes = {name: tuple(value.shape) for name, value in trainable.policy.trainable.items()}
        matrices = [name for name, value in names.items() if value.ndim == 2 and (".h." in name or ".layers." in name)]
        assert len(shapes) == 2 * len(matrices)
        assert all("lora_" in name and 4 in shape for name, shape in shapes.items())
    with neuron_gains(lm, OBJECTIVES["dpo"]) as trainable:
        assert {name: tuple(value.shape) for name, value in trainable.policy.trainable.items()} == {
            "gains": (lm.n_blocks, lm.d_mlp)
        }


def test_parameters_that_the_policy_shows_are_what_torch_sees(llama):
    """Trainer builds its optimiser from `parameters()`; a reference among them would be trained or saved."""
    for way in WAYS.values():
        with way(llama, OBJECTIVES["dpo"]) as trainable:
            policy = trainable.policy
            seen = {id(value) for value in policy.parameters() if value.requires_grad}
            assert seen == {id(value) for value in policy.trainable.values()}
    with all_weights(llama, OBJECTIVES["dpo"]) as trainable:
        assert len(list(trainable.policy.parameters())) == len(list(llama.model.parameters()))


def test_dropout_stays_off(gpt2):
    """GPT-2 has some by default; in training mode two passes over one batch would differ."""
    assert gpt2.model.config.resid_pdrop == 0.1
    batch = packed(gpt2, material(3, 0))
    for way in WAYS.values():
        with way(gpt2, OBJECTIVES["pairs"]) as trainable, torch.no_grad():
            policy = trainable.policy
            first = policy(batch)
            assert policy.train() is policy
            assert policy.training
            assert not any(module.training for module in policy.trained.modules())
            assert not any(module.training for module in gpt2.model.modules())
            second = policy(batch)
            assert second.penalty == first.penalty == 0
            assert torch.equal(second.terms.losses, first.terms.losses)
            assert not policy.eval().training


@pytest.mark.parametrize("way", WAYS)
def test_a_model_in_training_mode_is_refused(gpt2, way):
    lm = copied(gpt2)
    lm.model.train()
    with pytest.raises(DposcopeError, match=r"training mode.*call model\.eval\(\)"), WAYS[way](lm, OBJECTIVES["dpo"]):
        pass
    lm.model.eval()
    with WAYS[way](lm, OBJECTIVES["dpo"]):
        pass


@pytest.mark.parametrize("way", ["full", "lora"])
def test_a_copy_of_hooks_is_refused(llama, way):
    gains = Gains(random_gains(llama))
    with gains.on(llama):
        with pytest.raises(DposcopeError, match="train outside the `with`"), WAYS[way](llama, OBJECTIVES["dpo"]):
            pass
        logits_of(llama, [2, 3])


# The caller's model


def state(lm) -> list:
    """All of a model that a context might leave changed."""
    return [
        bits(lm.model),
        hook_count(lm.model),
        [(name, id(module), module.training) for name, module in lm.model.named_modules()],
        [(name, id(value), value.requires_grad, value.grad) for name, value in lm.model.named_parameters()],
        sorted(vars(lm.model)),
        lm.model.config.to_dict(),
        lm.dtype,
    ]


def half_frozen(lm) -> LanguageModel:
    twin = copied(lm)
    for index, parameter in enumerate(twin.model.parameters()):
        parameter.requires_grad_(index % 3 > 0)
    return twin


@pytest.mark.parametrize("way", WAYS)
def test_the_model_is_left_as_it_was(lm, way):
    twin, examples = half_frozen(lm), material(2, 1)
    before, plain, rng = state(twin), logits_of(twin, [2, 40, 41, 55]), torch.get_rng_state()
    for _ in range(2):  # a second time as well
        with WAYS[way](twin, OBJECTIVES["neutral"]) as trainable:
            optimiser = torch.optim.SGD(trainable.policy.trainable.values(), lr=0.1)
            trainable.policy.train()
            trainable.policy(packed(twin, examples), windows=1).loss.backward()
            optimiser.step()
            trainable.export()
        assert state(twin) == before
    assert torch.equal(logits_of(twin, [2, 40, 41, 55]), plain)
    assert torch.equal(torch.get_rng_state(), rng)


@pytest.mark.parametrize("way", WAYS)
def test_an_exception_inside_leaves_the_model_as_it_was(lm, way):
    twin = half_frozen(lm)
    before = state(twin)

    def fail():
        with WAYS[way](twin, OBJECTIVES["pairs"]) as trainable:
            trainable.policy(packed(twin, material(2, 0))).loss.backward()
            raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        fail()
    assert state(twin) == before


def test_an_exception_inside_a_forward_pass_leaves_the_model_as_it_was(lm):
    """Under the hooks, and with the adapter off."""
    twin, batch = half_frozen(lm), packed(lm, material(2, 0))
    batch.ids[0, 0] = VOCABULARY + 1000  # no such embedding
    before = state(twin)
    for way in WAYS.values():
        with pytest.raises(IndexError), way(twin, OBJECTIVES["pairs"]) as trainable:
            trainable.policy(batch)
        assert state(twin) == before


def test_hooks_find_their_places_during_and_after_an_adapter(lm):
    """What a model remembers of its modules must not be the adapter's wrappers."""
    twin = copied(lm)  # which has looked up nothing yet
    gains = Gains(random_gains(lm))
    with low_rank(twin, OBJECTIVES["dpo"]), gains.on(twin):
        during = logits_of(twin, [2, 40, 41, 55])
    with gains.on(twin):
        after = logits_of(twin, [2, 40, 41, 55])
    with gains.on(lm):
        expected = logits_of(lm, [2, 40, 41, 55])
    assert_close(during, expected, 1e-6)
    assert torch.equal(after, expected)


# Exports


def test_all_weights_export_is_independent_and_of_the_bases_type(lm):
    base = copied(lm)
    base.model.to(torch.bfloat16)
    with all_weights(base, OBJECTIVES["pairs"]) as trainable:
        disturb(trainable.policy)
        trained = {name: value.detach().clone() for name, value in trainable.policy.trainable.items()}
        tuned = trainable.export()
        kept = bits(tuned.lm.model)
        disturb(trainable.policy, seed=8)
        assert bits(tuned.lm.model) == kept
    assert tuned.gains is None
    assert (tuned.lm.tokenizer, tuned.lm.name) == (base.tokenizer, base.name)
    assert not tuned.lm.model.training
    for name, value in tuned.lm.model.named_parameters():
        assert torch.equal(value, trained[name].bfloat16())
        assert not value.requires_grad
    assert tuned.lm.fingerprint != base.fingerprint


@pytest.mark.parametrize("family", ["falcon_h1", "granitemoehybrid", "jamba"])
def test_low_rank_leaves_what_state_spaces_write(family):
    """peft has no LoRA for it, and Jamba reads a weight without its module; all other projections of blocks have one,
    and it merges."""
    lm, ids = MORE[family].build(), [2, 40, 41, 55, 60, 61, 70]
    plain = logits_of(lm, ids)
    linear = [name for name, one in lm.model.named_modules() if ".layers." in name and isinstance(one, torch.nn.Linear)]
    with low_rank(lm, OBJECTIVES["pairs"]) as trainable:
        disturb(trainable.policy)
        adapted = {name.split(".lora_")[0].removeprefix("base_model.model.") for name in trainable.policy.trainable}
        assert {name for name in linear if not any(one.endswith(name) for one in adapted)} == {
            name for name in linear if name.endswith(("mamba.out_proj", "mamba.dt_proj"))
        }
        on, merged = logits_of(lm, ids), logits_of(trainable.export().lm, ids)
    assert_close(merged, on, 1e-5)
    assert (on - plain).abs().max() > 0.05


def test_a_merged_adapter_is_the_adapter_on(lm):
    ids = [2, 40, 41, 55, 60, 61, 70]
    plain = logits_of(lm, ids)
    with low_rank(lm, OBJECTIVES["pairs"]) as trainable:
        disturb(trainable.policy)
        adapted = logits_of(lm, ids)
        tuned = trainable.export()
        assert torch.equal(logits_of(lm, ids), adapted), "exporting is no change"
        kept = bits(tuned.lm.model)
        disturb(trainable.policy, seed=8)
        assert bits(tuned.lm.model) == kept
    assert (adapted - plain).abs().max() > 0.05
    assert_close(logits_of(tuned.lm, ids), adapted, 1e-5)
    assert [name for name, _ in tuned.lm.model.named_modules()] == [name for name, _ in lm.model.named_modules()]
    assert tuned.gains is None
    assert not any(value.requires_grad for value in tuned.lm.model.parameters())
    assert tuned.lm.mlp_outs[0] is not lm.mlp_outs[0]
    assert torch.equal(logits_of(lm, ids), plain)


def test_an_adapters_random_half_follows_its_seed(llama):
    def start(seed):
        with low_rank(llama, OBJECTIVES["dpo"], seed=seed) as trainable:
            return {name: value.detach().clone() for name, value in trainable.policy.trainable.items()}

    one, again, other = start(1), start(1), start(2)
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one if "lora_A" in name)
    assert all((value == 0).all() for name, value in one.items() if "lora_B" in name)


def test_an_adapter_scales_by_alpha_over_rank(llama):
    ids = [2, 40, 41, 55]
    found = []
    for alpha in (8, 16):
        with low_rank(llama, OBJECTIVES["dpo"], rank=8, alpha=alpha) as trainable:
            with torch.no_grad():
                for name, value in trainable.policy.trainable.items():
                    if "lora_B" in name:
                        value.fill_(1e-3 * 8 / alpha)
            found.append(logits_of(llama, ids))
    assert_close(found[0], found[1], 1e-6)
    assert (found[0] - logits_of(llama, ids)).abs().max() > 1e-4


def test_without_peft_the_mend_is_to_install_it(llama, monkeypatch):
    monkeypatch.setattr(ways, "find_spec", lambda name: None)
    with pytest.raises(DposcopeError, match=r"pip install 'dposcope\[train\]'"), low_rank(llama, OBJECTIVES["dpo"]):
        pass


def test_trained_gains_are_gains(lm):
    """What training applies, what its export applies by hooks, and the folded model are one thing."""
    start = Gains(random_gains(lm))
    ids = [2, 40, 41, 55, 60, 61, 70]
    with neuron_gains(lm, OBJECTIVES["pairs"], start=start) as trainable:
        found = trainable.export()
        assert found.lm is lm
        assert torch.equal(found.gains.values, start.values)
        policy = trainable.policy
        applied = policy.arms[0].applied
        with applied():
            hooked = logits_of(lm, ids)
        disturb(policy)
        assert torch.equal(found.gains.values, start.values), "an export is a snapshot"
        assert not torch.equal(trainable.export().gains.values, start.values)
    with start.on(lm):
        assert torch.equal(logits_of(lm, ids), hooked)
    assert_close(logits_of(fold(lm, start), ids), hooked, 1e-5)
    assert_close(trace(lm, ids, neurons=lambda block, m: m * start.values[block]).logits, hooked, 1e-6)


@pytest.mark.parametrize("family", MIXTURES)
def test_trained_gains_of_a_mixture_are_gains_and_learn_from_the_tokens_that_were_sent(family):
    lm = shared_mixture(family)
    start, ids = Gains(random_gains(lm)), [2, 40, 41, 55, 60, 61, 70]
    with neuron_gains(lm, OBJECTIVES["pairs"], start=start) as trainable:
        applied = trainable.policy.arms[0].applied
        with applied(), torch.enable_grad():
            logits = lm.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
            (slope,) = torch.autograd.grad(logits[-1, 5], [*trainable.policy.parameters()][:1])
    with start.on(lm):
        assert torch.equal(logits_of(lm, ids), logits.detach())
    width, sent = lm.experts.width, run(lm, ids).weights
    for block, expert in ((0, 0), (1, 1), (2, 3)):
        values = start.values.clone()
        steps = []
        for step in (0.01, -0.01):
            values[block, expert * width + 4] = start.values[block, expert * width + 4] + step
            with Gains(values).on(lm):
                steps.append(float(logits_of(lm, ids)[-1, 5]))
        assert float(slope[block, expert * width + 4]) == pytest.approx(
            (steps[0] - steps[1]) / 0.02, rel=0.05, abs=2e-2
        )
    unused = {(b, e) for b in range(lm.n_blocks) for e in range(lm.experts.count)} - {(b, e) for b, _, e in sent}
    for block, expert in {(b, e) for b, e in unused if b == 0}:  # later routes follow the gains
        assert (slope[block, expert * width : (expert + 1) * width] == 0).all()
    assert slope.abs().max() > 0.1, "nothing to see"


def test_lora_of_a_mixture_is_refused():
    mend = r"LoRA of a mixture of experts is not supported.*train gains, or all weights"
    with pytest.raises(DposcopeError, match=mend), low_rank(shared_mixture("mixtral"), OBJECTIVES["pairs"]):
        pass


def test_gains_that_do_not_fit_are_refused(llama):
    wrong = Gains(torch.ones(llama.n_blocks, llama.d_mlp + 1))
    with (
        pytest.raises(DposcopeError, match="do not fit a model"),
        neuron_gains(llama, OBJECTIVES["dpo"], start=wrong),
    ):
        pass
    partly = Gains(random_gains(llama), positions="last")
    with (
        pytest.raises(DposcopeError, match="'last' cannot be trained"),
        neuron_gains(llama, OBJECTIVES["dpo"], start=partly),
    ):
        pass
    with neuron_gains(llama, OBJECTIVES["dpo"], start=replace(partly, positions="all")):
        pass


# While training


def test_training_moves_the_policy_and_not_the_reference(lm):
    """After steps of a real optimiser rewards are those of (tuned, base), the base as it was."""
    examples, before = material(4, 0), bits(lm.model)
    with all_weights(lm, OBJECTIVES["dpo"]) as trainable:
        policy, batch = trainable.policy, packed(lm, examples)
        first = policy(batch).loss.item()
        optimiser = torch.optim.RMSprop(policy.trainable.values(), lr=1e-4)
        for _ in range(5):
            optimiser.zero_grad()
            policy(batch).loss.backward()
            optimiser.step()
        assert policy(batch).loss.item() < first
        assert bits(lm.model) == before
        assert all(parameter.grad is None for parameter in lm.model.parameters())


@pytest.mark.parametrize("name", ["pairs", "neutral"])
def test_training_in_place_needs_no_second_copy(lm, name):
    """Same loss and gradients as beside a copy, though head and embeddings of the reference are trained over."""
    examples = material(3, 2)
    twin, batch = copied(lm), packed(lm, examples)
    with (
        all_weights(lm, OBJECTIVES[name]) as beside,
        all_weights(twin, OBJECTIVES[name], in_place=True) as alone,
    ):
        states = alone.policy.reference_states(batch)
        for trainable in (beside, alone):
            disturb(trainable.policy)
        expected, found = beside.policy(batch, 2), alone.policy(batch, 2, states)
        assert torch.equal(expected.loss, found.loss)
        assert found.penalty > 0
        slopes = [
            torch.autograd.grad(loss.loss, list(trainable.policy.trainable.values()))
            for trainable, loss in ((beside, expected), (alone, found))
        ]
        assert all(torch.equal(one, other) for one, other in zip(*slopes, strict=True))
        assert bits(alone.export().lm.model) == bits(beside.export().lm.model) == bits(twin.model)
        assert alone.export().lm.model is not twin.model
        with pytest.raises(DposcopeError, match="precompute_reference"):
            alone.policy(batch, 2)


def test_gradients_in_rows_are_asked_for_while_training_only(lm):
    def sparse(model) -> list[bool]:
        return [module.sparse for module in model.modules() if isinstance(module, torch.nn.Embedding)]

    tied = lm.model.get_input_embeddings().weight is lm.model.get_output_embeddings().weight
    with all_weights(lm, OBJECTIVES["dpo"]) as trainable:
        assert any(sparse(trainable.policy.trained)) == tied
        trainable.policy(packed(lm, material(2, 0))).loss.backward()
        assert not any(value.grad.is_sparse for value in trainable.policy.trainable.values())
        assert not any(sparse(trainable.export().lm.model))
        assert not any(sparse(lm.model))
    assert not any(sparse(trainable.policy.trained))


def test_in_place_exports_the_type_that_the_base_came_in():
    lm = tiny("llama", dtype=torch.bfloat16)
    with all_weights(lm, OBJECTIVES["dpo"], in_place=True) as trainable:
        assert lm.dtype == torch.float32
        assert trainable.export().lm.dtype == torch.bfloat16


def test_gains_of_heads_are_trained_beside_those_of_neurons(lm):
    ids = [2, 40, 41, 55, 60, 61, 70]
    with neuron_gains(lm, OBJECTIVES["pairs"], heads=True) as trainable:
        policy = trainable.policy
        assert {name: tuple(value.shape) for name, value in policy.trainable.items()} == {
            "gains": (lm.n_blocks, lm.d_mlp),
            "head_gains": tuple(random_head_gains(lm).shape),
        }
        plain = logits_of(lm, ids)
        with policy.arms[0].applied():
            assert torch.equal(logits_of(lm, ids), plain)  # all ones change no bit
        loss = policy(packed(lm, material(3, 0))).loss
        loss.backward()
        for value in policy.trainable.values():
            assert value.grad is not None
            assert float(value.grad.abs().sum()) > 0
        disturb(policy)
        found = trainable.export()
        with policy.arms[0].applied():
            hooked = logits_of(lm, ids)
    assert (hooked - plain).abs().max() > 1e-4
    assert_close(logits_of(fold(lm, Edit.of(found.gains, found.head_gains)), ids), hooked, 1e-5)


def test_a_sparsity_that_is_negative_or_moves_no_gain_is_refused(llama):
    with (
        pytest.raises(DposcopeError, match="leaves every gain at 1"),
        neuron_gains(llama, OBJECTIVES["dpo"], sparsity=1),
    ):
        pass
    with pytest.raises(DposcopeError, match="below 0"), neuron_gains(llama, OBJECTIVES["dpo"], sparsity=-0.1):
        pass


# Quantised bases


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma3"])
def test_gains_are_learned_on_codes_as_on_the_numbers_that_they_stand_for(family, family_lm):
    lm = in_bytes(family_lm(family))
    kept, gradients = bits(lm.model), []
    for one in (lm, by_hand(lm)):
        with neuron_gains(one, OBJECTIVES["pairs"]) as trainable:
            trainable.policy(packed(one, material(3, 0))).loss.backward()
            gradients.append(trainable.policy.trainable["gains"].grad)
    assert gradients[1].abs().max() > 1e-3
    assert_close(*gradients)
    assert bits(lm.model) == kept


REFUSED_ON_CODES = {
    "full": "codes cannot be trained; train gains or a LoRA adapter",
    "lora": "peft has no LoRA for the quantised layers of in-bytes; train gains",
}


@pytest.mark.parametrize("way", REFUSED_ON_CODES)
def test_codes_are_not_trained(way, llama):
    lm = in_bytes(llama)
    before = bits(lm.model)
    with pytest.raises(DposcopeError, match=REFUSED_ON_CODES[way]), WAYS[way](lm, OBJECTIVES["dpo"]):
        pass
    assert bits(lm.model) == before


def test_rotary_frequencies_stay_as_they_are_loaded(llama, tmp_path):
    """In training all weights, in its reference, and in the model that is written."""
    llama.save_pretrained(tmp_path / "base")
    lm = load(tmp_path / "base", dtype="bfloat16", device="cpu")
    with all_weights(lm, OBJECTIVES["dpo"], reference_dtype=torch.float16) as trainable:
        exported = trainable.export().lm
    assert {one.dtype for name, one in exported.model.named_buffers() if name.endswith("inv_freq")} == {torch.float32}
    exported.save_pretrained(tmp_path / "tuned")
    again = load(tmp_path / "tuned", dtype="bfloat16", device="cpu")
    ids = [2, *range(10, 90)]
    assert torch.equal(logits_of(exported, ids), logits_of(again, ids))
    assert torch.equal(logits_of(exported, ids), logits_of(lm, ids))
