"""Labelled texts and their split."""

import numpy as np
from sklearn.model_selection import train_test_split

from helpers.families import CIVIL, RUDE

_ENDS = ["the river", "many words", "by the sea", "said the cat", "all day"]


# Some of either kind hold the other's words, so that no probe is perfect.
TEXTS = (
    [f"{rude} {end}" for rude in RUDE for end in _ENDS]
    + [f"{civil} {end}" for civil in CIVIL for end in _ENDS]
    + ["the stupid river", "a dumb cat", "idiot rain", "kind man", "many fool", "quiet thing"]
    + [f"{civil}, {end}" for civil in CIVIL[:4] for end in _ENDS]
)


LABELS = np.array([True] * 30 + [False] * 30 + [False] * 3 + [True] * 3 + [False] * 20)


def split(seed: int = 0, share: float = 0.1):
    return train_test_split(np.arange(len(TEXTS)), test_size=share, stratify=LABELS, random_state=seed)
