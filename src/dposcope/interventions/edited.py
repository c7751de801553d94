"""An edited model beside the plain one, to be compared neuron by neuron.

Folded into an ordinary checkpoint, a gain scales the neuron's value vector, and its activation says nothing of it.
Here it scales the activation and the value vector stays: the same function, but a neuron's mean after the edit is then
what patching has to set (paper 3.3) to give the neuron's part of the effect.
"""

import copy
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, NoReturn

from dposcope.artefacts import tensor_fingerprint
from dposcope.errors import DposcopeError
from dposcope.interventions.edit import Edit
from dposcope.interventions.fold import fold_
from dposcope.model.hooks import Applied, is_hooked
from dposcope.model.language_model import LanguageModel


@contextmanager
def edited(lm: LanguageModel, edit: Edit) -> Generator[LanguageModel]:
    """A second model with the edit on it inside the context; `lm` stays plain, and both may be run.

    Gains of neurons act on activations m, `[B, T, d_mlp]`; ablations and gains of heads, which no neuron's activation
    can hold, are in the weights. Weights that the edit leaves alone are shared, so it costs those it changes.

    Args:
        lm: the plain model.
        edit: what is done to it.

    Raises:
        DposcopeError: the edit does not fit the model; an intervention is on it; or, on leaving, the second model was
            never run.
    """
    if is_hooked(lm):
        raise DposcopeError("an intervention is on this model, so it is no plain one to set an edited one beside")
    tensors = chain(lm.model.parameters(), lm.model.buffers())
    shared = copy.deepcopy(lm.model, {id(tensor): tensor for tensor in tensors})
    other = replace(lm, model=shared, name=f"{lm.name} + {edit}")
    fold_(other, replace(edit, gains=None))
    if edit.gains is None:
        yield other
        return
    other = replace(other, variant=f"gains-{tensor_fingerprint({'gains': edit.gains.values})}")
    try:
        with edit.gains.on(other):
            yield other
    finally:
        # Without its hooks it would be the plain model under the edit's name.
        shared.forward = _left


def _left(*_: Any, **__: Any) -> NoReturn:
    raise DposcopeError("this edited model is gone with its context; run it inside `with edited(…)`")


@dataclass(frozen=True)
class EditedModel:
    """An edit, measured as the model that `edited` makes of it."""

    edit: Edit

    def beside(self, lm: LanguageModel) -> AbstractContextManager[LanguageModel]:
        """The edited model itself, inside the context."""
        return edited(lm, self.edit)

    def on(self, lm: LanguageModel) -> AbstractContextManager[Applied]:
        """The same on `lm`, by hooks."""
        return self.edit.on(lm)
