"""Contributions against Eq. 2 written out neuron by neuron, and against what the MLPs of whole models write."""

import math
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from dposcope.errors import DposcopeError
from dposcope.neurons.activations import NeuronMeans
from dposcope.neurons.contributions import Contributions, Effect, MovedGroup, along, contributions, labels
from dposcope.neurons.groups import Group
from helpers.changes import (
    MOVED,
    NEW,
    PROMPTS,
    family_change,
    means_of,
    neurons_of,
    random_change,
    random_means,
    tuned_copy,
)
from helpers.families import FAMILIES, assert_close, copied, greedy, naive_vectors, random_direction, trace

TABLES = ["cosine", "projection_before", "projection_after", "vector_cosine"]


def shape_of(lm):
    return (lm.n_blocks, lm.d_mlp)


def assert_same(actual, expected):
    """Every table of two contributions, to the bit, and every fact."""
    for name in TABLES:
        assert torch.equal(getattr(actual, name), getattr(expected, name)), name
    for side in ("before", "after"):
        one, other = getattr(actual, side), getattr(expected, side)
        assert torch.equal(one.mean, other.mean)
        assert torch.equal(one.second_moment, other.second_moment)
        assert one.count == other.count
        assert one.about == other.about
    assert actual.about == expected.about


# Eq. 2


def test_contributions_are_those_of_equation_2(lm):
    tuned = tuned_copy(lm)
    before, after = random_means(shape_of(lm), seed=1), random_means(shape_of(lm), seed=2)
    W = 1e4 * random_direction(lm)  # only its direction counts
    found = contributions(lm, tuned, before, after, W)
    w = W.numpy() / np.linalg.norm(W.numpy())
    exactly = {"rel": 1e-10, "abs": 1e-12}
    for block in range(lm.n_blocks):
        pairs = zip(naive_vectors(lm, block).numpy(), naive_vectors(tuned, block).numpy(), strict=True)
        for i, (v_pre, v_post) in enumerate(pairs):
            m_pre, m_post = before.mean[block, i].item(), after.mean[block, i].item()
            place = (block, i)
            assert found.total[place].item() == pytest.approx((m_pre * v_pre - m_post * v_post) @ w, **exactly)
            assert found.activation_shift[place].item() == m_pre - m_post
            assert found.from_activations[place].item() == pytest.approx((m_pre - m_post) * v_pre @ w, **exactly)
            assert found.from_vectors[place].item() == pytest.approx(m_post * (v_pre - v_post) @ w, **exactly)
            assert found.cosine[place].item() == pytest.approx(v_pre @ w / np.linalg.norm(v_pre), **exactly)
            between = v_pre @ v_post / (np.linalg.norm(v_pre) * np.linalg.norm(v_post))
            assert found.vector_cosine[place].item() == pytest.approx(between, **exactly)
    assert 0.9 < found.vector_cosine.min() < found.vector_cosine.max() < 1


@pytest.mark.parametrize("family", FAMILIES)
def test_both_parts_add_up_to_the_bit(family):
    found = family_change(family)
    assert torch.equal(found.from_activations + found.from_vectors, found.total)
    assert (found.from_activations != 0).all()
    assert (found.from_vectors != 0).all()


@torch.no_grad()
def mean_written(lm):
    """What each MLP's output projection writes on average over the positions that predict, its bias left out, `[L, d]`.

    Every text alone, every step a whole pass.
    """
    rows = []
    for text in PROMPTS:
        prompt = lm.tokenizer(text)["input_ids"]
        written = greedy(lm, prompt, NEW)
        seen = torch.stack(trace(lm, prompt + written).mlp).double()
        rows += [seen[:, len(prompt) - 1 + step] for step in range(len(written))]
    mean = torch.stack(rows).mean(0)
    if lm.model.config.model_type == "gpt2":
        mean -= torch.stack([block.mlp.c_proj.bias.double() for block in lm.model.transformer.h])
    return mean


def test_a_block_sums_to_how_much_less_its_mlp_writes_along_the_direction(lm):
    """Biases left out, and before the norm that Gemma puts after the MLP."""
    tuned, W = tuned_copy(lm), random_direction(lm)
    found = contributions(lm, tuned, means_of(lm), means_of(tuned), W)
    less = (mean_written(lm) - mean_written(tuned)) @ (W / W.norm())
    assert less.abs().min() > 1e-3, "nothing to see"
    assert_close(found.total.sum(1), less, 2e-5)


