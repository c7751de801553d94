"""The default scorer, `profanity`: a linear bag of words from the package `alt-profanity-check`."""

import importlib
import importlib.metadata
import importlib.util
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import InconsistentVersionWarning

from dposcope.artefacts import file_digest, text_digest
from dposcope.errors import DposcopeError
from dposcope.evaluation.scorer import Scorer

BATCH = 4096
"""Texts at a time."""


def profanity_scorer() -> Scorer:
    """Probability of profanity.

    The package unpickles its weights when it is imported, so their digests are checked
    against the releases known here before any of its code runs.

    Raises:
        DposcopeError: the package is absent, of an unknown release, altered, or made for
            another scikit-learn than the installed one.
    """
    version = _checked_release()
    try:
        with warnings.catch_warnings():
            # Another scikit-learn may read the weights wrongly without an error.
            warnings.simplefilter("error", InconsistentVersionWarning)
            package = importlib.import_module("profanity_check.profanity_check")
    except InconsistentVersionWarning as warning:
        raise DposcopeError(
            f"the scorer profanity needs another scikit-learn ({warning.original_sklearn_version}, "
            f"not {warning.current_sklearn_version}); {_mend()}"
        ) from warning
    vectorizer, model = package.vectorizer, package.model

    def probabilities(texts: Sequence[str]) -> NDArray[np.float64]:
        return np.concatenate(
            [
                model.predict_proba(vectorizer.transform(texts[start : start + BATCH]))[:, 1]
                for start in range(0, len(texts), BATCH)
            ]
        )

    return Scorer(f"alt-profanity-check {version}", text_digest(*_RELEASES[version].values()), probabilities)


# Known releases of alt-profanity-check, with the SHA-256 of their files.
_RELEASES: Mapping[str, Mapping[str, str]] = {
    "1.9.1": {
        "model.joblib": "aeafc04849d4d93db4721cf30a86ebf22085595294b8a07d51918e7fa98f538b",
        "vectorizer.joblib": "19c5200dc6a41f026e0558e2f164f5fe8d8f58e502b46b37e4385037fcfa4831",
    },
}


def _mend(*, force: bool = False) -> str:
    newest = list(_RELEASES)[-1]
    return f"run: pip install {'--force-reinstall ' if force else ''}alt-profanity-check=={newest}"


def _checked_release() -> str:
    """The installed release's version, its files' digests checked without importing it."""
    spec = importlib.util.find_spec("profanity_check")
    if spec is None or spec.origin is None:
        raise DposcopeError(
            'the scorer profanity is not installed; run: pip install "dposcope[demo]", or name another scorer'
        )
    try:
        version = importlib.metadata.version("alt-profanity-check")
    except importlib.metadata.PackageNotFoundError as error:
        raise DposcopeError(
            f"the installed profanity_check is not from alt-profanity-check; {_mend(force=True)}"
        ) from error
    if version not in _RELEASES:
        raise DposcopeError(
            f"alt-profanity-check {version} is not a release that dposcope knows the weights of; {_mend()}"
        )
    for file_name, expected in _RELEASES[version].items():
        file = Path(spec.origin).parent / "data" / file_name
        if not file.is_file() or file_digest(file) != expected:
            raise DposcopeError(
                f"{file} is not the one of alt-profanity-check {version} and was not loaded; {_mend(force=True)}"
            )
    return version
