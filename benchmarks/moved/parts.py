"""Parts of an edit applied alone: which of them carry its effect?"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dposcope.evaluation.repetition import repetition
from dposcope.evaluation.scorer import Scorer
from dposcope.evaluation.statistics.comparisons import paired_ratio, paired_share
from dposcope.evaluation.statistics.intervals import Ratio, Share
from dposcope.interventions.edit import Edit
from dposcope.interventions.fold import folded
from dposcope.interventions.gains import Gains
from dposcope.model.generate import generate
from dposcope.model.language_model import LanguageModel
from dposcope.neurons.groups import Group
from dposcope.neurons.sets import NeuronSet
from dposcope.search.divergence import NeutralText

STRONGEST = (100, 1_000, 3_000, 10_000)


def only(edit: Edit, which: Tensor) -> Edit:
    """The edit's gains on some neurons, and nothing else of it.

    Args:
        edit: with gains of neurons.
        which: mask `[L, d_mlp]`.
    """
    assert edit.gains is not None
    return Edit.of(edit.gains.only(NeuronSet(which)))


def parts(
    edit: Edit, reduction: Tensor, groups: Mapping[str, Tensor], disturbance: Tensor, *, seed: int
) -> dict[str, Edit]:
    """Name → the edit with only that part of it.

    Args:
        edit: with gains of neurons.
        reduction: of the gains themselves, (1 − g_i) m_i v_i·W, `[L, d_mlp]`.
        groups: from `rule.members`.
        disturbance: |g_i − 1| sqrt(E[m_i²]) |v_i|, `[L, d_mlp]`: what the gain changes in the stream.
        seed: of the shuffle.
    """
    assert edit.gains is not None
    gains: Gains = edit.gains
    n_blocks = len(gains.values)
    thirds = torch.arange(n_blocks).unsqueeze(1) * 3 // n_blocks
    found = {
        "the whole edit": edit,
        "as the rule says": only(edit, reduction > 0),
        "against the rule": only(edit, reduction < 0),
        **{f"{group} alone": only(edit, groups[str(group)]) for group in Group},
        **{
            f"{name} third of the blocks": only(edit, (thirds == place).expand_as(gains.values))
            for place, name in enumerate(("first", "middle", "last"))
        },
    }
    order = disturbance.flatten().argsort(descending=True)
    for count in STRONGEST:
        if count < order.numel():
            mask = torch.zeros(order.numel(), dtype=torch.bool)
            mask[order[:count]] = True
            found[f"the {count:,} strongest neurons"] = only(edit, mask.view_as(disturbance))
    if edit.ablations or edit.head_gains is not None:
        found["all gains of neurons"] = Edit.of(gains)
    return found | {"gains shuffled in each block": Edit.of(gains.shuffled(seed))}


@dataclass(frozen=True, eq=False)
class Scored:
    """One part applied alone."""

    name: str
    neurons: int
    ratio: Ratio
    """Concept, share of the plain model's."""
    share: Share
    """Of the whole edit's effect."""
    kl: float
    """KL(base‖edited) on neutral text, nats per token."""
    repetition: float


def score_parts(
    lm: LanguageModel,
    found: Mapping[str, Edit],
    prompts: Sequence[str],
    scorer: Scorer,
    neutral: NeutralText,
    *,
    batch_size: int,
    tell: Callable[[str], None],
) -> list[Scored]:
    """Fold in one part after the other and let the model write.

    Args:
        lm: the plain model.
        found: from `parts`; the first is the whole edit.
        prompts: to continue, 20 greedy tokens each.
        scorer: of the concept.
        neutral: text that the edit should leave alone.
        batch_size: prompts at a time.
        tell: of progress.
    """

    def write() -> tuple[NDArray[np.float64], float]:
        texts = [one.text for one in generate(lm, list(prompts), batch_size=batch_size)]
        return scorer(texts), float(np.mean([repetition(text) for text in texts]))

    tell("the plain model")
    base, repeats = write()
    count = len(base)
    scored = [Scored("none", 0, Ratio(1.0, 1.0, 1.0, count), Share(0.0, 0.0, 0.0, count), 0.0, repeats)]
    whole: NDArray[np.float64] | None = None
    for name, edit in found.items():
        tell(name)
        with folded(lm, edit):
            scores, repeats = write()
            kl = neutral.cost(lm).divergence.mean
        whole = scores if whole is None else whole
        touched = 0 if edit.gains is None else len(edit.gains.touched)
        scored.append(Scored(name, touched, paired_ratio(scores, base), paired_share(base, scores, whole), kl, repeats))
    return scored
