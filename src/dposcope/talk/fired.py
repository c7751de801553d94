"""How strongly the neurons that an edit changes most fire on one text, before and after."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from dposcope.directions.lens import lens
from dposcope.neurons.traces import trace
from dposcope.talk.session import PLAIN, Session

NEURONS = 12
"""How many are shown."""
_PROMOTED = 5


@dataclass(frozen=True)
class EditedNeuron:
    """A neuron that an edit changes."""

    block: int
    """From 0."""
    index: int
    """Within its block, from 0."""
    gain: float
    """g of the edit at strength 1."""
    promotes: tuple[str, ...]
    """The tokens that its value vector raises most, by the logit lens."""
    name: str
    """Like `12.345`; see `LanguageModel.neuron_name`."""


@dataclass(frozen=True, eq=False)
class Fired:
    """A neuron on every token of a text."""

    neuron: EditedNeuron
    before: list[float]
    """m in the plain model, a token."""
    after: list[float]
    """The same in the edited model, which reads the same text."""

    @property
    def peak(self) -> int:
        """The token on which the plain model's activation is furthest from 0."""
        return max(range(len(self.before)), key=lambda place: abs(self.before[place]))


def edited_neurons(session: Session, count: int = NEURONS) -> list[EditedNeuron]:
    """The neurons whose gains are furthest from 1, the furthest first; none where the edit has no gains of neurons.

    Args:
        session: model and edit.
        count: at most so many.
    """
    gains = None if session.edit is None else session.edit.gains
    if gains is None:
        return []
    lm, distance = session.lm, (gains.values - 1).abs().flatten()
    furthest = distance.topk(min(count, int((distance > 0).sum())))
    found: list[EditedNeuron] = []
    for place in furthest.indices.tolist():
        block, index = divmod(place, lm.d_mlp)
        tokens = lens(lm, lm.value_vectors(block)[index].detach(), k=_PROMOTED)[0].top
        gain, name = float(gains.values[block, index]), lm.neuron_name(block, index)
        found.append(EditedNeuron(block, index, gain, tuple(tokens), name))
    return found


@torch.inference_mode()
def fired(session: Session, neurons: Sequence[EditedNeuron], ids: Sequence[int], strength: float) -> list[Fired]:
    """Activations on every token of a text, in the plain model and at a strength of the edit.

    Args:
        session: model and edit.
        neurons: of the edit.
        ids: the text.
        strength: of the edit.
    """
    if not neurons:
        return []
    numbers = [neuron.block * session.lm.d_mlp + neuron.index for neuron in neurons]
    before, after = (_at(session, numbers, ids, one) for one in (PLAIN, strength))
    return [Fired(*row) for row in zip(neurons, before, after, strict=True)]


def _at(session: Session, numbers: Sequence[int], ids: Sequence[int], strength: float) -> list[list[float]]:
    with session.at(strength):
        return trace(session.lm, [list(ids)], numbers).tolist()
