"""The preference loss of a batch, against whole logits of one text at a time.

The naive side knows neither packing nor hooks nor adapters: it runs a bare copy of the model on each text with the
weights that a way of training stands for (all of them, W + s·BA, or value vectors times gains), in float64.
"""

import copy
import math
from dataclasses import dataclass, replace

import pytest
import torch
from torch.func import functional_call
from transformers import GPT2Config

from dposcope.errors import DposcopeError
from dposcope.interventions.gains import Gains
from dposcope.model.head.unembedding import Unembedding
from dposcope.model.language_model import LanguageModel
from dposcope.training.batches.packing import pack
from dposcope.training.batches.reading import fits_one_row
from dposcope.training.objective import Objective
from dposcope.training.policy import Arm, PreferencePolicy, Weights
from dposcope.training.trainable import all_weights, neuron_gains
from helpers.families import FAMILIES, assert_close, build, copied, gpt2_like_tokenizer, random_gains, tiny
from helpers.policies import OBJECTIVES, VARIANTS, WAYS, WINDOWED, disturb, material, packed, variant_lm

EVERY_WAY = [
    *((variant, "gains") for variant in VARIANTS),
    *((family, way) for family in ("gpt2", "llama", "gemma2") for way in WAYS if way != "gains"),
]
"""Every variant in one way, and every way with biases, with gates, and with windows and soft-caps."""


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
    likelihood: torch.Tensor
    """−log p of preferred tokens + 0.5 × −log(1 − p) of dispreferred ones, each a mean over tokens, `[pairs]`."""


def naive(model, tuned: dict, base: dict, examples, *, beta=0.1) -> Naive:
    """Paper 3.1 and SPEC 6, strict, as they stand."""
    losses, rewards, divergences, window_tokens, likelihood = [], [], [], [], []

    def read(weights, text):
        return functional_call(model, weights, (torch.tensor([text]),), {"use_cache": False}).logits[0].log_softmax(-1)

    def compare(text, first):
        here, there = read(tuned, text), read(base, text)
        ratio, kl, probability = [], [], []
        for place in range(first, len(text)):
            p, q = here[place - 1], there[place - 1]
            ratio.append(p[text[place]] - q[text[place]])
            kl.append((q.exp() * (q - p)).sum())
            probability.append(p[text[place]].exp())
        return sum(ratio), torch.stack(kl), torch.stack(probability)

    for example in examples:
        if not example.completions:
            window_tokens.append(compare(list(example.prompt), 1)[1])
            continue
        (wanted, kl_wanted, p_wanted), (unwanted, kl_unwanted, p_unwanted) = (
            compare([*example.prompt, *completion], len(example.prompt)) for completion in example.completions
        )
        losses.append(torch.log1p(torch.exp(-beta * (wanted - unwanted))))
        rewards.append(torch.stack([beta * wanted, beta * unwanted]))
        divergences.append(kl_wanted.mean() + kl_unwanted.mean())
        likelihood.append(-p_wanted.log().mean() - 0.5 * (1 - p_unwanted).log().mean())
    return Naive(
        torch.stack(losses),
        torch.stack(rewards),
        torch.stack(divergences),
        torch.cat(window_tokens).mean() if window_tokens else torch.zeros(()),
        torch.stack(likelihood),
    )


@pytest.mark.parametrize(("variant", "way"), EVERY_WAY)
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
                "likelihood": expected.on_windows,
            }
            of_pairs = expected.likelihood if name == "likelihood" else expected.losses
            wanted = of_pairs.mean() + objective.kl_weight * penalty[name]
            directions = torch.autograd.grad(wanted, leaves, retain_graph=True)
            for batch in {
                shared: packed(lm, examples, row_tokens=30),
                False: pack(examples, pad_id=lm.pad_id, shared=False),
            }.values():
                found = policy(batch, windows=2)
                assert_close(found.loss.detach(), wanted.detach(), 1e-9)
                assert_close(found.penalty, penalty[name].detach(), 1e-9)
                assert_close(found.losses, of_pairs.detach(), 1e-9)
                assert_close(found.terms.losses.detach(), expected.losses.detach(), 1e-9)
                assert_close(found.terms.preferred_rewards, expected.rewards[:, 0].detach(), 1e-9)
                assert_close(found.terms.dispreferred_rewards, expected.rewards[:, 1].detach(), 1e-9)
                assert expected.rewards.abs().min() > 1e-4, "a policy like its reference would prove nothing"
                for one, other in zip(torch.autograd.grad(found.loss, leaves), directions, strict=True):
                    # Gains are float32, and so is their gradient.
                    assert_close(one, other, 1e-6 if way == "gains" else 1e-9)


