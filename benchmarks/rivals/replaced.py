"""Interventions that live in the weights: other parameters inside a context, the model's own ones after it."""

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from dposcope.interventions.fold import Foldable, folded
from dposcope.model.hooks import Applied
from dposcope.model.language_model import LanguageModel


@dataclass(frozen=True, eq=False)
class Folded:
    """An edit as it ships: folded, rounded once, without hooks."""

    edit: Foldable

    @contextmanager
    def on(self, lm: LanguageModel) -> Generator[Applied]:
        """Fold inside; the old parameters come back, to the bit."""
        with folded(lm, self.edit):
            yield Applied()


@dataclass(frozen=True, eq=False)
class Replaced:
    """Parameters computed when needed."""

    make: Callable[[LanguageModel], Mapping[str, Tensor]]
    """Name of a parameter → its values inside, in its shape and of any precision."""

    @contextmanager
    def on(self, lm: LanguageModel) -> Generator[Applied]:
        """Replace inside; the old values come back, the same memory as before."""
        own = dict(lm.model.named_parameters())
        with torch.no_grad():
            new = self.make(lm)
        kept = {name: own[name].data for name in new}
        try:
            for name, values in new.items():
                own[name].data = values.to(own[name].device, own[name].dtype).contiguous()
            yield Applied()
        finally:
            for name, values in kept.items():
                own[name].data = values
