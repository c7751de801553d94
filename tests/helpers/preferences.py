"""Preference pairs that a tiny model can learn: civil endings against rude ones."""

import random
from pathlib import Path

from dposcope.pairs.pairs import Pair, Pairs, write_pairs
from helpers.families import CIVIL, RUDE, TEXTS

PAIRS = 26
WORDS = sorted({word.strip(".,?!") for text in TEXTS for word in text.split()})


def tiny_pairs(count: int = PAIRS, *, seed: int = 0) -> Pairs:
    """Pairs of very different lengths, so that batches are uneven."""
    draw = random.Random(seed)

    def some(low: int, high: int) -> str:
        return "".join(f" {draw.choice(WORDS)}" for _ in range(draw.randint(low, high)))

    return Pairs.of(
        Pair(
            f"{number}{some(1, 5)}",
            f" {draw.choice(CIVIL)}{some(0, 3)}",
            f" {draw.choice(RUDE)}{some(0, 3)}",
        )
        for number in range(count)
    )


def pairs_file(path: Path, **options) -> Path:
    """The same as a file of `dposcope pairs`."""
    write_pairs(path, tiny_pairs(**options))
    return path
