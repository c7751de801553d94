"""Results of an explanation, made by hand."""

from dposcope.jobs.explain.conditions import TUNED
from dposcope.jobs.explain.results import Results
from dposcope.jobs.explain.settings import ExplainSettings
from helpers.explained import START, condition, frozen, making, outcome, pair, scaled, study
from helpers.training_facts import TRAINING

PATCHES = ["toxic-tokens", "top-8", "top-16", "TP", "TP+AN", "TP+AN+TN", "TP+AN+TN+AP", "increasing"]


def results(family: str = "llama", *, keep=lambda row: True, training=TRAINING, tuned=None) -> Results:
    made = pair(family)
    change = made.explanation.contributions
    baselines, editing = "Baselines", "Activation editing, probe-based"
    rows = [
        condition("steer-0.1", "steer", section=baselines, alpha=0.1),
        condition("steer-random-0.1", "control", section=baselines, alpha=0.1),
        condition(TUNED, "tuned", section=baselines),
        *(condition(f"patch-{name}") for name in PATCHES),
        condition("patch-random", "control"),
        condition("assign-probe-cosine-0.01-0.8", "edit", section=editing, build=lambda: frozen(change, 7, 0.99)),
        condition("assign-probe-random-0.01-0.8", "control", section=editing),
        condition("scale-probe-activation-0.01-0.8", "edit", section=editing, build=lambda: scaled(change, 9, 0.9)),
    ]
    rows = [row for row in rows if keep(row)]
    levels = {row.name: outcome(making(0.1 * place), f1=1 + 0.01 * place) for place, row in enumerate(rows)}
    levels |= {TUNED: outcome(tuned if tuned is not None else 0.4 * START)}
    everything = study(levels, rows)
    return Results(
        made.base,
        made.explanation,
        rows,
        everything.outcomes,
        everything.scores,
        {f"patch-{name}": 3 + place for place, name in enumerate(PATCHES)},
        training,
        ExplainSettings().instruments,
    )
