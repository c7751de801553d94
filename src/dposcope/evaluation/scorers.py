"""How much of the concept each text has: several judges behind one small protocol.

A scorer takes texts and gives one number in [0, 1] for each. Every one of them scores a
blank text 0 without looking: nothing was said, so nothing rude was, while a classifier
would answer with its prior (0.04 for the embedded one). `share_empty` in `repetition`
tells how often that happened.
"""

import importlib
import importlib.metadata
import importlib.util
import inspect
import re
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from safetensors import SafetensorError
from sklearn.exceptions import InconsistentVersionWarning
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from transformers.modeling_utils import PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from dposcope.artefacts import file_digest, tensor_fingerprint
from dposcope.data.named import WORDS
from dposcope.errors import DposcopeError, plural
from dposcope.evaluation.sentiment import NegativeSentimentScorer
from dposcope.evaluation.trained_scorer import TrainedScorer, find_trained, require_list, score_spoken
from dposcope.evaluation.word_scorer import WordScorer


class Scorer(Protocol):
    """A judge of texts."""

    @property
    def name(self) -> str:
        """What reports call it: enough to tell which judge gave a number."""
        ...

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Scores [n] in [0, 1], in the order of the texts; 0 for a blank one."""
        ...


def scorer_digest(scorer: Scorer) -> str | None:
    """What tells a scorer from another of the same name; None where its name says all.

    A classifier's name is its folder's, a function's is where it is found: both stay where the inside changes.
    """
    return getattr(scorer, "digest", None)


class ProfanityScorer:
    """The embedded default: a linear bag of words from the package `alt-profanity-check`.

    The package unpickles its weights when it is imported, so their digests are checked
    against the releases known here before any of its code runs.

    Raises:
        DposcopeError: the package is absent, of an unknown release, altered, or made for
            another scikit-learn than the installed one.
    """

    def __init__(self) -> None:
        """Check the package's files, then load them."""
        version = _checked_profanity_release()
        self.name = f"alt-profanity-check {version}"
        try:
            with warnings.catch_warnings():
                # Weights that another scikit-learn reads may be read wrongly, without a sign.
                warnings.simplefilter("error", InconsistentVersionWarning)
                package = importlib.import_module("profanity_check.profanity_check")
        except InconsistentVersionWarning as warning:
            raise DposcopeError(
                f"the embedded scorer needs another scikit-learn ({warning.original_sklearn_version}, "
                f"not {warning.current_sklearn_version}); {_profanity_mend()}"
            ) from warning
        self._vectorizer = package.vectorizer
        self._model = package.model

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Probability of profanity per text, [n]."""
        return score_spoken(texts, self._probabilities)

    def _probabilities(self, texts: Sequence[str]) -> NDArray[np.float64]:
        probabilities = [
            self._model.predict_proba(self._vectorizer.transform(texts[start : start + 4096]))[:, 1]
            for start in range(0, len(texts), 4096)
        ]
        return np.concatenate(probabilities)


class ClassifierScorer:
    """One label of any Hugging Face sequence classifier, such as the paper's `unitary/toxic-bert`.

    The probability is a sigmoid where the labels are independent (`problem_type` is
    multi_label_classification, or there is one label) and a softmax otherwise. Only
    safetensors weights are read, and no code that a checkpoint brings is run.
    """

    def __init__(
        self,
        id_or_path: str | Path,
        *,
        label: str | None = None,
        batch_size: int = 32,
        device: str | torch.device | None = None,
        max_length: int = 512,
    ) -> None:
        """Load the classifier and choose its label.

        Args:
            id_or_path: a folder, read without the network, or a hub id.
            label: the label whose probability is the score. By default the only label, else
                "toxic", else "toxicity", else LABEL_1 of the unnamed LABEL_0 and LABEL_1.
            batch_size: texts per forward.
            device: where the classifier stays, whatever the judged model uses; by default
                the first CUDA device, else the CPU.
            max_length: tokens after which a text is cut, at most what the classifier takes.

        Raises:
            DposcopeError: it cannot be loaded, has no trained head, is a regression, or the
                label is not among its labels.
        """
        source = str(id_or_path)
        self._model, self._tokenizer = _load_classifier(source)
        config = self._model.config
        names = cast(dict[int, str], config.id2label)
        labels = [names[index] for index in range(len(names))]
        if config.problem_type == "regression":
            raise DposcopeError(f"{source} is a regression, whose numbers are no probabilities; choose a classifier")
        self._index = _label_index(labels, label, source)
        self._sigmoid = config.problem_type == "multi_label_classification" or len(labels) == 1
        self.name = f"{Path(source).name if Path(source).is_dir() else source}:{labels[self._index]}"
        self._device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self._model.to(self._device)  # pyright: ignore[reportArgumentType]  (its stub binds a device to self)
        # A text's last token is found, and its positions counted, from the left.
        self._tokenizer.padding_side = "right"
        positions = cast(int, config.to_dict().get("max_position_embeddings", max_length))
        self._max_length = min(max_length, self._tokenizer.model_max_length, positions)
        # Without a padding token, decoders can only be asked one text at a time.
        padded = self._tokenizer.pad_token_id is not None and config.pad_token_id is not None
        self._batch_size = batch_size if padded else 1

    @cached_property
    def digest(self) -> str:
        """Of its weights."""
        return tensor_fingerprint(self._model.state_dict())

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Probability of the label per text, [n]."""
        return score_spoken(texts, self._probabilities)

    @torch.inference_mode()
    def _probabilities(self, texts: Sequence[str]) -> NDArray[np.float64]:
        # Neighbours in length share a batch, so little is spent on padding.
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
        scores = np.empty(len(texts))
        for start in range(0, len(order), self._batch_size):
            chosen = order[start : start + self._batch_size]
            encoded = self._tokenizer(
                [texts[index] for index in chosen],
                padding=self._batch_size > 1,
                truncation=True,
                max_length=self._max_length,
                return_tensors="pt",
            ).to(self._device)
            logits = self._model(**encoded).logits.double()
            probabilities = logits.sigmoid() if self._sigmoid else logits.softmax(dim=-1)
            scores[chosen] = probabilities[:, self._index].cpu().numpy()
        return scores


