"""Checks and provenance of every direction that is made from labelled texts."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from dposcope.data.comments import labels_of
from dposcope.data.texts import check_texts
from dposcope.errors import DposcopeError
from dposcope.model.checks.given import check_lm
from dposcope.model.language_model import LanguageModel


def check_classes(texts: Sequence[str], labels: Sequence[bool] | np.ndarray) -> np.ndarray:
    """Labels as a bool array, `[texts]`.

    Raises:
        DposcopeError: lengths differ, one class is missing, there is one text instead of a list, or a label is neither
            True nor False, 1 nor 0.
    """
    check_texts("texts", texts)
    positive = labels_of(texts, labels)
    if positive.all() or not positive.any():
        raise DposcopeError(
            f"the texts are {int(positive.sum())} with and {int((~positive).sum())} without the concept; "
            "give texts of both classes"
        )
    return positive


def provenance(lm: LanguageModel, positive: np.ndarray, protocol: str) -> dict[str, Any]:
    """Model, precision, protocol and class sizes."""
    check_lm(lm)
    return {
        "model": lm.name,
        "fingerprint": lm.fingerprint,
        "dtype": str(lm.dtype).removeprefix("torch."),
        "protocol": protocol,
        "texts_with": int(positive.sum()),
        "texts_without": int((~positive).sum()),
    }
