"""The preference loss of a batch, and the three ways to train, against whole logits of one text at a time.

The naive side knows neither packing nor hooks nor adapters: it runs a bare copy of the model on each text with the
weights that a way of training stands for (all of them, W + s·BA, or value vectors times gains), in float64.
"""

import copy
import math
import random
from dataclasses import dataclass, replace

import pytest
import torch
from torch.func import functional_call
from transformers import GPT2Config

from dposcope.errors import DposcopeError
from dposcope.interventions.fold import fold
from dposcope.interventions.gains import Gains
from dposcope.model.language_model import LanguageModel
from dposcope.training import trainable as ways
from dposcope.training.examples import Example
from dposcope.training.packing import fits_one_row, pack
from dposcope.training.policy import Arm, Objective, PreferencePolicy
from dposcope.training.token_statistics import Unembedding
from dposcope.training.trainable import all_weights, low_rank, neuron_gains
from families import (
    CONFIGS,
    FAMILIES,
    VOCABULARY,
    assert_close,
    bits,
    build,
    copied,
    gpt2_like_tokenizer,
    hook_count,
    logits_of,
    random_gains,
    tiny,
    trace,
)

WAYS = {"full": all_weights, "lora": low_rank, "gains": neuron_gains}
WINDOWED = ("mistral", "gemma2", "gemma3")
# Families as they are (texts outgrow the sliding windows, so rows are separate), those with windows that no text
# outgrows (rows are shared), and attention that adds its mask.
VARIANTS = [*FAMILIES, *(f"{family} roomy" for family in WINDOWED), "llama eager"]


@pytest.fixture
def in_float64(monkeypatch):
    """Norms, and the softmax of attention that is not fused, compute in float32 whatever the model's type; with that
    rounding no two orders of summing agree to 1e-9."""

    def norm(self, x):
        gemma = "Gemma" in type(self).__name__
        scaled = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + (self.eps if gemma else self.variance_epsilon))
        return scaled * (1 + self.weight) if gemma else scaled * self.weight

    softmax = torch.nn.functional.softmax
    monkeypatch.setattr(torch.nn.functional, "softmax", lambda x, dim=None, dtype=None: softmax(x, dim=dim))
    for family in FAMILIES:
        for module in tiny(family).model.modules():
            if type(module).__name__.endswith("RMSNorm"):
                monkeypatch.setattr(type(module), "forward", norm)


def variant_lm(variant: str, dtype: torch.dtype = torch.float64) -> LanguageModel:
    """A tiny model of our own to play with."""
    family, _, kind = variant.partition(" ")
    lm = tiny(family)
    if kind == "roomy":
        config = CONFIGS[family]()
        config.sliding_window = 60
        lm = replace(lm, model=build(config, seed=4))
    if kind == "eager":
        lm.model.set_attn_implementation("eager")
    lm.model.to(dtype)
    return lm


def material(pairs=3, windows=2, *, seed=0, longest=12) -> list[Example]:
    """Texts of very different lengths, longer than the short windows; a branch of one token among them."""
    draw = random.Random(seed)

    def ids(low, high):
        return tuple(draw.randrange(VOCABULARY) for _ in range(draw.randint(low, high)))

    found = [Example(ids(1, longest), (ids(1, longest), ids(1, longest))) for _ in range(pairs)]
    if pairs:
        found[-1] = Example(ids(longest, longest), (ids(1, 1), ids(longest, longest)))
    return [*found, *(Example(ids(2, 2 * longest)) for _ in range(windows))]


def packed(lm, examples, **options):
    """As a trainer does it."""
    return pack(examples, pad_id=lm.pad_id, shared=fits_one_row(lm.model, examples), **options)


def disturb(policy: PreferencePolicy, seed=7, scale=0.1) -> None:
    """Move what is trained away from where it starts."""
    stream = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name in sorted(policy.trainable):
            value = policy.trainable[name]
            value.add_(scale * torch.randn(value.shape, generator=stream).to(value.dtype))


# The naive side