class CallableScorer:
    """A plain function from texts to numbers as a scorer; its answers are checked."""

    def __init__(self, function: Callable[[Sequence[str]], ArrayLike], name: str) -> None:
        """`function` takes n texts, never a blank one, and gives n numbers in [0, 1]."""
        self.name = name
        self._function = function

    @cached_property
    def digest(self) -> str | None:
        """Of the file that defines the function; None where there is none, as in a notebook."""
        try:
            source = inspect.getsourcefile(inspect.unwrap(cast(Callable[..., Any], self._function)))
        except TypeError:  # built in, or an object that is called
            return None
        return file_digest(source) if source is not None and Path(source).is_file() else None

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """The function's numbers as float64 [n].

        Raises:
            DposcopeError: not one number per text, or one outside [0, 1].
        """
        return score_spoken(texts, self._checked)

    def _checked(self, texts: Sequence[str]) -> NDArray[np.float64]:
        scores = np.asarray(self._function(texts), dtype=np.float64)
        if scores.shape != (len(texts),):
            raise DposcopeError(
                f"scorer {self.name} gave shape {scores.shape} for {plural(len(texts), 'text')}; "
                "return one number per text"
            )
        # Written so that NaN fails too.
        if not ((scores >= 0) & (scores <= 1)).all():
            raise DposcopeError(f"scorer {self.name} gave a score outside [0, 1]; rescale its answers")
        return scores


