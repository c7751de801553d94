"""Every value that has `save` and `load` comes back from its files as it was, to the bit."""

import dataclasses
import importlib
import inspect
import pkgutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import get_type_hints

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import dposcope
from dposcope.directions.direction import Direction, DirectionFacts
from dposcope.directions.features import Features
from dposcope.directions.refits import Refits
from dposcope.evaluation.trained_scorer import TrainedScorer
from dposcope.interventions.ablate import Ablation
from dposcope.interventions.edit import Edit
from dposcope.interventions.gains import Gains
from dposcope.interventions.paired.attribution import Attribution
from dposcope.interventions.paired.mediation import Mediation
from dposcope.jobs.dpo.training_record import TrainingRecord
from dposcope.neurons.activations import MeansFacts, NeuronMeans
from dposcope.neurons.contributions import Contributions
from dposcope.neurons.folds import FoldedMeans
from dposcope.neurons.sets import NeuronSet
from dposcope.neurons.subspace import Subspace
from helpers.labelled import LABELS, TEXTS
from helpers.training_facts import GAINS_TRAINING, TRAINING

numbers = st.floats(allow_nan=False, allow_infinity=False)
"""Signed zeros, the smallest and the largest among them."""
singles = st.floats(allow_nan=False, allow_infinity=False, width=32)


def read_of(facts):
    """Names of the facts that are read, each of its own type."""
    return {name for check in facts.__metadata__ for name in inspect.getclosurevars(check.func).nonlocals["kinds"]}


READ = read_of(DirectionFacts) | read_of(get_type_hints(MeansFacts, include_extras=True)["about"])
"""Hypothesis draws texts of the modules that are imported, these among them, and a value of another type is refused."""
facts = st.dictionaries(
    st.text(max_size=5).filter(lambda name: name not in READ),
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**60), 2**60) | numbers | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
        max_leaves=5,
    ),
    max_size=4,
)
"""What JSON can say."""
counts = st.integers(1, 2**40)
names = st.text(min_size=1, max_size=10)


def tensors(*shape, of=numbers, dtype=torch.float64):
    """Tensors of a shape."""
    size = int(np.prod(shape))
    return st.lists(of, min_size=size, max_size=size).map(lambda one: torch.tensor(one, dtype=dtype).reshape(shape))


@st.composite
def a_mask(draw):
    return draw(tensors(draw(st.integers(1, 3)), draw(st.integers(1, 4)), of=st.booleans(), dtype=torch.bool))


@st.composite
def a_direction(draw):
    vector = draw(tensors(draw(st.integers(1, 5)), of=st.floats(-1e100, 1e100)).filter(lambda one: one.norm() > 0))
    return Direction(vector, draw(names), draw(st.integers(-1, 40)), draw(facts))


@st.composite
def some_means(draw, blocks=None, width=None):
    blocks, width = blocks or draw(st.integers(1, 3)), width or draw(st.integers(1, 4))
    return NeuronMeans(
        draw(tensors(blocks, width)), draw(tensors(blocks, width)), count=draw(counts), about=draw(facts)
    )


@st.composite
def some_contributions(draw):
    shape = draw(st.integers(1, 2)), draw(st.integers(1, 3))
    tables = [draw(tensors(*shape)) for _ in range(4)]
    return Contributions(*tables, draw(some_means(*shape)), draw(some_means(*shape)), draw(facts))


@st.composite
def some_gains(draw, of):
    return Gains(draw(tensors(2, 3, of=singles, dtype=torch.float32)), of=of)


@st.composite
def an_ablation(draw):
    blocks = draw(st.none() | st.sets(st.integers(0, 9)).map(tuple))
    vector = draw(tensors(3, of=st.floats(-1e100, 1e100)).filter(lambda one: one.norm() > 0))
    return Ablation(vector, draw(numbers), blocks, draw(st.booleans()), draw(st.booleans()))


@st.composite
def an_edit(draw):
    return Edit(
        draw(st.none() | some_gains("neurons")),
        tuple(draw(st.lists(an_ablation(), max_size=3))),
        draw(facts),
        draw(st.none() | some_gains("heads")),
        draw(st.sampled_from(["nothing", "gains"])),
    )


@st.composite
def a_subspace(draw):
    return Subspace(draw(tensors(4, 2)), draw(tensors(3)), draw(a_direction()), draw(counts), draw(facts))