def tuned_weights(lm: LanguageModel, base: dict, way: str, policy: PreferencePolicy) -> dict:
    """Weights of the tuned model by name, differentiable in what is trained."""
    leaves = policy.trainable
    if way == "full":
        return {name: leaves[name] for name in base}
    gpt2 = lm.model.config.model_type == "gpt2"
    weights = dict(base)
    if way == "gains":
        for block, gains in enumerate(leaves["gains"]):
            if gpt2:
                name = f"transformer.h.{block}.mlp.c_proj.weight"
                weights[name] = gains.to(base[name].dtype)[:, None] * base[name]
            else:
                name = f"model.layers.{block}.mlp.down_proj.weight"
                weights[name] = base[name] * gains.to(base[name].dtype)[None, :]
        return weights
    for name, down in leaves.items():
        if "lora_A" in name:
            up = leaves[name.replace("lora_A", "lora_B")]
            target = name.removeprefix("base_model.model.").replace(".lora_A.default", "")
            change = 32 / 16 * (up @ down)
            weights[target] = base[target] + (change.T if gpt2 else change)
    return weights


@dataclass
class Naive:
    """Every part of the loss, per pair."""

    losses: torch.Tensor
    rewards: torch.Tensor
    """`[pairs, 2]`."""
    on_pairs: torch.Tensor
    """KL of the preferred plus KL of the dispreferred, each a mean over completion tokens."""
    on_windows: torch.Tensor
    """Mean over all predicted tokens of all windows."""


def naive(model, tuned: dict, base: dict, examples, *, beta=0.1) -> Naive:
    """Paper 3.1 and SPEC 6, strict, as they stand."""
    losses, rewards, divergences, window_tokens = [], [], [], []

    def read(weights, text):
        return functional_call(model, weights, (torch.tensor([text]),), {"use_cache": False}).logits[0].log_softmax(-1)

    def compare(text, first):
        here, there = read(tuned, text), read(base, text)
        ratio, kl = [], []
        for place in range(first, len(text)):
            p, q = here[place - 1], there[place - 1]
            ratio.append(p[text[place]] - q[text[place]])
            kl.append((q.exp() * (q - p)).sum())
        return sum(ratio), torch.stack(kl)

    for example in examples:
        if not example.branches:
            window_tokens.append(compare(list(example.trunk), 1)[1])
            continue
        (wanted, kl_wanted), (unwanted, kl_unwanted) = (
            compare([*example.trunk, *branch], len(example.trunk)) for branch in example.branches
        )
        losses.append(torch.log1p(torch.exp(-beta * (wanted - unwanted))))
        rewards.append(torch.stack([beta * wanted, beta * unwanted]))
        divergences.append(kl_wanted.mean() + kl_unwanted.mean())
    return Naive(
        torch.stack(losses),
        torch.stack(rewards),
        torch.stack(divergences),
        torch.cat(window_tokens).mean() if window_tokens else torch.zeros(()),
    )