@pytest.mark.parametrize(("variant", "way"), [pair for pair in EVERY_WAY if pair[1] != "full"])
def test_a_teacher_is_imitated_on_both_completions(variant, way, in_float64):
    lm = variant_lm(variant)
    bare, examples = copy.deepcopy(lm.model), material()
    base = {name: value.detach() for name, value in bare.named_parameters()}
    teacher = replace(lm, model=shaken(lm.model))
    its = {name: value.detach() for name, value in teacher.model.named_parameters()}
    objective = replace(OBJECTIVES["neutral"], teacher_weight=0.3)
    with WAYS[way](lm, objective, teacher=teacher) as trainable:
        policy = trainable.policy
        disturb(policy)
        leaves = list(policy.trainable.values())
        tuned = tuned_weights(lm, base, way, policy)
        expected, taught = naive(bare, tuned, base, examples), naive(bare, tuned, its, examples)
        wanted = expected.losses.mean() + 0.7 * expected.on_windows + 0.3 * taught.on_pairs.mean()
        found = policy(packed(lm, examples, row_tokens=30), windows=2)
        assert_close(found.loss.detach(), wanted.detach(), 1e-9)
        assert_close(found.distillation, taught.on_pairs.detach(), 1e-9)
        assert found.distillation.min() > 1e-4, "a teacher like its pupil would prove nothing"
        directions = torch.autograd.grad(wanted, leaves)
        for one, other in zip(torch.autograd.grad(found.loss, leaves), directions, strict=True):
            assert_close(one, other, 1e-6 if way == "gains" else 1e-9)


def shaken(model):
    """A copy whose weights are all somewhat different."""
    other, stream = copy.deepcopy(model), torch.Generator().manual_seed(3)
    with torch.no_grad():
        for value in other.parameters():
            value.add_(0.05 * torch.randn(value.shape, generator=stream).to(value.dtype))
    return other


def test_the_shares_of_several_processes_add_up_to_the_imitation(llama):
    examples = material(3, 0)
    teacher = replace(llama, model=shaken(llama.model))
    with neuron_gains(llama, replace(OBJECTIVES["dpo"], teacher_weight=2.0), teacher=teacher) as trainable:
        disturb(trainable.policy)
        whole = trainable.policy(packed(llama, examples)).loss
        weights = [Weights(torch.full((n,), 1 / 3), torch.zeros(0)) for n in (2, 1)]
        parts = [
            trainable.policy(packed(llama, part), weights=weight).loss
            for part, weight in zip((examples[:2], examples[2:]), weights, strict=True)
        ]
    assert_close(sum(parts), whole, 1e-5)


@pytest.mark.parametrize("way", ["lora", "gains"])
def test_a_teacher_and_its_weight_come_together(llama, way):
    with (
        pytest.raises(DposcopeError, match="give both a teacher and a teacher_weight"),
        WAYS[way](llama, OBJECTIVES["dpo"], teacher=llama),
    ):
        pass
    with (
        pytest.raises(DposcopeError, match="no teacher is given; give both"),
        WAYS[way](llama, replace(OBJECTIVES["dpo"], teacher_weight=1.0)),
    ):
        pass


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
        tokens = [len(example.prompt) - 1 for example in examples[2:]]
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
            assert (batches[0].example < 0).any()
            losses = [trainable.policy(batch) for batch in batches]
            assert {loss.loss.item() for loss in losses} == {losses[0].loss.item()}
            assert {loss.penalty.item() for loss in losses} == {losses[0].penalty.item()}


# The start


def starting(lm, way, objective):
    """A context in which policy and reference have one precision."""
    return all_weights(lm, objective, reference_dtype=torch.float32) if way == "full" else WAYS[way](lm, objective)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("variant", "way"), EVERY_WAY)
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


# What the reference reads


def test_a_head_that_is_trained_elsewhere_can_be_given(llama):
    """`Arm.head` is what a model's outputs are read through."""
    twin = copied(llama)
    with torch.no_grad():
        twin.model.lm_head.weight.mul_(1.5)
    batch = packed(llama, material(2, 0))
    head = Unembedding(llama.model.lm_head.weight.detach().clone())
    policy = PreferencePolicy(twin.model, Arm(twin.model), Arm(twin.model, head=head), OBJECTIVES["pairs"])
    other = PreferencePolicy(twin.model, Arm(twin.model), Arm(llama.model), OBJECTIVES["pairs"])
    with torch.no_grad():
        assert torch.equal(policy(batch, 0, policy.reference_states(batch)).loss, other(batch).loss)


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