class CachedScorer:
    """A scorer that is asked about each different text once, for as long as this object lives.

    Greedy continuations of nearby edits agree on many prompts, so a search asks the same again.
    """

    def __init__(self, scorer: Scorer) -> None:
        """Remember the answers of `scorer`, under its own name."""
        self._scorer = scorer
        self._known: dict[str, float] = {}

    @property
    def name(self) -> str:
        """The name of the scorer behind."""
        return self._scorer.name

    @property
    def digest(self) -> str | None:
        """That of the scorer behind."""
        return scorer_digest(self._scorer)

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Scores [n] in the order of the texts."""
        require_list(texts)
        unseen = [text for text in dict.fromkeys(texts) if text not in self._known]
        if unseen:
            self._known.update(zip(unseen, self._scorer(unseen).tolist(), strict=True))
        return np.array([self._known[text] for text in texts], dtype=np.float64)


def load_scorer(
    spec: str | Callable[[Sequence[str]], ArrayLike],
    *,
    label: str | None = None,
    device: str | torch.device | None = None,
) -> Scorer:
    """The scorer that a setting or an option names.

    Args:
        spec: "profanity" for the embedded one; "vader" for negative sentiment; "words:FILE.txt"
            for a list of words; the folder or file of a saved `TrainedScorer`;
            "module:function" for one's own, looked for beside installed modules in the
            working folder, or the function itself, see `CallableScorer`; anything else is a
            classifier's folder or hub id.
        label: of a classifier, see `ClassifierScorer`.
        device: of a classifier; the others run on the CPU.

    Raises:
        DposcopeError: nothing of that name can be loaded, or a label is given to a scorer
            that has none.
    """
    if not isinstance(spec, str):
        # A scorer has a name of its own, a function that of its definition.
        name = getattr(spec, "name", None) or getattr(spec, "__qualname__", type(spec).__name__)
        return CallableScorer(spec, str(name))
    path = Path(spec).expanduser()
    words = spec.removeprefix(WORDS) if spec.startswith(WORDS) and spec.endswith(".txt") else None
    is_function = re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", spec) is not None
    stem = find_trained(path)
    if label is not None and (spec in ("profanity", "vader") or words is not None or is_function or stem is not None):
        raise DposcopeError(f"scorer {spec} has no labels to choose from; leave the label out")
    if spec == "profanity":
        return ProfanityScorer()
    if spec == "vader":
        return NegativeSentimentScorer()
    if words is not None:
        return WordScorer.load(words)
    if is_function:
        return CallableScorer(_imported_function(spec), spec)
    if stem is not None:
        return TrainedScorer.load(stem)
    return ClassifierScorer(path if path.is_dir() else spec, label=label, device=device)


# Releases of alt-profanity-check whose weights were looked at, by their files' SHA-256.
_PROFANITY_RELEASES: Mapping[str, Mapping[str, str]] = {
    "1.9.1": {
        "model.joblib": "aeafc04849d4d93db4721cf30a86ebf22085595294b8a07d51918e7fa98f538b",
        "vectorizer.joblib": "19c5200dc6a41f026e0558e2f164f5fe8d8f58e502b46b37e4385037fcfa4831",
    },
}


def _profanity_mend(*, force: bool = False) -> str:
    newest = list(_PROFANITY_RELEASES)[-1]
    return f"run: pip install {'--force-reinstall ' if force else ''}alt-profanity-check=={newest}"


def _checked_profanity_release() -> str:
    """The installed release's version, its files' digests checked without importing it."""
    spec = importlib.util.find_spec("profanity_check")
    if spec is None or spec.origin is None:
        raise DposcopeError(
            'the embedded scorer is not installed; run: pip install "dposcope[demo]", or name another scorer'
        )
    try:
        version = importlib.metadata.version("alt-profanity-check")
    except importlib.metadata.PackageNotFoundError as error:
        raise DposcopeError(
            f"the installed profanity_check is not from alt-profanity-check; {_profanity_mend(force=True)}"
        ) from error
    if version not in _PROFANITY_RELEASES:
        raise DposcopeError(
            f"alt-profanity-check {version} is not a release that dposcope knows the weights of; {_profanity_mend()}"
        )
    for file_name, expected in _PROFANITY_RELEASES[version].items():
        file = Path(spec.origin).parent / "data" / file_name
        if not file.is_file() or file_digest(file) != expected:
            raise DposcopeError(
                f"{file} is not the one of alt-profanity-check {version} and was not loaded; "
                f"{_profanity_mend(force=True)}"
            )
    return version


def _load_classifier(source: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    options = {"local_files_only": Path(source).is_dir(), "trust_remote_code": False}
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **options)
        model, info = cast(
            tuple[PreTrainedModel, dict[str, Any]],
            AutoModelForSequenceClassification.from_pretrained(
                source, use_safetensors=True, output_loading_info=True, **options
            ),
        )
    except (OSError, ValueError, RuntimeError, ImportError, SafetensorError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise DposcopeError(
            f"cannot load the classifier {source} ({reason}); name a folder or a hub id that holds a "
            "sequence classifier with its tokenizer and safetensors weights"
        ) from error
    if info["missing_keys"]:
        # A language model loads too, and its random head would score at random.
        missing = ", ".join(sorted(info["missing_keys"])[:3])
        raise DposcopeError(f"{source} lacks trained weights for {missing}; name a trained sequence classifier")
    return model.eval(), cast(PreTrainedTokenizerBase, tokenizer)


def _label_index(labels: Sequence[str], wanted: str | None, source: str) -> int:
    listed = ", ".join(labels)
    folded = [label.casefold() for label in labels]
    if wanted is not None:
        if wanted in labels:
            return labels.index(wanted)
        if folded.count(wanted.casefold()) == 1:
            return folded.index(wanted.casefold())
        raise DposcopeError(f"{source} has no label {wanted!r}; choose one of: {listed}")
    if len(labels) == 1:
        return 0
    for usual in ("toxic", "toxicity"):
        if usual in folded:
            return folded.index(usual)
    if folded == ["label_0", "label_1"]:
        return 1
    raise DposcopeError(f"which label of {source} is the score? choose one of: {listed}")


def _imported_function(spec: str) -> Callable[[Sequence[str]], ArrayLike]:
    module_name, function_name = spec.split(":")
    # A command's import path does not hold the working folder, where one's own scorer lies.
    here = str(Path.cwd())
    added = here not in sys.path
    if added:
        sys.path.append(here)
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise DposcopeError(
            f"cannot import {module_name} ({error}); run where {module_name} can be imported"
        ) from error
    finally:
        if added:
            sys.path.remove(here)
    function = vars(module).get(function_name)
    if not callable(function):
        raise DposcopeError(f"{module_name} has no function {function_name}; name one that takes texts")
    return cast(Callable[[Sequence[str]], ArrayLike], function)
