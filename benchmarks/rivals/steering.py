"""Steering: x − α r at the end of one block or of all (Panickssery et al. 2024 add such vectors; paper, appendix D).

r is the block's own difference of means, as long as the stream is there, so that α means the same in every block.
"""

from contextlib import AbstractContextManager
from dataclasses import dataclass

from benchmarks.rivals.features import BlockFeatures
from benchmarks.rivals.lines import Line
from torch import Tensor

from dposcope.interventions.steer import Steer
from dposcope.model.hooks import Applied, hooked
from dposcope.model.language_model import LanguageModel


@dataclass(frozen=True, eq=False)
class SteerBlocks:
    """Several steerings at once, each in a block of its own."""

    parts: tuple[Steer, ...]

    def on(self, lm: LanguageModel) -> AbstractContextManager[Applied]:
        """Apply inside a context; the model itself stays as it is."""
        return hooked(lm, [change for part in self.parts for change in part.changes(lm)])


def vector(features: BlockFeatures, block: int) -> Tensor:
    """The block's difference of means at the stream's mean norm there, `[d]`."""
    difference = features.difference(block)
    return difference / difference.norm() * features.norms[block]


def one_block(features: BlockFeatures) -> tuple[Line, ...]:
    """A line for each of four blocks, from a quarter of the depth to the last."""
    last = len(features.norms) - 1
    blocks = sorted({last // 4, last // 2, 3 * last // 4, last})

    def line(block: int) -> Line:
        found = vector(features, block)
        return Line(f"block {block}", lambda a: Steer(found, a, block), symbol="α", start=0.2, most=4.0)

    return tuple(line(block) for block in blocks)


def all_blocks(features: BlockFeatures) -> tuple[Line, ...]:
    """One line: every block at once, with the same α."""
    vectors = [vector(features, block) for block in range(len(features.norms))]

    def at(alpha: float) -> SteerBlocks:
        return SteerBlocks(tuple(Steer(found, alpha, block) for block, found in enumerate(vectors)))

    return (Line("", at, symbol="α", start=0.02, most=2.0),)