def test_half_precision_models_give_the_exact_values_of_their_weights(llama):
    base = copied(llama)
    base.model.to(torch.bfloat16)
    tuned = tuned_copy(base)
    means = [random_means(shape_of(base), seed=seed) for seed in (1, 2)]
    W = random_direction(base)
    found = contributions(base, tuned, *means, W)
    for lm in (base, tuned):
        lm.model.double()
    exact = contributions(base, tuned, *means, W)
    for name in [*TABLES, "total"]:
        assert torch.equal(getattr(found, name), getattr(exact, name))


# Nothing changed


def test_a_model_and_its_copy_differ_in_nothing(lm):
    same = copied(lm)
    found = contributions(lm, same, means_of(lm), means_of(same), random_direction(lm))
    assert (found.total == 0).all()
    assert (found.from_activations == 0).all()
    assert (found.from_vectors == 0).all()
    assert (found.vector_cosine == 1).all()
    assert len(found.reduces) == len(found.increases) == len(found.certain) == 0
    assert all(len(neurons) == 0 for neurons in found.groups().values())


def test_a_vector_that_is_turned_round_has_cosine_minus_one(llama):
    base, tuned = copied(llama), copied(llama)
    with torch.no_grad():
        tuned.value_vectors(1)[4] *= -3
    means = random_means(shape_of(base), seed=0)
    cosine = contributions(base, tuned, means, means, random_direction(base)).vector_cosine
    assert cosine[1, 4].item() == pytest.approx(-1, abs=1e-12)
    assert (cosine != 1).sum() == 1


def test_vectors_of_zeros_have_no_angle_but_with_themselves(llama):
    base = copied(llama)
    with torch.no_grad():
        base.value_vectors(0)[3] = 0
        base.value_vectors(1)[4] = 0
    tuned = tuned_copy(base)
    with torch.no_grad():
        tuned.value_vectors(0)[3] = 0
        tuned.value_vectors(2)[5] = 0
    means = random_means(shape_of(base), seed=0)
    cosine = contributions(base, tuned, means, means, random_direction(base)).vector_cosine
    assert cosine[0, 3] == 1
    assert cosine[1, 4] == cosine[2, 5] == 0
    assert ((cosine == 0) | (cosine == 1)).sum() == 3


# Errors of the mean


def test_standard_errors_are_those_of_a_difference_of_two_means():
    stream = torch.Generator().manual_seed(0)
    rows = [torch.randn(n, 2, 6, generator=stream, dtype=torch.float64) + 1 for n in (8, 5)]
    means = [NeuronMeans(r.mean(0), r.square().mean(0), len(r)) for r in rows]
    found = replace(random_change(0, (2, 6)), before=means[0], after=means[1])
    for block in range(2):
        for i in range(6):
            errors = [np.std(r[:, block, i].numpy(), ddof=1) / math.sqrt(len(r)) for r in rows]
            weights = [found.projection_before[block, i].item(), found.projection_after[block, i].item()]
            variance = sum((error * weight) ** 2 for error, weight in zip(errors, weights, strict=True))
            assert found.standard_error[block, i].item() == pytest.approx(math.sqrt(variance), rel=1e-9)


@pytest.mark.parametrize("family", FAMILIES)
def test_certain_neurons_lie_two_standard_errors_from_zero(family):
    found = family_change(family)
    expected = [neuron.certain for neuron in neurons_of(found)]
    assert found.certain.mask.flatten().tolist() == expected
    assert 0 < sum(expected) < len(expected)


@pytest.mark.parametrize("side", ["before", "after"])
def test_one_token_makes_nothing_certain(side):
    found = random_change()
    found = replace(found, **{side: replace(getattr(found, side), count=1)})
    assert (found.standard_error == math.inf).all()
    assert len(found.certain) == 0


# Groups


def assert_groups(found):
    groups, neurons = found.groups(), neurons_of(found)
    assert [str(group) for group in groups] == MOVED
    for place, neuron in enumerate(neurons):
        holders = [str(group) for group, members in groups.items() if members.mask.flatten()[place]]
        assert holders == ([neuron.moved] if neuron.moved else [])
    assert found.reduces.mask.flatten().tolist() == [neuron.effect == "↓" for neuron in neurons]
    assert found.increases.mask.flatten().tolist() == [neuron.effect == "↑" for neuron in neurons]


@pytest.mark.parametrize("family", FAMILIES)
def test_groups_are_those_of_table_4(family):
    found = family_change(family)
    assert_groups(found)
    sizes = [len(neurons) for neurons in found.groups().values()]
    assert sum(sizes) == found.cosine.numel()
    if family != "gpt2":  # most of its neurons are negative, as in the paper
        assert min(sizes) > 0


def test_neurons_on_a_border_are_in_no_group():
    found = random_change(zeros=True)
    assert_groups(found)
    without = sum(neuron.moved is None for neuron in neurons_of(found))
    assert without == 9  # four of no cosine or mean, five that did not move
    assert sum(map(len, found.groups().values())) == found.cosine.numel() - without


