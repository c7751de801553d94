"""Whatever is done to a model inside contexts, in any order and with any exception: outside it is the plain model."""

import importlib
import inspect
import pkgutil
from contextlib import nullcontext, suppress

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import dposcope.interventions
from dposcope.errors import DposcopeError
from dposcope.interventions.ablate import Ablation
from dposcope.interventions.assign import Assign
from dposcope.interventions.edit import Edit
from dposcope.interventions.edited import EditedModel, edited
from dposcope.interventions.fold import folded
from dposcope.interventions.gains import Gains
from dposcope.interventions.paired.interchange import HeldModel, Interchange, InterchangeWith, Parts
from dposcope.interventions.steer import Steer
from dposcope.interventions.weights import OtherWeights
from dposcope.model.frames import Positions
from dposcope.model.hooks import hooked, is_hooked, neuron_site
from dposcope.neurons.activations import recording
from dposcope.neurons.sets import NeuronSet
from helpers.changes import tuned_copy
from helpers.edits import heads_of
from helpers.families import bits, random_direction, random_gains, random_head_gains, tiny

FAMILIES = ("gpt2", "llama")
IDS = torch.tensor([[2, 40, 41, 55, 60]])


class Stop(Exception):
    """What a user's code raises."""


def fails(_tensor, _frame):
    raise Stop


def neurons_of(lm):
    return NeuronSet(random_gains(lm) > 1.5)


KINDS = {
    Gains: [
        lambda lm, _: Gains(random_gains(lm)).on(lm),
        lambda lm, _: Gains(random_gains(lm), Positions.LAST).on(lm),
        lambda lm, _: Gains(random_head_gains(lm), of="heads").on(lm),
    ],
    Ablation: [lambda lm, _: Ablation(random_direction(lm), 0.7, blocks=(0, 2)).on(lm)],
    Assign: [lambda lm, _: Assign(random_gains(lm), neurons_of(lm)).on(lm)],
    Edit: [lambda lm, _: heads_of(lm).on(lm)],
    Steer: [
        lambda lm, _: Steer(random_direction(lm), 2.0).on(lm),
        lambda lm, _: Steer(random_direction(lm), 2.0, block=1, site="mlp").on(lm),
    ],
    EditedModel: [lambda lm, _: EditedModel(heads_of(lm)).on(lm)],
    Interchange: [
        lambda lm, other: Interchange(other, Parts(neurons_of(lm), mlps=frozenset({1}))).on(lm),
        lambda lm, other: Interchange(other, Parts(residuals=frozenset({0}))).on(lm),
    ],
    InterchangeWith: [lambda lm, other: InterchangeWith(Held(other), lambda lm: Parts.blocks([0])).on(lm)],
}
"""Every intervention that works by hooks, some in several ways. They may be left in any order."""
IN_WEIGHTS = {
    OtherWeights: lambda lm, other: OtherWeights(other.name).on(lm),
    folded: lambda lm, _: folded(lm, heads_of(lm)),
}
"""Those that change weights inside: what was begun inside them ends inside them."""
BESIDE = {
    "recording": lambda lm, _: recording(lm),
    "a hook that raises": lambda lm, _: hooked(lm, [(neuron_site(lm, 1), fails)]),
    "nothing": lambda _lm, _: nullcontext(),
}
"""Other contexts around a model."""

HOOKS = [(name, make) for name, some in KINDS.items() for make in some] + list(BESIDE.items())
EVERY = HOOKS + list(IN_WEIGHTS.items())


class Held:
    """A second model that is there already."""

    def __init__(self, other):
        self.other = other

    def second_model(self, _lm):
        return nullcontext(self.other)