# The reference protocol


def published(model, tuned: dict, base: dict, examples, pad: int) -> tuple:
    """SPEC 6, reference: right-padded rows, prompt and padding averaged in, the mask `ids != 50256`."""
    texts = [[*example.prompt, *completion] for example in examples for completion in example.completions]
    width = max(map(len, texts))
    ids = torch.tensor([[*text, *[pad] * (width - len(text))] for text in texts])
    mask = (ids != 50256).long()
    options = {"attention_mask": mask, "use_cache": False}
    here, there = (functional_call(model, w, (ids,), options).logits.log_softmax(-1) for w in (tuned, base))
    sums, divergences = [], []
    for row, text in enumerate(texts):
        first = len(examples[row // 2].prompt)
        sums.append(sum(here[row, t - 1, text[t]] - there[row, t - 1, text[t]] for t in range(first, len(text))))
        divergences.append((there[row].exp() * (there[row] - here[row])).sum(-1).mean())
    losses = [-torch.nn.functional.logsigmoid(0.1 * (a - b)) for a, b in zip(sums[::2], sums[1::2], strict=True)]
    kl = [a + b for a, b in zip(divergences[::2], divergences[1::2], strict=True)]
    return torch.stack(losses).mean(), torch.stack(kl).mean()


def gpt2_sized_vocabulary() -> LanguageModel:
    """A GPT-2 whose padding is masked by the constant 50256."""
    config = GPT2Config(
        vocab_size=50258, n_embd=8, n_inner=12, n_layer=1, n_head=2, n_positions=32, bos_token_id=0, eos_token_id=0
    )
    return LanguageModel(build(config, dtype=torch.float64), gpt2_like_tokenizer())


@pytest.mark.parametrize("variant", [*FAMILIES, "padding masked"])
def test_the_reference_protocol_is_what_the_published_code_does(variant, in_float64):
    masked = variant == "padding masked"
    lm = gpt2_sized_vocabulary() if masked else variant_lm(variant)
    pad = 50256 if masked else lm.pad_id
    bare, examples = copy.deepcopy(lm.model), material(2, 0, longest=5 if masked else 12)
    base = {name: value.detach() for name, value in bare.named_parameters()}
    objective = Objective(0.1, 0.7, "pairs", "reference")
    with all_weights(lm, objective) as trainable:
        policy = trainable.policy
        disturb(policy, scale=0.02 if masked else 0.1)
        leaves = list(policy.trainable.values())
        losses, kl = published(bare, dict(policy.trainable), base, examples, pad)
        batch = pack(examples, pad_id=pad, shared=False, whole=True)
        assert (batch.example < 0).any()
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
        with pytest.raises(DposcopeError, match="at every position; leave reference_hidden out"):
            trainable.policy(batch, 0, states)
        trainable.policy(batch)


# The other implementation


@pytest.mark.filterwarnings("ignore")  # TRL's own, of names that transformers deprecated
def test_without_a_kl_it_is_the_loss_of_trl(llama, tmp_path):
    """Of `DPOTrainer` itself, where TRL is installed; its tokens are ours, so that only the loss is compared."""
    trl = pytest.importorskip("trl", reason="TRL is not installed")
    datasets = pytest.importorskip("datasets", reason="TRL needs datasets")
    examples = material(4, 0)
    rows = [
        {"prompt_ids": [*one.prompt], "chosen_ids": [*one.completions[0]], "rejected_ids": [*one.completions[1]]}
        for one in examples
    ]

    class Bare(trl.DPOTrainer):
        def _prepare_dataset(self, dataset, *_arguments, **_options):
            return dataset

    base = copied(llama)
    with all_weights(base, OBJECTIVES["dpo"]) as trainable:
        disturb(trainable.policy)
        tuned = trainable.export().lm.model
        trainer = Bare(
            model=tuned,
            ref_model=copied(base).model,
            args=trl.DPOConfig(output_dir=str(tmp_path), beta=0.1, report_to="none", bf16=False, use_cpu=True),
            train_dataset=datasets.Dataset.from_list([{"prompt": "a", "chosen": "b", "rejected": "c"}]),
            processing_class=base.tokenizer,
        )
        tuned.eval()
        with torch.no_grad():
            expected = trainer.compute_loss(tuned, trainer.data_collator(rows)).item()
            found = trainable.policy(packed(base, examples)).loss.item()
    assert abs(expected - math.log(2)) > 1e-3
    assert found == pytest.approx(expected, abs=1e-5)
