"""What tests of the tables of `explain` share: outcomes and conditions made by hand, explanations of tiny models."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch

from dposcope.directions.direction import Direction
from dposcope.evaluation.conditions.outcome import Outcome
from dposcope.evaluation.conditions.scores import BASE, Scores, summarise
from dposcope.interventions.assign import Assign
from dposcope.interventions.gains import Gains
from dposcope.jobs.explain.claims.claim import Claim
from dposcope.jobs.explain.conditions import TUNED, EditSetting, ExplainCondition, ExplainRole, Steering
from dposcope.jobs.explain.explanation import Explanation, explanation_of
from dposcope.jobs.explain.measured import Measured
from dposcope.jobs.explain.tables.intervention import shares_of_reduction
from dposcope.model.hooks import Intervention
from dposcope.model.language_model import LanguageModel
from dposcope.neurons.contributions import Contributions
from dposcope.neurons.sets import NeuronSet
from helpers.changes import family_change, tuned_copy
from helpers.families import random_direction, tiny

PROMPTS = 30
START = np.linspace(0.3, 0.7, PROMPTS)
"""Toxicity of the plain model, prompt by prompt: 0.5 on average."""
WINDOWS = np.tile([300.0, 310.0, 290.0], 4)
"""Its losses, of 100 tokens each: log-PPL 3."""
F1 = np.tile([0.1, 0.2, 0.3, 0.2], 3)


def noise(seed: int, scale: float = 1.0) -> np.ndarray:
    """Numbers that make any interval wide, `[30]`."""
    return scale * np.random.default_rng(seed).standard_normal(PROMPTS)


def outcome(
    toxicity: np.ndarray = START, *, rise: float | np.ndarray = 0.0, f1: float | np.ndarray = 1.0, judge: bool = True
) -> Outcome:
    """One condition: `rise` is added to log-PPL, F1 is multiplied by `f1`; the judge gives half the scorer's score."""
    toxicity = np.asarray(toxicity, dtype=float)
    return Outcome.from_json(
        {
            "continuations": ["a b c"] * PROMPTS,
            "per_prompt": {
                "toxicity": toxicity.tolist(),
                "repetition": [0.0] * PROMPTS,
                "empty": [0.0] * PROMPTS,
                **({"judge": (toxicity / 2).tolist()} if judge else {}),
            },
            "f1": (F1 * f1).tolist(),
            "window_nll": (WINDOWS + 100 * np.asarray(rise)).tolist(),
            "window_tokens": [100] * len(WINDOWS),
        }
    )


def never() -> Intervention:
    raise AssertionError("a table built an intervention")


def condition(
    name: str,
    role: ExplainRole = "patch",
    *,
    section: str = "Activation patching",
    alpha: float = 0.0,
    build: Callable[[], Intervention] = never,
) -> ExplainCondition:
    """Steered by α where it is above 0; of an edit or its control, named as `explain_conditions` does, its setting."""
    return ExplainCondition(
        name, f"Label of {name}", role, section, build, {"alpha": alpha},
        steering=Steering(alpha, "mean norms", abs(alpha)) if alpha else None,
        edit=setting_named(name) if role in ("edit", "control") else None,
    )  # fmt: skip


def setting_named(name: str) -> EditSetting | None:
    """`scale-probe-cosine-0.01-0.8` taken apart; None of another name."""
    parts = name.split("-")
    return EditSetting(*parts[:3], *map(float, parts[3:])) if len(parts) == 5 else None


@dataclass(frozen=True)
class Study:
    """Outcomes by condition, and what is made of them."""

    rows: list[ExplainCondition]
    outcomes: dict[str, Outcome]
    scores: Scores


def study(
    outcomes: dict[str, Outcome], rows: list[ExplainCondition] | None = None, *, protocol: str = "strict"
) -> Study:
    """Adds the plain model; DPO takes off 60 per cent unless it is among the outcomes."""
    everything = {BASE: outcome(), TUNED: outcome(0.4 * START), **outcomes}
    if rows is None:
        rows = [
            condition(TUNED, "tuned", section="Baselines"),
            *(
                condition(name, "edit" if setting_named(name) else "patch")
                for name in outcomes
                if name not in (BASE, TUNED)
            ),
        ]
    return Study(rows, everything, summarise(everything, protocol=protocol, model="tiny"))


def measured(
    outcomes: dict[str, Outcome], rows: list[ExplainCondition] | None = None, *, protocol: str = "strict"
) -> Measured:
    made = study(outcomes, rows, protocol=protocol)
    return Measured(made.outcomes, made.scores, made.rows, shares_of_reduction(made.outcomes))


def only(claims: list[Claim], words: str) -> Claim:
    (found,) = [claim for claim in claims if words in claim.says]
    return found


def making(share: float) -> np.ndarray:
    """Toxicity that makes this share of DPO's reduction, in every prompt."""
    return START - share * 0.6 * START


@dataclass(frozen=True)
class Pair:
    """A tiny model, its tuned copy, and what changed."""

    base: LanguageModel
    tuned: LanguageModel
    explanation: Explanation


@cache
def pair(family: str) -> Pair:
    base = tiny(family)
    tuned = tuned_copy(base)
    quality = {"accuracy": 0.9123, "majority": 0.904, "balanced_accuracy": 0.7, "roc_auc": 0.95, "test_texts": 50_000}
    about = {"quality": quality}
    direction = Direction(random_direction(base), "probe", -1, about)
    found = explanation_of(base, tuned, direction, family_change(family), toxic_sets=(8, 16), lens_tokens=5)
    return Pair(base, tuned, found)


def some(change: Contributions, count: int) -> NeuronSet:
    """The first neurons of the first block."""
    mask = torch.zeros(change.cosine.shape, dtype=torch.bool)
    mask[0, :count] = True
    return NeuronSet(mask)


def frozen(change: Contributions, count: int, factor: float) -> Assign:
    """An edit of the published code's form: the first neurons set to `factor` times their means."""
    return Assign(factor * change.before.mean, some(change, count))


def scaled(change: Contributions, count: int, factor: float) -> Gains:
    """The same neurons scaled, of the form of section 6.1."""
    return Gains(torch.ones(change.cosine.shape).where(~some(change, count).mask, factor))
