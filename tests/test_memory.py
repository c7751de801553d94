"""Too little memory for a batch: the same numbers from smaller ones, nothing counted twice."""

import re
from contextlib import contextmanager

import pytest
import torch

from dposcope.directions.direction import Direction
from dposcope.directions.features import residual_features
from dposcope.errors import DposcopeError, is_memory
from dposcope.evaluation.sampled.continuations import continuation_losses, relevance
from dposcope.interventions.paired.attribution import attribution
from dposcope.interventions.paired.interchange import Interchange, Parts
from dposcope.interventions.paired.mediation import mediation
from dposcope.model.generate import Sampling, generate
from dposcope.neurons.activations import collect_means, recording
from dposcope.neurons.folds import collect_by_fold
from dposcope.neurons.sets import NeuronSet
from dposcope.neurons.traces import trace
from dposcope.pairs.checks import completion_logppl
from dposcope.pairs.pplm import Perturbation, perturbed_continuations
from helpers.changes import tuned_copy
from helpers.families import TEXTS, random_direction, tiny
from helpers.preferences import tiny_pairs

ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:125] err == 0. DefaultCPUAllocator: can't allocate memory"),
    RuntimeError("MPS backend out of memory (MPS allocated: 18.13 GB)"),
    MemoryError(),
]


@pytest.fixture(scope="module")
def lm():
    return tiny("llama")


@pytest.fixture(scope="module")
def other(lm):
    return tuned_copy(lm)


@contextmanager
def at_most(lm, rows, error=ERRORS[0]):
    """Too little memory for more rows; the pass has been made by then, so that whatever counts has counted."""
    seen: list[int] = []

    def after(_module, _arguments, keywords, _output):
        ids = keywords.get("input_ids")
        seen.append(len(keywords["inputs_embeds"] if ids is None else ids))
        if seen[-1] > rows:
            raise error

    hook = lm.model.base_model.register_forward_hook(after, with_kwargs=True)
    try:
        yield seen
    finally:
        hook.remove()


def written(lm):
    return generate(lm, TEXTS[:7], new_tokens=4, batch_size=2, stop_at_end=False)


def interchanged(lm, other):
    some = torch.zeros(lm.n_blocks, lm.d_mlp, dtype=torch.bool)
    some[:, ::2] = True
    with Interchange(other, Parts(NeuronSet(some))).on(lm):
        return [one.ids for one in generate(lm, TEXTS[:7], new_tokens=6, batch_size=7)]


WORK = {
    "generate": lambda lm, _: [one.ids for one in generate(lm, TEXTS[:7], new_tokens=6, batch_size=7)],
    "generate, sampled": lambda lm, _: [
        one.ids for one in generate(lm, TEXTS[:7], new_tokens=6, batch_size=7, sampling=Sampling(1.0, 0.9, 3))
    ],
    "collect_means": lambda lm, _: collect_means(lm, TEXTS[:7], new_tokens=5, batch_size=7),
    "collect_means, reference": lambda lm, _: collect_means(
        lm, TEXTS[:7], new_tokens=5, batch_size=7, protocol="reference"
    ),
    "collect_by_fold": lambda lm, _: collect_by_fold(lm, TEXTS[:7], folds=3, new_tokens=5, batch_size=7),
    "residual_features": lambda lm, _: residual_features(lm, TEXTS[:7], protocol="reference", batch_size=7).vectors,
    "trace": lambda lm, _: torch.from_numpy(trace(lm, [[3, 4, 5]] * 7, [0, 9, lm.n_neurons - 1], batch_size=7)),
    "continuation_losses": lambda lm, _: torch.from_numpy(continuation_losses(lm, written(lm), batch_size=7).nll),
    "relevance": lambda lm, _: torch.from_numpy(relevance(lm, written(lm), batch_size=7).nats),
    "mediation": lambda lm, other: mediation(lm, other, written(lm), batch_size=7),
    "attribution": lambda lm, other: attribution(lm, other, written(lm)[:3], written(lm)[3:], batch_size=7).effect,
    "perturbed_continuations": lambda lm, _: [
        one.ids
        for one in perturbed_continuations(
            lm,
            TEXTS[:7],
            Direction(random_direction(lm), "random", -1),
            Perturbation(iterations=2),
            new_tokens=3,
            batch_size=7,
        )
    ],
    "completion_logppl": lambda lm, _: completion_logppl(lm, tiny_pairs(), batch_size=7).preferred.mean,
    "generate, interchanged": interchanged,
}


def numbers(value):
    """The tensors of a value, or the value."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, tuple):
        return [tensor for one in value for tensor in numbers(one)]
    if isinstance(value, list | float):
        return value
    return [one for one in vars(value).values() if isinstance(one, torch.Tensor)]


@pytest.mark.parametrize("name", WORK)
def test_smaller_batches_give_the_same(lm, other, name):
    expected = numbers(WORK[name](lm, other))
    with at_most(lm, 2) as seen, pytest.warns(RuntimeWarning, match=r"out of memory with batches of \d; going on with"):
        found = numbers(WORK[name](lm, other))
    assert max(seen) > 2
    if isinstance(expected, list) and expected and isinstance(expected[0], torch.Tensor):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=1e-5)
    else:
        assert found == expected


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_every_way_to_say_it_is_understood(lm, error):
    expected = [one.ids for one in generate(lm, TEXTS[:6], new_tokens=3)]
    with at_most(lm, 1, error) as seen, pytest.warns(RuntimeWarning) as told:
        assert [one.ids for one in generate(lm, TEXTS[:6], new_tokens=3, batch_size=4)] == expected
    assert sorted(set(seen)) == [1, 2, 4]
    assert [re.findall(r"\d+", str(one.message)) for one in told] == [["4", "2", "2"], ["2", "1", "1"]]


def test_one_text_that_does_not_fit_is_told(lm):
    with (
        at_most(lm, 0),
        pytest.warns(RuntimeWarning),
        pytest.raises(
            DposcopeError, match=r"too small for a single text \(CUDA out of memory.*--dtype bfloat16"
        ) as told,
    ):
        generate(lm, TEXTS[:4], new_tokens=3, batch_size=2)
    assert "\n" not in str(told.value)


def test_other_errors_are_not_repeated(lm):
    with at_most(lm, 0, RuntimeError("shapes do not fit")) as seen, pytest.raises(RuntimeError, match="do not fit"):
        generate(lm, TEXTS[:4], new_tokens=3, batch_size=2)
    assert seen == [2]
    assert not is_memory(ValueError("out of memory"))


def test_within_a_recording_nothing_is_repeated(lm):
    """It would be counted twice; whoever records chooses the batch."""
    with recording(lm), at_most(lm, 2) as seen, pytest.raises(torch.OutOfMemoryError):
        generate(lm, TEXTS[:4], new_tokens=3, batch_size=4)
    assert seen == [4]


def test_a_batch_that_nobody_chose_becomes_one_of_sixteen(lm):
    texts = [TEXTS[row % 7] for row in range(40)]
    expected = [one.ids for one in generate(lm, texts, new_tokens=2, stop_at_end=False)]
    told = r"^out of memory; going on with batches of 16: --batch-size 16 saves the first try$"
    with at_most(lm, 16) as seen, pytest.warns(RuntimeWarning, match=told):
        assert [one.ids for one in generate(lm, texts, new_tokens=2, stop_at_end=False)] == expected
    assert seen == [40, 16, 16, 16, 16, 8, 8]