@pytest.fixture(scope="module")
def models():
    """Family → a model, and one tuned from it, which `OtherWeights` need not read from a file each time."""
    made = {family: (tiny(family), tuned_copy(tiny(family))) for family in FAMILIES}
    by_name = {other.name: other for _, other in made.values()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dposcope.interventions.weights.load", lambda source, **_: by_name[source])
        yield made


def handles(model):
    """All that is registered on any module: hooks of each kind, and replaced `forward` methods."""
    kinds = [
        name
        for name, value in vars(torch.nn.Linear(1, 1)).items()
        if "hooks" in name and hasattr(value, "items") and "state_dict" not in name
    ]
    assert {"_forward_hooks", "_forward_pre_hooks", "_backward_hooks"} <= set(kinds)
    return [
        (module_name, kind)
        for module_name, module in model.named_modules()
        for kind in (*kinds, "forward")
        if (kind in vars(module) if kind == "forward" else getattr(module, kind))
    ]


@torch.no_grad()
def plain(lm):
    return lm.model(input_ids=IDS, use_cache=False).logits


def state(lm):
    return (
        bits(lm.model),
        [(p.requires_grad, p.data_ptr()) for p in lm.model.parameters()],
        lm.model.training,
        id(lm.model.generation_config),
        handles(lm.model),
        is_hooked(lm),
    )


def leave(context, error):
    """End a context, by an exception or without; one that nothing ran in complains."""
    with suppress(*((Stop,) if error else (DposcopeError,))):
        context.__exit__(*((Stop, error, None) if error else (None, None, None)))


def test_every_intervention_is_among_them():
    found = set()
    for module in pkgutil.walk_packages(dposcope.interventions.__path__, "dposcope.interventions."):
        for _, one in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
            if one.__module__ == module.name and "on" in vars(one):
                found.add(one)
    assert found == {*KINDS, *(one for one in IN_WEIGHTS if inspect.isclass(one))}
    assert HeldModel not in found  # which gives a model and intervenes in none


@settings(max_examples=60)
@given(
    family=st.sampled_from(FAMILIES),
    chosen=st.lists(st.tuples(st.integers(0, len(EVERY) - 1), st.booleans()), min_size=1, max_size=4),
    error=st.one_of(st.none(), st.integers(0, 4)),
)
def test_nested_contexts_leave_nothing(models, family, chosen, error):
    """Entered one in the other, run or not at each depth; an exception begins at one depth, or none does."""
    lm, other = models[family]
    before, logits, theirs = state(lm), plain(lm), state(other)

    def inside(depth):
        if depth == len(chosen):
            if error == depth:
                raise Stop
            return
        number, run = chosen[depth]
        with EVERY[number][1](lm, other):
            if run:
                plain(lm)
            inside(depth + 1)
            if error == depth:
                raise Stop

    with suppress(Stop, DposcopeError):
        inside(0)
    assert state(lm) == before
    assert state(other) == theirs
    assert torch.equal(plain(lm), logits)


@settings(max_examples=60)
@given(
    family=st.sampled_from(FAMILIES),
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("enter"), st.integers(0, len(HOOKS) - 1)),
            st.tuples(st.just("leave"), st.integers(0, 4)),
            st.tuples(st.just("fail"), st.integers(0, 4)),
            st.tuples(st.just("run"), st.just(0)),
        ),
        min_size=2,
        max_size=9,
    ),
    rest=st.randoms(use_true_random=False),
)
def test_hooks_left_in_any_order_leave_nothing(models, family, steps, rest):
    """Generators and tasks end their contexts in another order than they began them in."""
    lm, other = models[family]
    before, logits, theirs = state(lm), plain(lm), state(other)
    live = []
    for what, number in steps:
        if what == "enter":
            context = HOOKS[number][1](lm, other)
            context.__enter__()
            live.append(context)
        elif what == "run":
            with suppress(Stop):
                plain(lm)
        elif live:
            leave(live.pop(number % len(live)), Stop() if what == "fail" else None)
    rest.shuffle(live)
    for context in live:
        leave(context, None)
    assert state(lm) == before
    assert state(other) == theirs
    assert torch.equal(plain(lm), logits)


@settings(max_examples=15)
@given(family=st.sampled_from(FAMILIES), run=st.booleans(), error=st.booleans())
def test_an_edited_second_model_leaves_the_first_alone(models, family, run, error):
    lm, _ = models[family]
    before, logits = state(lm), plain(lm)
    with suppress(Stop, DposcopeError), edited(lm, heads_of(lm)) as second:
        if run:
            assert not torch.equal(plain(second), logits)
        if error:
            raise Stop
    assert state(lm) == before
    assert torch.equal(plain(lm), logits)
