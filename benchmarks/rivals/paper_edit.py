"""The paper's edit (6.1) under both protocols: gains on groups as its text says, assigned means as its code does."""

from benchmarks.rivals.lines import Line
from benchmarks.rivals.placing import spread
from benchmarks.rivals.replaced import Folded

from dposcope.interventions.assign import Assign
from dposcope.interventions.group_gains import gains_of, group_assign
from dposcope.jobs.ingredients.prepared import Ingredients
from dposcope.neurons.groups import select_fraction

_ALPHA, _BETA = 0.01, 0.55
"""The paper's marked edit (Table 2)."""
_TRIM = {"gpt2": 80.0}
"""Family → percentile of the published code."""
_SHARES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.55, 0.6, 0.8)
"""β: what decides how strong an assignment is, the paper's three among them; α hardly does."""


def group_line(made: Ingredients) -> tuple[Line, ...]:
    """Gains 1 ± α on β = 0.55 of each group, ranked by |cos|; the paper's α = 0.01 lies at the weak end."""
    selection = select_fraction(made.cosine, made.means.mean, beta=_BETA)
    return (
        Line("", lambda a: Folded(gains_of(selection, alpha=a)), symbol="α", start=0.1, most=1.0, always=(_ALPHA,)),
    )


def assigned_line(made: Ingredients, evaluations: int) -> tuple[Line, ...]:
    """Neurons set to their means shifted by α = 0.01, chosen as the published code chooses, at the last position."""
    family = made.lm.model.config.model_type

    def at(beta: float) -> Assign:
        selection = select_fraction(
            made.cosine, made.means.mean, beta=beta, ranking="reference", trim_percentile=_TRIM.get(family)
        )
        return group_assign(made.means, selection, alpha=_ALPHA)

    return (Line("", at, symbol="β", strengths=spread(_SHARES, evaluations)),)
