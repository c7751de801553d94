"""The paper's seed words for the token contrast (section 6.2, Table 7)."""

import json
from dataclasses import dataclass
from importlib import resources

from dposcope.data.masking import read_encoded
from dposcope.data.short import short_repr


@dataclass(frozen=True)
class Seeds:
    """Words whose token embeddings are contrasted, without leading spaces."""

    toxic: tuple[str, ...]
    non_toxic: tuple[str, ...]

    __repr__ = short_repr


def load_seeds() -> Seeds:
    """The five toxic and five non-toxic words of Table 7."""
    words = json.loads(resources.files("dposcope.data").joinpath("seeds.json").read_text(encoding="utf-8"))
    return Seeds(toxic=tuple(map(read_encoded, words["toxic"])), non_toxic=tuple(words["non_toxic"]))
