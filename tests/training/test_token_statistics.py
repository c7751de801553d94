"""Log-probabilities and KL in chunks against full logits, token by token; their gradients against autograd's own."""

import itertools
import math

import pytest
import torch
from torch import nn

from dposcope.errors import DposcopeError
from dposcope.model.head.unembedding import Unembedding
from dposcope.training.token_statistics import Reference, TokenStatistics, token_statistics
from helpers.families import assert_close, copied, logits_of
from helpers.quantised import Bytes

N, V, D = 7, 23, 5
CHUNKS = [1, V, 3 * V, 3 * V + 5, N * V, 1 << 24]
"""Logits at once: less than one token, one, three (7 is no multiple), the same rounded down, all, more than all."""


def drawn(*shape, seed, dtype=torch.float64, scale=1.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def heads(*, bias, softcap, seed=0, trained=False):
    """A policy's head and the reference's, which differ."""
    own, other = (
        Unembedding(drawn(V, D, seed=seed + 1 + k), drawn(V, seed=seed + 3 + k) if bias else None, softcap)
        for k in range(2)
    )
    if trained:
        own.weight.requires_grad_()
        if own.bias is not None:
            own.bias.requires_grad_()
    return own, other


def naive_logits(hidden, head):
    """One token's logits, one entry of the vocabulary at a time."""
    logits = torch.stack(
        [
            sum(hidden[i] * head.weight[v, i] for i in range(D)) + (0 if head.bias is None else head.bias[v])
            for v in range(len(head.weight))
        ]
    )
    return logits if head.softcap is None else head.softcap * torch.tanh(logits / head.softcap)


def naive(hidden, head, targets, reference):
    """Paper 3.1 as it stands: log-softmax of whole logits, Σ q (log q − log p); differentiable by autograd."""
    logp, reference_logp, kl = [], [], []
    for n in range(len(hidden)):
        here = torch.log_softmax(naive_logits(hidden[n], head), 0)
        there = torch.log_softmax(naive_logits(reference.hidden[n], reference.head), 0)
        logp.append(here[targets[n]])
        reference_logp.append(there[targets[n]])
        kl.append(sum(there[v].exp() * (there[v] - here[v]) for v in range(len(there))))
    return TokenStatistics(*(torch.stack(part) for part in (logp, reference_logp, kl)))


def inputs(*, bias=True, softcap=2.0, trained=False, seed=10):
    own, other = heads(bias=bias, softcap=softcap, trained=trained)
    hidden = drawn(N, D, seed=seed).requires_grad_()
    targets = torch.randint(V, (N,), generator=torch.Generator().manual_seed(seed))
    return hidden, own, targets, Reference(drawn(N, D, seed=seed + 1), other)


# Values


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize("logits_at_once", CHUNKS)
def test_values_are_those_of_full_logits(bias, softcap, logits_at_once):
    hidden, head, targets, reference = inputs(bias=bias, softcap=softcap)
    expected = naive(hidden, head, targets, reference)
    found = token_statistics(hidden, head, targets=targets, reference=reference, kl=True, logits_at_once=logits_at_once)
    for name in ("logp", "reference_logp", "kl"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=0, atol=1e-12)
    assert (found.kl > 0).all()


def test_what_is_not_asked_is_none_and_does_not_change_the_rest():
    hidden, head, targets, reference = inputs()
    whole = token_statistics(hidden, head, targets=targets, reference=reference, kl=True)
    alone = token_statistics(hidden, head, targets=targets)
    assert torch.equal(alone.logp, whole.logp)
    assert (alone.reference_logp, alone.kl) == (None, None)
    without = token_statistics(hidden, head, targets=targets, reference=reference)
    assert torch.equal(without.reference_logp, whole.reference_logp)
    assert without.kl is None
    only = token_statistics(hidden, head, reference=reference, kl=True)
    assert torch.equal(only.kl, whole.kl)
    assert (only.logp, only.reference_logp) == (None, None)


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("logits_at_once", CHUNKS)
@pytest.mark.parametrize(("named", "kl_from"), [(4, 4), (0, 0), (7, 3), (3, 5), (5, 7)])
def test_pairs_and_windows_in_one_call(trained, logits_at_once, named, kl_from):
    """Targets for the first tokens, the KL for the last ones: values and gradients of the whole, cut."""
    hidden, head, targets, reference = inputs(trained=trained)
    whole = naive(hidden, head, targets, reference)
    found = token_statistics(
        hidden,
        head,
        targets=targets[:named],
        reference=reference,
        kl=True,
        kl_from=kl_from,
        logits_at_once=logits_at_once,
    )
    expected = (whole.logp[:named], whole.kl[kl_from:])
    for one, other in zip((found.logp, found.kl), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
    weights = drawn(2, N, seed=51)
    leaves = [hidden, head.weight, head.bias][: 3 if trained else 1]
    slopes = [
        torch.autograd.grad((weights[0, :named] * logp).sum() + (weights[1, kl_from:] * kl).sum(), leaves)
        for logp, kl in ((found.logp, found.kl), expected)
    ]
    for one, other in zip(*slopes, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-9)


def taught_by(seed=70, *, tokens=N):
    """A teacher, another model than policy and reference, at the first tokens."""
    other = Unembedding(drawn(V, D, seed=seed), drawn(V, seed=seed + 1), 2.0)
    return Reference(drawn(tokens, D, seed=seed + 2), other)


def parts_of(found):
    return found.logp, found.kl, found.distillation


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("logits_at_once", CHUNKS)
@pytest.mark.parametrize(("named", "kl_from", "taught"), [(4, 4, 4), (7, 0, 3), (3, 5, 7), (0, 0, 5), (5, 2, 0)])
def test_a_teacher_beside_a_reference(trained, logits_at_once, named, kl_from, taught):
    """KL(teacher‖policy) at the first tokens: all three parts and a gradient through them, by full logits."""
    hidden, head, targets, reference = inputs(trained=trained)
    teacher = taught_by()
    whole, lesson = naive(hidden, head, targets, reference), naive(hidden, head, targets, teacher).kl
    found = token_statistics(
        hidden,
        head,
        targets=targets[:named],
        reference=reference,
        kl=True,
        kl_from=kl_from,
        teacher=Reference(teacher.hidden[:taught], teacher.head),
        logits_at_once=logits_at_once,
    )
    expected = (whole.logp[:named], whole.kl[kl_from:], lesson[:taught])
    for one, other in zip(parts_of(found), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
    weights = drawn(3, N, seed=52)
    leaves = [hidden, head.weight, head.bias][: 3 if trained else 1]
    slopes = [
        torch.autograd.grad(sum((w[: len(part)] * part).sum() for w, part in zip(weights, of, strict=True)), leaves)
        for of in (parts_of(found), expected)
    ]
    for one, other in zip(*slopes, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-9)


@pytest.mark.parametrize("trained", [False, True])
def test_a_teacher_changes_nothing_else_and_learns_nothing(trained):
    hidden, head, targets, reference = inputs(trained=trained)
    teacher = taught_by()
    leaves = [teacher.hidden, teacher.head.weight, teacher.head.bias]
    for leaf in leaves:
        leaf.requires_grad_()
    asked = {"targets": targets, "reference": reference, "kl": True, "logits_at_once": 2 * V}
    plain, taught = (token_statistics(hidden, head, **asked, teacher=one) for one in (None, teacher))
    assert plain.distillation is None
    for name in ("logp", "reference_logp", "kl"):
        assert torch.equal(getattr(plain, name), getattr(taught, name))
    taught.distillation.sum().backward()
    assert [leaf.grad for leaf in leaves] == [None, None, None]


def test_a_teacher_with_the_policys_own_head_and_outputs_has_nothing_to_teach():
    hidden, head, _, _ = inputs()
    found = token_statistics(hidden, head, teacher=Reference(hidden.detach(), head))
    assert torch.equal(found.distillation, torch.zeros(N, dtype=torch.float64))
    assert (found.logp, found.reference_logp, found.kl) == (None, None, None)


def test_a_kl_without_a_reference_is_refused():
    hidden, head, targets, _ = inputs()
    with pytest.raises(DposcopeError, match="set kl=False"):
        token_statistics(hidden, head, targets=targets, kl=True)
    assert token_statistics(hidden, head, targets=targets, kl=False).kl is None


def test_no_token_at_all_gives_empty_results_and_gradients():
    _, head, _, reference = inputs()
    hidden = torch.zeros(0, D, dtype=torch.float64, requires_grad=True)
    found = token_statistics(
        hidden,
        head,
        targets=torch.zeros(0, dtype=torch.long),
        reference=Reference(torch.zeros(0, D, dtype=torch.float64), reference.head),
        kl=True,
    )
    (found.logp.sum() + found.kl.sum()).backward()
    assert found.logp.shape == found.kl.shape == (0,)
    assert hidden.grad.shape == (0, D)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize("logits_at_once", [V, 3 * V, 1 << 24])
def test_the_kl_of_a_model_with_itself_is_exactly_zero(dtype, softcap, logits_at_once):
    head = Unembedding(drawn(V, D, seed=1).to(dtype), drawn(V, seed=2).to(dtype), softcap)
    hidden = drawn(N, D, seed=3, scale=3).to(dtype)
    targets = torch.arange(N)
    twin = Unembedding(head.weight.clone(), head.bias.clone(), softcap)
    for reference in (Reference(hidden, head), Reference(hidden.clone(), twin)):
        found = token_statistics(
            hidden, head, targets=targets, reference=reference, kl=True, logits_at_once=logits_at_once
        )
        assert torch.equal(found.kl, torch.zeros(N))
        assert torch.equal(found.logp, found.reference_logp)
        assert found.logp.dtype == torch.float32


def test_extreme_logits_stay_finite():
    head = Unembedding(drawn(V, D, seed=1, dtype=torch.float32, scale=300))
    hidden = drawn(N, D, seed=3, dtype=torch.float32, scale=10).requires_grad_()
    reference = Reference(hidden.detach().flip(0), head)
    found = token_statistics(hidden, head, targets=torch.arange(N), reference=reference, kl=True)
    (found.logp.sum() + found.kl.sum()).backward()
    assert all(part.isfinite().all() for part in (found.logp, found.reference_logp, found.kl, hidden.grad))


# Gradients


def gradients(found, hidden, head, *, with_logp, with_kl):
    """Of a loss that weighs every token differently; `found` has both of what is asked."""
    weights = drawn(2, N, seed=50)
    loss = sum(
        (weight * part).sum()
        for weight, part, asked in ((weights[0], found.logp, with_logp), (weights[1], found.kl, with_kl))
        if asked
    )
    leaves = [t for t in (hidden, head.weight, head.bias) if t is not None and t.requires_grad]
    return torch.autograd.grad(loss, leaves)


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize(("bias", "softcap"), [(False, None), (True, None), (False, 1.5), (True, 1.5)])
@pytest.mark.parametrize(("with_logp", "with_kl"), [(True, False), (False, True), (True, True)])
def test_gradients_are_autograds_of_full_logits(trained, bias, softcap, with_logp, with_kl):
    hidden, head, targets, reference = inputs(bias=bias, softcap=softcap, trained=trained)
    asked = {"with_logp": with_logp, "with_kl": with_kl}
    expected = gradients(naive(hidden, head, targets, reference), hidden, head, **asked)
    for logits_at_once in CHUNKS:
        found = token_statistics(
            hidden,
            head,
            targets=targets if with_logp else None,
            reference=reference,
            kl=with_kl,
            logits_at_once=logits_at_once,
        )
        actual = gradients(found, hidden, head, **asked)
        assert len(actual) == 1 + trained * (1 + bias)
        for one, other in zip(actual, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-9)


def test_asked_but_unused_parts_add_no_gradient():
    """A loss of log-probabilities alone, though the KL was computed beside them, and the other way round."""
    for trained in (False, True):
        hidden, head, targets, reference = inputs(trained=trained)
        for part in ({"with_logp": True, "with_kl": False}, {"with_logp": False, "with_kl": True}):
            found = token_statistics(hidden, head, targets=targets, reference=reference, kl=True)
            expected = gradients(naive(hidden, head, targets, reference), hidden, head, **part)
            for one, other in zip(gradients(found, hidden, head, **part), expected, strict=True):
                torch.testing.assert_close(one, other, rtol=0, atol=1e-9)


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize("logits_at_once", [V, 2 * V, 1 << 24])
def test_gradcheck(trained, softcap, logits_at_once):
    """Against finite differences, so that a mistake shared with autograd of the naive form would show."""
    hidden, head, targets, reference = inputs(softcap=softcap, trained=trained)

    def run(hidden, weight, bias):
        found = token_statistics(
            hidden,
            Unembedding(weight, bias, softcap),
            targets=targets,
            reference=reference,
            kl=True,
            logits_at_once=logits_at_once,
        )
        return found.logp, found.kl

    assert torch.autograd.gradcheck(run, (hidden, head.weight, head.bias), fast_mode=False)


def test_frozen_and_trained_heads_give_hidden_the_same_gradient():
    frozen, trained = (inputs(trained=trained) for trained in (False, True))
    found = []
    for hidden, head, targets, reference in (frozen, trained):
        statistics = token_statistics(hidden, head, targets=targets, reference=reference, kl=True, logits_at_once=2 * V)
        found.append(gradients(statistics, hidden, head, with_logp=True, with_kl=True)[0])
    torch.testing.assert_close(*found, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("weight", "bias"), [(True, False), (False, True)])
def test_a_head_trained_in_part(weight, bias):
    hidden, head, targets, reference = inputs()
    head.weight.requires_grad_(weight)
    head.bias.requires_grad_(bias)
    both = {"with_logp": True, "with_kl": True}
    expected = gradients(naive(hidden, head, targets, reference), hidden, head, **both)
    found = token_statistics(hidden, head, targets=targets, reference=reference, kl=True, logits_at_once=2 * V)
    actual = gradients(found, hidden, head, **both)
    assert len(actual) == 2
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-9)


def test_a_head_trained_alone():
    """Hidden without gradient, as under a frozen body."""
    hidden, head, targets, reference = inputs(trained=True)
    hidden = hidden.detach()
    both = {"with_logp": True, "with_kl": True}
    expected = gradients(naive(hidden, head, targets, reference), hidden, head, **both)
    found = token_statistics(hidden, head, targets=targets, reference=reference, kl=True)
    for one, other in zip(gradients(found, hidden, head, **both), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-9)


@pytest.mark.parametrize("trained", [False, True])
def test_nothing_flows_to_the_reference(trained):
    hidden, head, targets, reference = inputs(trained=trained)
    leaves = [reference.hidden, reference.head.weight, reference.head.bias]
    for leaf in leaves:
        leaf.requires_grad_()
    found = token_statistics(hidden, head, targets=targets, reference=reference, kl=True)
    assert not found.reference_logp.requires_grad
    (found.logp.sum() + found.kl.sum()).backward()
    assert [leaf.grad for leaf in leaves] == [None, None, None]


def test_a_head_shared_with_the_reference_is_still_trained_on_the_policys_side_only():
    """Tied or shared storage: the reference's logits count as constants."""
    hidden, head, targets, reference = inputs(trained=True)
    frozen = Reference(reference.hidden, Unembedding(head.weight.detach(), head.bias.detach(), head.softcap))
    both = {"with_logp": True, "with_kl": True}
    expected = gradients(naive(hidden, head, targets, frozen), hidden, head, **both)
    found = token_statistics(hidden, head, targets=targets, reference=frozen, kl=True, logits_at_once=2 * V)
    for one, other in zip(gradients(found, hidden, head, **both), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-9)


def test_without_gradients_nothing_is_kept():
    hidden, head, targets, reference = inputs(trained=True)
    whole = token_statistics(hidden, head, targets=targets, reference=reference, kl=True)
    with torch.no_grad():
        found = token_statistics(hidden, head, targets=targets, reference=reference, kl=True)
    assert not found.logp.requires_grad
    assert torch.equal(found.logp, whole.logp)
    assert torch.equal(found.kl, whole.kl)


def test_inputs_are_read_only():
    hidden, head, targets, reference = inputs(trained=True)
    tensors = (hidden, head.weight, head.bias, targets, reference.hidden, reference.head.weight, reference.head.bias)
    before = [tensor.detach().clone() for tensor in tensors]
    found = token_statistics(hidden, head, targets=targets, reference=reference, kl=True)
    (found.logp.sum() + found.kl.sum()).backward()
    assert all(torch.equal(tensor, old) for tensor, old in zip(tensors, before, strict=True))


# Precision


@pytest.mark.parametrize("trained", [False, True])
def test_bfloat16_is_near_float64(trained):
    hidden, head, targets, reference = inputs(trained=trained, softcap=None)
    both = {"with_logp": True, "with_kl": True}
    expected = naive(hidden, head, targets, reference)
    wanted = gradients(expected, hidden, head, **both)

    def low(tensor):
        return tensor.detach().bfloat16().requires_grad_(tensor.requires_grad)

    own = Unembedding(low(head.weight), low(head.bias))
    there = Reference(low(reference.hidden), Unembedding(low(reference.head.weight), low(reference.head.bias)))
    small = low(hidden)
    found = token_statistics(small, own, targets=targets, reference=there, kl=True, logits_at_once=2 * V)
    assert found.logp.dtype == found.kl.dtype == torch.float32
    assert_close(found.logp, expected.logp, 2e-2)
    assert_close(found.kl, expected.kl, 5e-2)
    for one, other in zip(gradients(found, small, own, **both), wanted, strict=True):
        assert one.dtype == torch.bfloat16
        assert_close(one, other, 5e-2)


@pytest.mark.parametrize("trained", [False, True])
def test_autocast_multiplies_in_its_own_precision_and_gradients_keep_the_weights(trained):
    """Weights in float32 under autocast give what bfloat16 copies of them give, summed in float32."""
    hidden, head, targets, reference = inputs(trained=trained, softcap=None)

    def single(tensor, dtype=torch.float32):
        return tensor.detach().to(dtype).requires_grad_(tensor.requires_grad)

    own = Unembedding(single(head.weight), single(head.bias))
    there = Reference(single(reference.hidden), Unembedding(single(reference.head.weight), single(reference.head.bias)))
    wide = single(hidden)
    with torch.autocast("cpu", torch.bfloat16):
        found = token_statistics(wide, own, targets=targets, reference=there, kl=True, logits_at_once=2 * V)
    # The backward pass runs outside, as in training.
    actual = gradients(found, wide, own, with_logp=True, with_kl=True)

    def rounded(tensor):
        return single(tensor).bfloat16()

    low = Reference(rounded(there.hidden), Unembedding(rounded(there.head.weight), there.head.bias))
    expected = token_statistics(
        rounded(wide), Unembedding(rounded(own.weight), own.bias), targets=targets, reference=low, kl=True
    )
    assert torch.equal(found.logp, expected.logp)
    assert torch.equal(found.kl, expected.kl)
    wanted = gradients(naive(hidden, head, targets, reference), hidden, head, with_logp=True, with_kl=True)
    for one, other in zip(actual, wanted, strict=True):
        assert one.dtype == torch.float32
        assert_close(one, other, 5e-2)


# Memory: what a backward pass keeps is as wide as hidden, never as wide as the vocabulary


@pytest.mark.parametrize("trained", [False, True])
def test_nothing_as_large_as_the_logits_is_kept_for_the_backward_pass(trained):
    tokens, vocabulary, width = 64, 4096, 4
    hidden = drawn(tokens, width, seed=1, dtype=torch.float32).requires_grad_()
    weight = drawn(vocabulary, width, seed=2, dtype=torch.float32).requires_grad_(trained)
    reference = Reference(drawn(tokens, width, seed=3, dtype=torch.float32), Unembedding(weight.detach()))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        found = token_statistics(
            hidden,
            Unembedding(weight),
            targets=torch.arange(tokens),
            reference=reference,
            kl=True,
            logits_at_once=4 * vocabulary,
        )
    assert kept
    assert max(kept) <= max(weight.numel(), hidden.numel())
    assert weight.numel() * 10 < tokens * vocabulary
    (found.logp.sum() + found.kl.sum()).backward()


def test_no_more_logits_than_allowed_exist_at_once(monkeypatch):
    import dposcope.training.token_statistics as module

    made = []
    logits = module._logits

    def counted(*arguments):
        result = logits(*arguments)
        made.append(result.numel())
        return result

    monkeypatch.setattr(module, "_logits", counted)
    for bound, trained in itertools.product((V, 2 * V + 3, 5 * V), (False, True)):
        made.clear()
        hidden, head, targets, reference = inputs(trained=trained)
        found = token_statistics(
            hidden, head, targets=targets, reference=reference, kl=True, teacher=taught_by(), logits_at_once=bound
        )
        sum(part.sum() for part in parts_of(found)).backward()
        assert max(made) <= bound
        # Policy, reference and teacher once each; all again in the backward pass only where the head is trained.
        assert len(made) == math.ceil(N / (bound // V)) * (6 if trained else 3)


# The head of a model


def test_unembedding_is_the_models_own(lm):
    """With its bias and soft-cap: its log-probabilities are those of the model's logits."""
    twin = copied(lm)
    twin.model.double()
    ids = [2, 40, 41, 55, 60, 61, 70]
    with torch.no_grad():
        states = twin.model.base_model(input_ids=torch.tensor([ids]), use_cache=False).last_hidden_state[0]
    targets = torch.tensor([40, 41, 55, 60, 61, 70, 33])
    found = token_statistics(states, Unembedding.of(twin.model), targets=targets)
    expected = logits_of(twin, ids).log_softmax(-1)[torch.arange(len(ids)), targets]
    torch.testing.assert_close(found.logp, expected, rtol=0, atol=1e-9)


def test_a_head_that_is_no_linear_map_is_refused(llama):
    twin = copied(llama)
    twin.model.lm_head = nn.Sequential(twin.model.lm_head)
    with pytest.raises(DposcopeError, match="Sequential, not one linear map; leave the head out"):
        Unembedding.of(twin.model)


def test_a_quantised_head_is_refused(llama):
    twin = copied(llama)
    twin.model.lm_head = Bytes(twin.model.lm_head)
    with pytest.raises(DposcopeError, match="is quantised, and training needs its numbers; quantise the model without"):
        Unembedding.of(twin.model)
