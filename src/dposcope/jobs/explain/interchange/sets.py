"""What is taken from the tuned model: groups of neurons, toxic ones, ranked ones, all MLPs, all attention."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from dposcope.interventions.paired.interchange import InterchangeWith, Parts, SecondModel
from dposcope.jobs.explain.conditions import ExplainCondition
from dposcope.jobs.explain.interchange.carriers import RANKINGS, Rankings
from dposcope.jobs.explain.patches import FOUR_GROUPS, Patch
from dposcope.model.language_model import LanguageModel
from dposcope.neurons.sets import NeuronSet

PREFIX = "interchange-"
"""Of the names of conditions."""
SECTION = "Interchange"
MEASURED = (0.01, 0.05, 0.2)
"""Fractions of all neurons, of which the first ones of each ranking are measured like any condition."""
SMALL = 0.05
"""The fraction that the reverse is measured of."""


@dataclass(frozen=True, eq=False)
class InterchangeSet:
    """Parts that take the tuned model's values, as one row of the table."""

    name: str
    label: str
    parts: Parts
    control: bool = False
    reverse: bool = False
    """The tuned model takes the base's values instead."""
    patch: str | None = None
    """The patch that freezes the same neurons at their means after tuning; None where there is none."""

    @property
    def neurons(self) -> int | None:
        """How many; None for parts that are no neurons."""
        return None if self.parts.neurons is None else len(self.parts.neurons)

    @property
    def condition(self) -> str:
        """The name of its condition."""
        return PREFIX + self.name


def interchange_sets(
    lm: LanguageModel, patches: Sequence[Patch], rankings: Rankings | None, *, reverse: bool
) -> list[InterchangeSet]:
    """Every set, in the order of the table.

    Args:
        lm: the base.
        patches: of the paper; the same neurons are taken live.
        rankings: of all neurons; None for no ranked sets.
        reverse: measure the reverse of some; not possible where the tuned model writes tokens that the base lacks.
    """
    found = [
        InterchangeSet(
            patch.name.removeprefix("patch-"),
            patch.label.removeprefix("Patch "),
            Parts(patch.neurons),
            control=patch.kind == "control",
            patch=patch.name,
        )
        for patch in patches
    ]
    everything = NeuronSet.of(lm)
    blocks = range(lm.n_blocks)
    found += [
        InterchangeSet("neurons", "all neurons", Parts(everything)),
        InterchangeSet("mlp", "all MLPs", Parts(mlps=frozenset(blocks))),
        InterchangeSet("attention", "all attention", Parts(attentions=frozenset(blocks))),
    ]
    if rankings is not None:
        found += [
            InterchangeSet(
                f"{name}-{fraction:g}",
                f"{100 * fraction:g} % of neurons, {says}",
                Parts(rankings.first(name, fraction)),
                control=name in ("matched", "random"),
            )
            for name, says in RANKINGS.items()
            for fraction in MEASURED
        ]
    back = {FOUR_GROUPS.removeprefix("patch-"), "neurons", f"attribution-{SMALL:g}"}
    found += [
        InterchangeSet(f"reverse-{one.name}", f"Reverse: {one.label}", one.parts, reverse=True)
        for one in found
        if reverse and one.name in back
    ]
    return found


def interchange_conditions(sets: Sequence[InterchangeSet], source: SecondModel, tuned: str) -> list[ExplainCondition]:
    """The sets as conditions that are measured.

    Args:
        sets: see `interchange_sets`.
        source: gives the tuned or the edited model; held, so that it is loaded once for all sets.
        tuned: its `identity`.
    """
    rows: list[ExplainCondition] = []
    for one in sets:
        about = {"parts": one.parts.digest, "reverse": one.reverse, "tuned": tuned}
        build = partial(_with, source, one)
        rows.append(ExplainCondition(one.condition, one.label, "interchange", SECTION, build, about))
    return rows


def _with(source: SecondModel, one: InterchangeSet) -> InterchangeWith:
    return InterchangeWith(source, lambda _: one.parts, one.reverse)
