"""An edited model as a second model, to compare with the plain one neuron by neuron.

In a folded checkpoint, a gain scales the neuron's value vector, so its activation does not show the edit. Here a gain
scales the activation, and the value vector is unchanged. Both models compute the same function. But here patching a
neuron to its mean after the edit (paper 3.3) gives the neuron's part of the effect.
"""

from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Any, NoReturn

from dposcope.artefacts import tensor_fingerprint
from dposcope.errors import DposcopeError
from dposcope.interventions.ablate import Ablation
from dposcope.interventions.edit import Edit
from dposcope.interventions.fold import fold_
from dposcope.interventions.gains import Gains
from dposcope.model.hooks import Applied, shared
from dposcope.model.language_model import LanguageModel


@contextmanager
def edited(lm: LanguageModel, edit: Edit | Gains | Ablation) -> Generator[LanguageModel]:
    """A second, edited model inside the context. `lm` is unchanged, and both models may be run.

    Gains of neurons act on activations m, `[B, T, d_mlp]`. Ablations and gains of heads do not act on neurons, so they
    are folded into the weights. Both models share the weights that the edit does not change.

    Args:
        lm: the plain model.
        edit: the edit of the second model, or one part of it.

    Raises:
        DposcopeError: the edit does not fit the model; an intervention is on `lm`; the edit has more than gains of
            neurons, and the model is quantised; or, on leaving, the second model was never run.
    """
    edit = Edit.of(edit)
    other = shared(lm)
    fold_(other, replace(edit, gains=None))
    other = replace(other, name=f"{lm.name} + {edit.told(lm)}")
    if edit.gains is None:
        yield other
        return
    other = replace(other, variant=f"gains-{tensor_fingerprint({'gains': edit.gains.values})}")
    try:
        with edit.gains.on(other):
            yield other
    finally:
        # Without its hooks it would be a plain model with the edit's name.
        other.model.forward = _left


def _left(*_: Any, **__: Any) -> NoReturn:
    raise DposcopeError("the context of this edited model has ended; run it inside `with edited(…)`")


@dataclass(frozen=True)
class EditedModel:
    """An edit that is measured as a model of its own; see `edited`."""

    edit: Edit

    def second_model(self, lm: LanguageModel) -> AbstractContextManager[LanguageModel]:
        """The edited model, as a second model inside the context."""
        return edited(lm, self.edit)

    def on(self, lm: LanguageModel) -> AbstractContextManager[Applied]:
        """The edit on `lm`, by hooks."""
        return self.edit.on(lm)
