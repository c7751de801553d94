"""Checks and provenance of every direction that is made from labelled texts."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from dposcope.data.texts import check_texts
from dposcope.errors import DposcopeError
from dposcope.foreign_text import visible
from dposcope.model.language_model import LanguageModel


def check_classes(texts: Sequence[str], labels: Sequence[bool] | np.ndarray) -> np.ndarray:
    """Labels as a bool array, `[texts]`.

    Raises:
        DposcopeError: lengths differ, one class is missing, there is one text instead of a list, or a label is neither
            True nor False, 1 nor 0.
    """
    check_texts("texts", texts)
    given = np.asarray(labels)
    strange = [] if given.dtype == bool else [label for label in given.ravel().tolist() if label not in (0, 1)]
    if strange:
        label = visible(repr(strange[0]))[:32]
        raise DposcopeError(f"a label is {label}, neither True nor False; give one of them for each text, or 1 or 0")
    positive = given.astype(bool)
    if positive.shape != (len(texts),):
        raise DposcopeError(f"{len(texts)} texts but labels of shape {list(positive.shape)}; give one label per text")
    if positive.all() or not positive.any():
        raise DposcopeError(
            f"the texts are {int(positive.sum())} with and {int((~positive).sum())} without the concept; "
            "give texts of both classes"
        )
    return positive


def provenance(lm: LanguageModel, positive: np.ndarray, protocol: str) -> dict[str, Any]:
    """Model, precision, protocol and class sizes."""
    return {
        "model": lm.name,
        "fingerprint": lm.fingerprint,
        "dtype": str(lm.dtype).removeprefix("torch."),
        "protocol": protocol,
        "texts_with": int(positive.sum()),
        "texts_without": int((~positive).sum()),
    }