@st.composite
def a_record(draw):
    return replace(
        draw(st.sampled_from([TRAINING, GAINS_TRAINING])),
        model=draw(names),
        fingerprint=draw(names),
        steps=draw(counts),
        examples=draw(counts),
        best_step=draw(st.none() | counts),
        gains_changed=draw(st.none() | counts),
        curves=[
            {**one, "step": 1.0} for one in draw(st.lists(st.dictionaries(names, numbers, max_size=3), max_size=3))
        ],
        versions=draw(st.dictionaries(names, names, max_size=3)),
    )


VALUES = {
    Attribution: st.builds(Attribution, tensors(2, 3), numbers),
    Contributions: some_contributions(),
    Direction: a_direction(),
    Edit: an_edit(),
    Features: st.builds(Features, tensors(3, 2), numbers),
    FoldedMeans: st.builds(FoldedMeans, some_means(), st.lists(some_means(), min_size=2, max_size=2).map(tuple)),
    Mediation: st.builds(Mediation, tensors(2, 3), tensors(2, 3), tensors(2, 3)),
    NeuronMeans: some_means(),
    NeuronSet: a_mask().map(NeuronSet),
    Refits: st.builds(Refits, tensors(2, 3), tensors(0, 3)),
    Subspace: a_subspace(),
    TrainedScorer: st.integers(0, 3).map(lambda seed: TrainedScorer.fit(TEXTS, LABELS.astype(int), seed=seed)),
    TrainingRecord: a_record(),
}
"""Class → its values. A class that gains `save` and `load` is missing here until it has an entry."""
LOAD = {FoldedMeans: lambda stem: FoldedMeans.load(stem, 2)}
"""Where reading takes more than the path."""
DRAWN = {TrainedScorer: 3}
"""Values tried, where making one takes long."""


def saved_classes():
    """Every class of the package with a `save` and a `load` of its own, but for the one that only says so."""
    found = set()
    for module in pkgutil.walk_packages(dposcope.__path__, "dposcope."):
        if module.name == "dposcope.__main__":
            continue
        for _, one in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
            if one.__module__ == module.name and {"save", "load"} <= vars(one).keys():
                found.add(one)
    return {one for one in found if not getattr(one, "_is_protocol", False)}


def bytes_of(value):
    """A value as plain Python that is equal only where every bit is."""
    if isinstance(value, torch.Tensor):
        return str(value.dtype), tuple(value.shape), value.contiguous().view(torch.uint8).numpy().tobytes()
    if isinstance(value, np.ndarray):
        return str(value.dtype), value.shape, value.tobytes()
    if isinstance(value, float):
        return value.hex()
    if dataclasses.is_dataclass(value):
        return type(value), {
            field.name: bytes_of(getattr(value, field.name))
            for field in dataclasses.fields(value)
            if not callable(getattr(value, field.name)) and field.init
        }
    if isinstance(value, dict):
        return {key: bytes_of(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [bytes_of(one) for one in value]
    return value


def files_of(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def test_every_class_is_here():
    assert saved_classes() == set(VALUES)
    assert {"model", "seed"} < READ


@pytest.mark.parametrize("kind", VALUES, ids=lambda kind: kind.__name__)
def test_what_is_saved_is_loaded(kind):
    @settings(max_examples=DRAWN.get(kind, 20))
    @given(VALUES[kind])
    def check(value):
        with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
            value.save(Path(first) / "value")
            loaded = LOAD.get(kind, kind.load)(Path(first) / "value")
            assert bytes_of(loaded) == bytes_of(value)
            loaded.save(Path(second) / "value")
            assert files_of(second) == files_of(first)

    check()


def test_a_trained_scorer_gives_the_same_scores():
    made = TrainedScorer.fit(TEXTS, LABELS.astype(int), seed=1)
    with tempfile.TemporaryDirectory() as folder:
        made.save(Path(folder) / "judge")
        assert TrainedScorer.load(Path(folder) / "judge")(TEXTS).tolist() == made(TEXTS).tolist()


def test_a_changed_bit_would_be_seen():
    value = Direction(torch.tensor([1.0, 0.0]), "mine", 0, {"a": 0.0})
    other = replace(value, vector=torch.tensor([1.0, -0.0]))
    assert bytes_of(value) != bytes_of(other)
    assert bytes_of(value) != bytes_of(replace(value, about={"a": -0.0}))
