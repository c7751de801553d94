"""Load a scorer by its name, or make one from a function."""

import importlib
import inspect
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, cast

import torch
from numpy.typing import ArrayLike

from dposcope.artefacts import file_digest, text_digest
from dposcope.data.named import WORDS
from dposcope.data.trust import FUNCTION
from dposcope.errors import DposcopeError, first_line
from dposcope.evaluation.classifier import classifier_scorer
from dposcope.evaluation.neural import neural_scorer
from dposcope.evaluation.perspective.scorer import perspective_scorer
from dposcope.evaluation.profanity import profanity_scorer
from dposcope.evaluation.scorer import Scorer, ScoreTexts
from dposcope.evaluation.sentiment import sentiment_scorer
from dposcope.evaluation.trained_scorer import TrainedScorer, find_trained
from dposcope.evaluation.word_scorer import load_word_scorer
from dposcope.files import expanded
from dposcope.processes.shared import once
from dposcope.terminal import beside_results

_NAMED: Final = frozenset({"profanity", "neural", "perspective", "vader"})


def load_scorer(
    spec: str | ScoreTexts,
    *,
    label: str | None = None,
    device: str | torch.device | None = None,
) -> Scorer:
    """The scorer that a setting or an option names.

    Args:
        spec: "profanity", the default, a bag of words; "neural" for a small LSTM that reads
            words in order; "perspective" for the Perspective API, which sends texts to
            Google; "vader" for negative sentiment; "words:FILE.txt" for a list of words;
            the folder or file of a saved `TrainedScorer`; "module:function" for your own,
            from an installed module or one in the working folder, or the function itself,
            see `function_scorer`; anything else is a classifier's folder or hub id.
        label: of a classifier, see `classifier_scorer`.
        device: of a classifier; the others run on the CPU.

    Raises:
        DposcopeError: nothing of that name can be loaded, or a label is given to a scorer
            that has none.
    """
    if isinstance(spec, Scorer):
        return spec
    if not isinstance(spec, str):
        if not callable(spec):
            raise DposcopeError(f"a {type(spec).__name__} is no scorer; give a name, a folder or a function")
        return function_scorer(spec, str(spec.__qualname__) if inspect.isroutine(spec) else type(spec).__name__)
    path = expanded(spec)
    words = spec.removeprefix(WORDS) if spec.startswith(WORDS) and spec.endswith(".txt") else None
    is_function = FUNCTION.fullmatch(spec) is not None
    stem = find_trained(path)
    if label is not None and (spec in _NAMED or words is not None or is_function or stem is not None):
        raise DposcopeError(f"scorer {spec} has no labels to choose from; leave the label out")
    if spec == "profanity":
        return profanity_scorer()
    if spec == "neural":
        return neural_scorer()
    if spec == "perspective":
        return perspective_scorer()
    if spec == "vader":
        return sentiment_scorer()
    if words is not None:
        return load_word_scorer(words)
    if is_function:
        return function_scorer(_imported_function(spec), spec)
    if stem is not None:
        return TrainedScorer.load(stem)
    return classifier_scorer(path if path.is_dir() else spec, label=label, device=device)


def function_scorer(function: ScoreTexts, name: str) -> Scorer:
    """Make a scorer from a function.

    The digest is of the file that defines the function, or of the name if there is no file, as in a notebook.

    Args:
        function: takes n different texts, none of them blank, and returns n numbers in [0, 1].
        name: the scorer's name in reports.

    Raises:
        DposcopeError: it is no function.
    """
    if not callable(function):
        raise DposcopeError(f"a {type(function).__name__} is no function; give one that scores a list of texts")
    try:
        source = inspect.getsourcefile(inspect.unwrap(cast(Callable[..., Any], function)))
    except TypeError:  # built in, or an object that is called
        source = None
    digest = text_digest(name) if source is None or not Path(source).is_file() else file_digest(source)

    def score(texts: Sequence[str]) -> ArrayLike:
        with beside_results():
            return function(texts)

    # Anybody's function may give a text another score the next time, so that processes would go on differently.
    return Scorer(name, digest, lambda texts: once(lambda: score(texts)))


def _imported_function(spec: str) -> ScoreTexts:
    module_name, function_name = spec.split(":")
    # The import path of a command does not contain the working folder, where the user's module usually is.
    here = str(Path.cwd())
    added = here not in sys.path
    if added:
        sys.path.append(here)
    try:
        with beside_results():
            module = importlib.import_module(module_name)
    except ImportError as error:
        raise DposcopeError(
            f"cannot import {module_name} ({error}); run where {module_name} can be imported"
        ) from error
    except (Exception, SystemExit) as error:  # a module may do anything
        raise DposcopeError(
            f"{module_name} failed while it was imported ({type(error).__name__}: {first_line(error)}); mend it"
        ) from error
    finally:
        if added:
            sys.path.remove(here)
    function = vars(module).get(function_name)
    if not callable(function):
        raise DposcopeError(f"{module_name} has no function {function_name}; name one that takes texts")
    return cast(ScoreTexts, function)