def test_a_group_knows_its_arrow():
    assert str(MovedGroup(Group.TP, Effect.REDUCES)) == "TP↓"
    assert str(MovedGroup(Group.AN, Effect.INCREASES)) == "AN↑"


# On disk and as a table


def test_contributions_come_back_to_the_bit(tmp_path):
    found = family_change("gemma3")
    found.save(tmp_path / "change")
    again = Contributions.load(tmp_path / "change.safetensors")
    assert_same(again, found)
    assert torch.equal(again.total, found.total)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["change.json", "change.safetensors"]


def test_another_value_is_not_read_as_contributions(tmp_path):
    random_means((2, 3), seed=0).save(tmp_path / "means")
    with pytest.raises(DposcopeError, match="holds 'NeuronMeans', not 'Contributions'"):
        Contributions.load(tmp_path / "means")


def test_the_table_has_a_row_per_neuron():
    found = random_change()
    table = found.to_polars()
    floats = ["cosine", "mean_before", "mean_after", "projection_before", "projection_after", "contribution"]
    floats += ["from_activations", "from_vectors", "standard_error", "vector_cosine"]
    assert table.schema == {
        "block": pl.Int64,
        "index": pl.Int64,
        "group": pl.String,
        "effect": pl.String,
        "certain": pl.Boolean,
        **dict.fromkeys(floats, pl.Float64),
    }
    tables = {
        "cosine": found.cosine,
        "mean_before": found.before.mean,
        "mean_after": found.after.mean,
        "projection_before": found.projection_before,
        "projection_after": found.projection_after,
        "contribution": found.total,
        "from_activations": found.from_activations,
        "from_vectors": found.from_vectors,
        "standard_error": found.standard_error,
        "vector_cosine": found.vector_cosine,
    }
    rows = table.rows(named=True)
    assert len(rows) == found.cosine.numel()
    for row, neuron in zip(rows, neurons_of(found), strict=True):
        place = (neuron.block, neuron.index)
        assert (row["block"], row["index"]) == place
        assert (row["group"], row["effect"], row["certain"]) == (neuron.group, neuron.effect, neuron.certain)
        assert row["contribution"] == pytest.approx(neuron.delta, rel=1e-9, abs=1e-12)
        for name, values in tables.items():
            assert row[name] == values[place].item(), name
    assert table["group"].null_count() == 4
    assert table["effect"].null_count() > 4


def test_labels_of_nothing_are_nulls():
    mask = torch.zeros(2, 2, dtype=torch.bool)
    assert labels(dict.fromkeys(Group, mask)).to_list() == [None] * 4
    assert labels(dict.fromkeys(Group, mask[:0])).to_list() == []


# Where they come from


def test_contributions_say_what_they_were_made_from(llama):
    tuned = replace(tuned_copy(llama), name="tuned-llama")
    before, after, W = means_of(llama), means_of(tuned), random_direction(llama)
    about = contributions(llama, tuned, before, after, W).about
    digests = [contributions(llama, tuned, before, after, w).about["direction_digest"] for w in (W.clone(), -W)]
    assert digests[0] == about["direction_digest"] != digests[1]
    assert {key: value for key, value in about.items() if key != "direction_digest"} == {
        "model": "tiny-llama",
        "fingerprint": llama.fingerprint,
        "tuned": "tuned-llama",
        "tuned_fingerprint": tuned.fingerprint,
        "protocol": "strict",
        "prompts": len(PROMPTS),
        "new_tokens": NEW,
        "dtype": "float32",
        "tokens_before": before.count,
        "tokens_after": after.count,
    }


def test_means_made_by_hand_are_taken_as_they_are(llama):
    means = random_means(shape_of(llama), seed=0)
    about = contributions(llama, llama, means, means, random_direction(llama)).about
    assert "protocol" not in about
    assert about["tokens_before"] == 9


# What is refused


def refuse(message, base, tuned, before=None, after=None, direction=None):
    before = random_means(shape_of(base), seed=0) if before is None else before
    after = random_means(shape_of(tuned), seed=1) if after is None else after
    with pytest.raises(DposcopeError, match=message):
        contributions(base, tuned, before, after, random_direction(base) if direction is None else direction)


def test_models_of_different_architecture_are_refused(family_lm):
    llama, gemma3 = family_lm("llama"), family_lm("gemma3")
    mend = "give a base model and one that was tuned from it"
    refuse(rf"differ in architecture \(llama and mistral\); {mend}", llama, family_lm("mistral"))
    refuse(rf"tiny-llama and tiny-smollm differ in number of blocks \(3 and 2\); {mend}", llama, family_lm("smollm"))
    short = copied(gemma3)
    del short.model.model.layers[-1]
    refuse(r"differ in number of blocks \(4 and 3\)", gemma3, short)


