"""Another checkpoint of the same architecture in a model's place: how a tuned model is measured beside its base."""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dposcope.errors import DposcopeError
from dposcope.model.frames import Positions
from dposcope.model.language_model import LanguageModel
from dposcope.model.load import load
from dposcope.neurons.sites import Applied


@dataclass(frozen=True)
class OtherWeights:
    """The weights of a checkpoint, in the precision of the model that they stand in for."""

    source: str | Path
    """A folder, a bundled name or a hub id."""

    def at(self, positions: Positions | str) -> "OtherWeights":
        """Only `all`: weights act everywhere."""
        if Positions(positions) is not Positions.ALL:
            raise DposcopeError("another model's weights act at all positions; leave positions out")
        return self

    @contextmanager
    def on(self, lm: LanguageModel) -> Generator[Applied]:
        """Run `lm` with the other weights inside; its own are back afterwards, the same memory as before.

        Raises:
            DposcopeError: the other model has parameters of other names or shapes.
        """
        other = load(self.source, dtype=lm.dtype, device=lm.device)
        mine, theirs = dict(lm.model.named_parameters()), dict(other.model.named_parameters())
        differing = mine.keys() ^ theirs.keys() or {n for n in mine if mine[n].shape != theirs[n].shape}
        if differing:
            raise DposcopeError(
                f"{self.source} is not of the architecture of {lm.name} ({sorted(differing)[0]} differs); "
                "compare a model with what was tuned from it"
            )
        kept = {name: parameter.data for name, parameter in mine.items()}
        try:
            for name, parameter in mine.items():
                parameter.data = theirs[name].data
            yield Applied()
        finally:
            for name, parameter in mine.items():
                parameter.data = kept[name]