OBJECTIVES = {
    "dpo": Objective(0.1),
    "pairs": Objective(0.1, 0.7, "pairs"),
    "neutral": Objective(0.1, 0.7, "neutral"),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_loss_and_gradients_are_those_of_whole_logits(variant, way, in_float64):
    lm = variant_lm(variant)
    bare, examples = copy.deepcopy(lm.model), material()
    base = {name: value.detach() for name, value in bare.named_parameters()}
    shared = fits_one_row(lm.model, examples)
    assert shared == (variant not in WINDOWED)
    with WAYS[way](lm, OBJECTIVES["dpo"]) as trainable:
        policy = trainable.policy
        disturb(policy)
        leaves = list(policy.trainable.values())
        expected = naive(bare, tuned_weights(lm, base, way, policy), base, examples)
        for name, objective in OBJECTIVES.items():
            policy.objective = objective
            penalty = {
                "dpo": 0 * expected.on_windows,
                "pairs": expected.on_pairs.mean(),
                "neutral": expected.on_windows,
            }
            wanted = expected.losses.mean() + objective.kl_weight * penalty[name]
            directions = torch.autograd.grad(wanted, leaves, retain_graph=True)
            for batch in {
                shared: packed(lm, examples, row_tokens=30),
                False: pack(examples, pad_id=lm.pad_id, shared=False),
            }.values():
                found = policy(batch, windows=2)
                assert_close(found.loss.detach(), wanted.detach(), 1e-9)
                assert_close(found.penalty, penalty[name].detach(), 1e-9)
                assert_close(found.terms.losses.detach(), expected.losses.detach(), 1e-9)
                assert_close(found.terms.preferred_rewards, expected.rewards[:, 0].detach(), 1e-9)
                assert_close(found.terms.dispreferred_rewards, expected.rewards[:, 1].detach(), 1e-9)
                assert expected.rewards.abs().min() > 1e-4, "a policy like its reference would prove nothing"
                for one, other in zip(torch.autograd.grad(found.loss, leaves), directions, strict=True):
                    # Gains are float32, and so is their gradient.
                    assert_close(one, other, 1e-6 if way == "gains" else 1e-9)


# A batch is its members


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_batch_is_the_mean_of_its_pairs_one_by_one(variant, in_float64):
    lm, examples = variant_lm(variant), material(5, 0, seed=3)
    with neuron_gains(lm, OBJECTIVES["pairs"], start=Gains(random_gains(lm))) as trainable, torch.no_grad():
        for row_tokens in (1, 40, 512):
            together = trainable.policy(packed(lm, examples, row_tokens=row_tokens))
            alone = [trainable.policy(packed(lm, [example])) for example in examples]
            assert_close(together.loss, torch.stack([one.loss for one in alone]).mean(), 1e-9)
            assert_close(together.penalty, torch.stack([one.penalty for one in alone]).mean(), 1e-9)
            for part in ("losses", "preferred_rewards", "dispreferred_rewards", "margins", "accuracy"):
                one_by_one = torch.cat([getattr(one.terms, part) for one in alone])
                assert_close(getattr(together.terms, part), one_by_one, 1e-9)
        assert together.terms.margins.abs().min() > 1e-4


@pytest.mark.parametrize("shared", [True, False])
def test_windows_count_by_their_tokens(llama, shared):
    examples = material(2, 3)
    with neuron_gains(llama, OBJECTIVES["neutral"], start=Gains(random_gains(llama))) as trainable, torch.no_grad():
        found = trainable.policy(pack(examples, pad_id=3, shared=shared), windows=3)
        alone = [
            trainable.policy(pack([*examples[:2], one], pad_id=3, shared=shared), windows=1) for one in examples[2:]
        ]
        tokens = [len(example.trunk) - 1 for example in examples[2:]]
        mean = sum(n * one.penalty.item() for n, one in zip(tokens, alone, strict=True)) / sum(tokens)
        assert found.penalty.item() == pytest.approx(mean, rel=1e-4)
        assert found.loss.item() == pytest.approx(found.terms.losses.mean().item() + 0.7 * mean, rel=1e-4)
        without = trainable.policy(pack(examples[:2], pad_id=3, shared=shared))
        assert without.penalty == 0
        assert_close(without.terms.losses, found.terms.losses, 1e-5)


@pytest.mark.parametrize("way", WAYS)
def test_padding_changes_nothing(lm, way):
    """Neither which id it is, nor that rows are padded at all."""
    examples = material(3, 0)
    with WAYS[way](lm, OBJECTIVES["pairs"]) as trainable, torch.no_grad():
        disturb(trainable.policy)
        for shared in {False, fits_one_row(lm.model, examples)}:
            batches = [pack(examples, pad_id=pad, shared=shared, row_tokens=40) for pad in (0, 17, 95)]
            assert (batches[0].tree < 0).any()
            losses = [trainable.policy(batch) for batch in batches]
            assert {loss.loss.item() for loss in losses} == {losses[0].loss.item()}
            assert {loss.penalty.item() for loss in losses} == {losses[0].penalty.item()}


# The start


def starting(lm, way, objective):
    """A context in which policy and reference have one precision."""
    return all_weights(lm, objective, reference_dtype=torch.float32) if way == "full" else WAYS[way](lm, objective)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_at_the_start_rewards_and_kl_are_exactly_zero(variant, way, dtype):
    lm, examples = variant_lm(variant, dtype), material(3, 2)
    for objective in (OBJECTIVES["pairs"], OBJECTIVES["neutral"]):
        with starting(lm, way, objective) as trainable:
            found = trainable.policy(packed(lm, examples, row_tokens=30), windows=2)
            assert torch.equal(found.terms.preferred_rewards, torch.zeros(3))
            assert torch.equal(found.terms.dispreferred_rewards, torch.zeros(3))
            assert found.penalty.item() == 0
            assert found.loss.item() == pytest.approx(math.log(2), abs=1e-7)
            # And yet there is something to learn.
            slopes = torch.autograd.grad(found.loss, list(trainable.policy.trainable.values()), allow_unused=True)
            assert max(slope.abs().max().item() for slope in slopes if slope is not None) > 1e-4


def test_a_reference_of_lower_precision_starts_near_zero(lm):
    with all_weights(lm, OBJECTIVES["pairs"], reference_dtype=torch.bfloat16) as trainable, torch.no_grad():
        found = trainable.policy(packed(lm, material(3, 0)))
    assert 0 < found.terms.preferred_rewards.abs().max() < 0.3
    assert 0 < found.penalty < 0.1


def test_training_moves_the_policy_and_not_the_reference(lm):
    """After steps of a real optimiser rewards are those of (tuned, base), the base as it was."""
    examples, before = material(4, 0), bits(lm.model)
    with all_weights(lm, OBJECTIVES["pairs"]) as trainable:
        policy, batch = trainable.policy, packed(lm, examples)
        first = policy(batch).loss.item()
        optimiser = torch.optim.RMSprop(policy.trainable.values(), lr=1e-3)
        for _ in range(5):
            optimiser.zero_grad()
            policy(batch).loss.backward()
            optimiser.step()
        assert policy(batch).loss.item() < first
        assert bits(lm.model) == before
        assert all(parameter.grad is None for parameter in lm.model.parameters())


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
    with pytest.raises(RuntimeError, match="mine"), WAYS[way](twin, OBJECTIVES["pairs"]) as trainable:
        trainable.policy(packed(twin, material(2, 0))).loss.backward()
        raise RuntimeError("mine")
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
    twin = copied(lm)
    gains = Gains(random_gains(twin))
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
        applied = policy._arms[0].applied
        with applied():
            hooked = logits_of(lm, ids)
        disturb(policy)
        assert torch.equal(found.gains.values, start.values), "an export is a snapshot"
        assert not torch.equal(trainable.export().gains.values, start.values)
    with start.on(lm):
        assert torch.equal(logits_of(lm, ids), hooked)
    assert_close(logits_of(fold(lm, start), ids), hooked, 1e-5)
    assert_close(trace(lm, ids, neurons=lambda block, m: m * start.values[block]).logits, hooked, 1e-6)


def test_gains_that_do_not_fit_are_refused(llama):
    wrong = Gains(torch.ones(llama.n_blocks, llama.d_mlp + 1))
    with (
        pytest.raises(DposcopeError, match="do not fit a model"),
        neuron_gains(llama, OBJECTIVES["dpo"], start=wrong),
    ):
        pass
    partly = Gains(random_gains(llama)).at("last")
    with (
        pytest.raises(DposcopeError, match="'last' cannot be trained"),
        neuron_gains(llama, OBJECTIVES["dpo"], start=partly),
    ):
        pass
    with neuron_gains(llama, OBJECTIVES["dpo"], start=partly.at("all")):
        pass


# A reference computed before


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["pairs", "neutral"])
def test_reference_states_stand_in_for_the_reference(lm, way, name):
    batch = packed(lm, material(3, 2), row_tokens=40)
    with WAYS[way](lm, OBJECTIVES[name]) as trainable:
        policy = trainable.policy
        states = policy.reference_states(batch)
        assert states.shape == (len(batch.where), lm.d_model)
        assert not states.requires_grad
        disturb(policy)
        leaves = list(policy.trainable.values())
        live, read = policy(batch, 2), policy(batch, 2, states)
        assert torch.equal(live.loss, read.loss)
        assert torch.equal(live.penalty, read.penalty)
        for one, other in zip(
            torch.autograd.grad(live.loss, leaves), torch.autograd.grad(read.loss, leaves), strict=True
        ):
            assert torch.equal(one, other)
        assert live.penalty > 0


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