def test_models_of_different_width_are_refused(llama):
    def other(**kept):
        narrow = copied(llama)
        for layer in narrow.model.model.layers:
            weight = layer.mlp.down_proj.weight.data
            layer.mlp.down_proj = torch.nn.Linear(kept.get("inputs", 24), kept.get("outputs", 16), bias=False)
            assert weight.shape == (16, 24)
        return narrow

    refuse(r"differ in residual width \(16 and 12\)", llama, other(outputs=12))
    refuse(r"differ in neurons per block \(24 and 20\)", llama, other(inputs=20))


def test_a_model_that_also_sees_is_the_same_network(family_lm):
    base = family_lm("gemma3")
    tuned = tuned_copy(base)
    assert tuned.layout == base.layout  # found before the name changes
    tuned.model.config.model_type = "gemma3"
    means = random_means(shape_of(base), seed=0)
    assert contributions(base, tuned, means, means, random_direction(base)).total.abs().max() > 0


@pytest.mark.parametrize("side", ["before", "after"])
def test_means_of_other_neurons_are_refused(llama, side):
    wrong = {side: random_means((3, 7), seed=0)}
    refuse(rf"means {side} have shape \[3, 7\], the neurons of tiny-llama \[3, 24\]; collect", llama, llama, **wrong)


def test_means_of_another_model_are_refused(llama):
    tuned = tuned_copy(llama)
    before, after = means_of(llama), means_of(tuned)
    refuse("means before were collected on tiny-llama, whose weights or precision", llama, tuned, after, before)
    refuse("means after were collected .* collect them again on this model", llama, tuned, before, before)
    assert contributions(llama, tuned, before, after, random_direction(llama)).total.abs().max() > 0


@pytest.mark.parametrize(
    ("setting", "other"), [("protocol", "reference"), ("prompts", 3), ("new_tokens", 20), ("dtype", "bfloat16")]
)
def test_means_collected_differently_are_refused(llama, setting, other):
    before = means_of(llama)
    after = replace(before, about={**before.about, setting: other})
    message = rf"means before and after differ in {setting} \({before.about[setting]} and {other}\); collect both in"
    refuse(message, llama, llama, before, after)


def test_directions_that_do_not_fit_are_refused(llama):
    refuse(r"shape \[5\], the model's residual stream \[16\]", llama, llama, direction=torch.ones(5))


@pytest.mark.parametrize("name", [*TABLES, "before.mean", "after.second_moment"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_tables_without_numbers_are_refused(name, bad):
    found = random_change()

    def spoilt(table):
        table = table.clone()
        table[1, 2] = bad
        return table

    field, _, part = name.partition(".")
    whole = getattr(found, field)
    value = replace(whole, **{part: spoilt(getattr(whole, part))}) if part else spoilt(whole)
    with pytest.raises(DposcopeError, match=rf"^{name} holds NaN or infinity; run the models in bfloat16 or float32"):
        replace(found, **{field: value})


def test_tables_of_other_shapes_are_refused():
    found = random_change()
    with pytest.raises(DposcopeError, match=r"cosine has shape \[3, 40\] and vector_cosine \[3, 39\]; take all"):
        replace(found, vector_cosine=found.vector_cosine[:, 1:])
    with pytest.raises(DposcopeError, match=r"and after\.mean \[2, 40\]"):
        replace(found, after=random_means((2, 40), seed=0))
    with pytest.raises(DposcopeError, match=r"contributions need tables \[L, d_mlp\], not \[40\]"):
        replace(found, cosine=found.cosine[0])


def test_tables_are_kept_in_double_and_without_gradients():
    found = random_change()
    single = {name: getattr(found, name).float().requires_grad_() for name in TABLES}
    means = NeuronMeans(found.before.mean.float(), found.before.second_moment.float(), 9)
    again = replace(found, **single, before=means)
    for table in (*(getattr(again, name) for name in TABLES), again.before.mean, again.before.second_moment):
        assert table.dtype == torch.float64
        assert not table.requires_grad


def test_along_another_direction_it_is_as_if_made_with_it(lm):
    tuned = tuned_copy(lm)
    before, after = means_of(lm), means_of(tuned)
    first, second = random_direction(lm), torch.arange(1.0, 1 + lm.d_model)
    found = along(contributions(lm, tuned, before, after, first), lm, tuned, second)
    expected = contributions(lm, tuned, before, after, second)
    assert torch.equal(found.total, expected.total)
    assert torch.equal(found.cosine, expected.cosine)
    assert found.about == expected.about
