"""A tuned model in the base's place, or as a second model, so that both are measured on the same items."""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dposcope.data.short import short_repr
from dposcope.errors import DposcopeError
from dposcope.model.hooks import Applied
from dposcope.model.language_model import LanguageModel
from dposcope.model.load import load


@dataclass(frozen=True)
class OtherWeights:
    """The weights of a checkpoint or an adapter, in the precision of the base."""

    source: str | Path
    """A folder, that of an adapter among them, a bundled name or a hub id."""

    __repr__ = short_repr

    @contextmanager
    def second_model(self, lm: LanguageModel) -> Generator[LanguageModel]:
        """The other model, as a second model with its own tokens and end-of-text tokens.

        Raises:
            DposcopeError: there is no such model, or it was not tuned from `lm`.
        """
        yield load(self.source, base=lm)

    @contextmanager
    def on(self, lm: LanguageModel) -> Generator[Applied]:
        """Inside the context, `lm` has the other weights and end-of-text tokens; then its own, in the same memory.

        Raises:
            DposcopeError: the other model was not tuned from `lm`, or has tokens or parameters that `lm` lacks.
        """
        other = load(self.source, base=lm)
        mine, theirs = dict(lm.model.named_parameters()), dict(other.model.named_parameters())
        differing = mine.keys() ^ theirs.keys() or {n for n in mine if mine[n].shape != theirs[n].shape}
        if differing or other.writer is not None:
            what = f"{sorted(differing)[0]} differs" if differing else other.notes[-1]
            raise DposcopeError(
                f"{self.source} cannot stand in the place of {lm.name} ({what}); "
                "run it beside its base instead, as dposcope.load(tuned, base=base)"
            )
        own = {name: parameter.data for name, parameter in mine.items()}
        ends = lm.model.generation_config
        try:
            lm.model.generation_config = other.model.generation_config
            for name, parameter in mine.items():
                parameter.data = theirs[name].data
            yield Applied()
        finally:
            lm.model.generation_config = ends
            for name, parameter in mine.items():
                parameter.data = own[name]