def test_in_place_exports_the_type_that_the_base_came_in():
    lm = tiny("llama", dtype=torch.bfloat16)
    with all_weights(lm, OBJECTIVES["dpo"], in_place=True) as trainable:
        assert lm.dtype == torch.float32
        assert trainable.export().lm.dtype == torch.bfloat16


# The reference protocol


def published(model, tuned: dict, base: dict, examples, pad: int) -> tuple:
    """SPEC 6, reference: right-padded rows, prompt and padding averaged in, the mask `ids != 50256`."""
    texts = [[*example.trunk, *branch] for example in examples for branch in example.branches]
    width = max(map(len, texts))
    ids = torch.tensor([[*text, *[pad] * (width - len(text))] for text in texts])
    mask = (ids != 50256).long()
    options = {"attention_mask": mask, "use_cache": False}
    here, there = (functional_call(model, w, (ids,), options).logits.log_softmax(-1) for w in (tuned, base))
    sums, divergences = [], []
    for row, text in enumerate(texts):
        first = len(examples[row // 2].trunk)
        sums.append(sum(here[row, t - 1, text[t]] - there[row, t - 1, text[t]] for t in range(first, len(text))))
        divergences.append((there[row].exp() * (there[row] - here[row])).sum(-1).mean())
    losses = [-torch.nn.functional.logsigmoid(0.1 * (a - b)) for a, b in zip(sums[::2], sums[1::2], strict=True)]
    kl = [a + b for a, b in zip(divergences[::2], divergences[1::2], strict=True)]
    return torch.stack(losses).mean(), torch.stack(kl).mean()


def gpt2_sized_vocabulary() -> LanguageModel:
    """A GPT-2 whose padding is masked by the constant 50256."""
    config = GPT2Config(
        vocab_size=50258, n_embd=16, n_inner=40, n_layer=2, n_head=4, n_positions=64, bos_token_id=0, eos_token_id=0
    )
    return LanguageModel(build(config, dtype=torch.float64), gpt2_like_tokenizer())


@pytest.mark.parametrize("variant", [*FAMILIES, "padding masked"])
def test_the_reference_protocol_is_what_the_published_code_does(variant, in_float64):
    masked = variant == "padding masked"
    lm = gpt2_sized_vocabulary() if masked else variant_lm(variant)
    pad = 50256 if masked else lm.pad_id
    bare, examples = copy.deepcopy(lm.model), material(3, 0)
    base = {name: value.detach() for name, value in bare.named_parameters()}
    objective = Objective(0.1, 0.7, "pairs", "reference")
    with all_weights(lm, objective) as trainable:
        policy = trainable.policy
        disturb(policy, scale=0.02 if masked else 0.1)
        leaves = list(policy.trainable.values())
        losses, kl = published(bare, dict(policy.trainable), base, examples, pad)
        batch = pack(examples, pad_id=pad, shared=False, whole=True)
        assert (batch.tree < 0).any()
        found = policy(batch)
        assert_close(found.penalty, kl.detach(), 1e-9)
        assert_close(found.loss.detach(), (losses + 0.7 * kl).detach(), 1e-9)
        for one, other in zip(
            torch.autograd.grad(found.loss, leaves), torch.autograd.grad(losses + 0.7 * kl, leaves), strict=True
        ):
            assert_close(one, other, 1e-9)
        # It is another number than the strict one.
        policy.objective = OBJECTIVES["pairs"]
        assert abs(policy(packed(lm, examples)).penalty - kl) > 1e-3 * kl
        # And λ = 0 leaves plain DPO, whatever the protocol.
        policy.objective = replace(objective, kl_weight=0.0)
        plain = policy(batch)
        assert plain.penalty == 0
        assert_close(plain.loss.detach(), losses.detach(), 1e-9)


def test_the_reference_protocol_needs_its_reference_at_every_position(llama):
    batch = pack(material(2, 0), pad_id=3, shared=False, whole=True)
    with neuron_gains(llama, Objective(0.1, 0.7, "pairs", "reference")) as trainable:
        states = trainable.policy.reference_states(batch)
        with pytest.raises(DposcopeError, match="at every position; let it run"):
            trainable.policy(batch, 0, states)
        trainable.policy(batch)


# Settings


@pytest.mark.parametrize(
    ("settings", "mend"),
    [
        ({"beta": 0.0}, "the paper's is 0.1"),
        ({"beta": -1.0}, "the paper's is 0.1"),
        ({"beta": math.nan}, "the paper's is 0.1"),
        ({"kl_weight": -0.1}, "give 0 or more"),
        ({"kl_weight": math.nan}, "give 0 or more"),
        ({"kl_on": "neutral", "protocol": "reference"}, "leave kl_on neutral out, or be strict"),
    ],
)
def test_objectives_that_cannot_be_minimised_are_refused(settings, mend):
    with pytest.raises(DposcopeError, match=mend):
        Objective(**settings)


def test_a_head_that_is_trained_elsewhere_can_be_given(llama):
    """`frozen_head` is what the reference reads through."""
    twin = copied(llama)
    with torch.no_grad():
        twin.model.lm_head.weight.mul_(1.5)
    batch = packed(llama, material(2, 0))
    head = Unembedding(llama.model.lm_head.weight.detach().clone())
    policy = PreferencePolicy(twin.model, Arm(twin.model), Arm(twin.model), OBJECTIVES["pairs"], frozen_head=head)
    other = PreferencePolicy(twin.model, Arm(twin.model), Arm(llama.model), OBJECTIVES["pairs"], frozen_head=None)
    with torch.no_grad():
        assert torch.equal(policy(batch, 0, policy.reference_states(batch)).loss, other(batch).loss)


# The other implementation


def test_without_a_kl_it_is_the_loss_of_trl(llama, tmp_path):
    """Of `DPOTrainer` itself, where TRL is installed."""
    trl = pytest.importorskip("trl", reason="TRL is not installed")
    datasets = pytest.importorskip("datasets", reason="TRL needs datasets")
    base, tuned = copied(llama), copied(llama)
    with all_weights(base, OBJECTIVES["dpo"]) as trainable:
        disturb(trainable.policy)
        tuned = trainable.export().lm
        rows = {
            "prompt": ["the river is", "you are a", "what"],
            "chosen": [" long and quiet", " kind man", " a day"],
            "rejected": [" a dumb thing", " stupid idiot", " is it, idiot"],
        }
        settings = trl.DPOConfig(
            output_dir=str(tmp_path), beta=0.1, per_device_eval_batch_size=3, report_to="none", bf16=False, use_cpu=True
        )
        data = datasets.Dataset.from_dict(rows)
        trainer = trl.DPOTrainer(
            model=tuned.model,
            ref_model=copied(base).model,
            args=settings,
            train_dataset=data,
            eval_dataset=data,
            processing_class=base.tokenizer,
        )
        tuned.model.eval()
        batch = next(iter(trainer.get_eval_dataloader()))
        with torch.no_grad():
            expected = trainer.compute_loss(tuned.model, batch).item()
        # Its own tokens, chosen ones first, so that only the loss is compared.
        count, examples = len(rows["prompt"]), []
        lines = []
        for ids, real, done in zip(batch["input_ids"], batch["attention_mask"], batch["completion_mask"], strict=True):
            lines.append((ids[(real == 1) & (done == 0)].tolist(), ids[(real == 1) & (done == 1)].tolist()))
        for (prompt, chosen), (again, rejected) in zip(lines[:count], lines[count:], strict=True):
            assert prompt == again
            examples.append(Example(tuple(prompt), (tuple(chosen), tuple(rejected))))
        with torch.no_grad():
            found = trainable.policy(packed(base, examples)).loss.item()
    assert abs(expected - math.log(2)) > 1e-3
    assert found == pytest.approx(expected, abs=1e-5)
