"""What tuning changed, as one value, on tiny models of every family."""

import copy

import pytest
import torch

from dposcope.directions.direction import Direction
from dposcope.errors import DposcopeError
from dposcope.jobs.explain.explanation import explain, explanation_of
from dposcope.model.generate import generate
from dposcope.model.language_model import LanguageModel
from dposcope.neurons.activations import NeuronMeans
from dposcope.neurons.groups import group_sets
from dposcope.neurons.resampling import prompt_intervals
from helpers.explained import pair
from helpers.families import TEXTS


def tuned_from(lm: LanguageModel, *, size: float = 0.05) -> LanguageModel:
    """The same model with every weight moved a little."""
    model = copy.deepcopy(lm.model)
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(size * parameter.abs().mean() * torch.randn(parameter.shape, generator=draw))
    return LanguageModel(model, lm.tokenizer, "tuned")


def direction_of(lm: LanguageModel) -> Direction:
    draw = torch.Generator().manual_seed(4)
    return Direction(torch.randn(lm.d_model, generator=draw, dtype=torch.float64), "test", -1)


def naive_mean(lm: LanguageModel, prompts, new_tokens):
    """m: one prompt at a time, the whole text read again without a cache, at the positions that predict."""
    sums, count = torch.zeros(lm.n_blocks, lm.d_mlp, dtype=torch.float64), 0
    ends = lm.end_ids
    for prompt in prompts:
        written = generate(lm, [prompt], new_tokens=new_tokens)[0]
        ids, steps = written.prompt_ids + written.ids, len(written.ids)
        steps += int(steps < new_tokens)  # the step that predicts the end of the text
        assert ends or steps == new_tokens
        seen = {}
        handles = [
            module.register_forward_pre_hook(
                lambda _m, args, block=block, seen=seen: seen.__setitem__(block, args[0][0])
            )
            for block, module in enumerate(lm.mlp_outs)
        ]
        with torch.no_grad():
            lm.model(torch.tensor([ids]))
        for handle in handles:
            handle.remove()
        first = len(written.prompt_ids) - 1
        for block in range(lm.n_blocks):
            sums[block] += seen[block][first : first + steps].double().sum(0)
        count += steps
    return sums / count


def test_contributions_are_the_equations_from_two_generations(lm):
    """Eq. 2, neuron by neuron, with means of a loop over prompts."""
    tuned, direction = tuned_from(lm), direction_of(lm)
    found = explain(lm, tuned, direction, TEXTS[:4], toxic_sets=(3, 5), new_tokens=6, batch_size=3).contributions
    before, after = naive_mean(lm, TEXTS[:4], 6), naive_mean(tuned, TEXTS[:4], 6)
    w = direction.vector / direction.vector.norm()
    for block in range(lm.n_blocks):
        pre, post = lm.value_vectors(block).double(), tuned.value_vectors(block).double()
        for i in range(0, lm.d_mlp, 5):
            delta = float(((before[block, i] * pre[i] - after[block, i] * post[i]) @ w).detach())
            assert float(found.total[block, i]) == pytest.approx(delta, rel=1e-4, abs=1e-6)


def test_all_parts_belong_together(lm):
    tuned, direction = tuned_from(lm), direction_of(lm)
    found = explain(lm, tuned, direction, TEXTS, toxic_sets=(7, 3), new_tokens=5)
    change = found.contributions
    assert found.toxic_sets == (3, 7)
    assert found.shares.neurons == lm.n_neurons
    assert found.shares.net == pytest.approx(float(change.total.sum()))
    assert float(found.layers.net.sum()) == pytest.approx(found.shares.net)
    assert {name: len(neurons) for name, neurons in found.patch_sets().items() if name != "toxic tokens"} == {
        "top 3": 3,
        "top 7": 7,
    }
    top = change.cosine.flatten().topk(7).indices.sort().values
    assert found.patch_sets()["top 7"].mask.flatten().nonzero().squeeze(1).tolist() == top.tolist()
    bottom = change.cosine.flatten().topk(7, largest=False).indices.sort().values
    assert found.anti_toxic.top().mask.flatten().nonzero().squeeze(1).tolist() == bottom.tolist()
    assert found.largest_set == 7
    groups = group_sets(change.cosine, change.before.mean)
    for share in found.shares.groups:
        assert share.neurons <= len(groups[share.group.group])
    assert len(found.axis_tokens) == found.subspace.axes.shape[1] + 1
    assert found.alignment.of == "cosine"
    assert found.changes.of == "change"


def test_a_model_explained_by_itself_changes_nothing(lm):
    found = explain(lm, lm, direction_of(lm), TEXTS[:3], toxic_sets=(4,), new_tokens=4)
    assert not found.contributions.total.any()
    assert found.shares.reducing == found.shares.increasing == 0
    assert found.change.vector_cosine == 1
    assert found.change.shift_percent == 0


def test_toxic_tokens_are_the_judges(llama):
    class Everything:
        name = "everything"

        def __call__(self, tokens):
            return [True] * len(tokens)

    class Nothing:
        name = "nothing"

        def __call__(self, tokens):
            return [False] * len(tokens)

    tuned, direction = tuned_from(llama), direction_of(llama)
    all_of, none_of = (
        explain(llama, tuned, direction, TEXTS[:2], judge=judge, toxic_sets=(6,), new_tokens=3)
        for judge in (Everything(), Nothing())
    )
    assert all_of.toxic_share == 6 / llama.n_neurons
    assert none_of.toxic_share == 0
    assert len(none_of.patch_sets()["toxic tokens"]) == 0


def test_bad_input_is_told(llama, gpt2):
    direction = direction_of(llama)
    with pytest.raises(DposcopeError, match="differ in architecture"):
        explain(llama, gpt2, direction, TEXTS[:2], new_tokens=2)
    with pytest.raises(DposcopeError, match="name no number of neurons"):
        explain(llama, tuned_from(llama), direction, TEXTS[:2], toxic_sets=(), new_tokens=2)


def test_intervals_are_of_the_parts_before_and_after_and_lenses_of_as_many_tokens_as_asked():
    made = pair("llama")
    change = made.explanation.contributions
    draw = torch.Generator().manual_seed(6)

    def parts(means: NeuronMeans) -> list[NeuronMeans]:
        found = []
        for _ in range(12):
            mean = means.mean + 0.3 * torch.randn(means.mean.shape, generator=draw, dtype=torch.float64)
            found.append(NeuronMeans(mean, mean.square(), 10))
        return found

    before, after = parts(change.before), parts(change.after)
    found = explanation_of(
        made.base, made.tuned, made.explanation.direction, change, toxic_sets=(4,), lens_tokens=3, parts=(before, after)
    )
    assert found.intervals
    assert found.intervals == prompt_intervals(change, before, after)
    assert found.intervals != prompt_intervals(change, after, before)
    assert len(found.direction_tokens.tokens) == 3
    assert {len(one.tokens) for one in found.axis_tokens} == {3}
