"""How things were made: the training of the tuned model, the probe, an edit's shifts (9, 10, 11; text of 6)."""

from collections.abc import Mapping
from typing import Any

import polars as pl

from dposcope.directions.direction import Direction
from dposcope.evaluation.numbers import fact, fixed
from dposcope.jobs.explain.tables.neuron import percent
from dposcope.neurons.shifts import EditAgreement
from dposcope.report.table import Table

_SETTINGS = (
    ("β", "objective", "beta"),
    ("λ (KL weight)", "objective", "kl_weight"),
    ("KL on", "objective", "kl_on"),
    ("optimizer", "schedule", "optimizer"),
    ("learning rate", "schedule", "learning_rate"),
    ("warm-up steps", "schedule", "warmup_steps"),
    ("batch size", "schedule", "batch_size"),
    ("gradient norm at most", "schedule", "max_grad_norm"),
    ("patience", "schedule", "patience"),
)
_EVALUATED, _EPOCHS = "batch size in evaluation", "epochs"
_INPUT, _PROMPT, _NEW = (f"{part} tokens at most" for part in ("input", "prompt", "new"))
_PAIRS = "pairs, with those for validation"
_PAPER = {
    "β": "0.1",
    "λ (KL weight)": "0.02 to 0.1",
    "KL on": "pairs",
    "optimizer": "RMSprop",
    "learning rate": "1e-5",
    "warm-up steps": "150",
    "batch size": "4, gradients of 4 added up",
    "gradient norm at most": "10",
    "patience": "30",
    _EVALUATED: "8",
    _INPUT: "256",
    _PROMPT: "64",
    _NEW: "64",
    _EPOCHS: "5",
    _PAIRS: "24,576",
}


def training_table(model: str, training: Mapping[str, Any]) -> Table:
    """Tables 9 and 10: how the tuned model was trained."""
    schedule, pairs, settings = training["schedule"], training["pairs"], training["settings"]
    prompt, new = settings["max_prompt_tokens"], settings["max_completion_tokens"]
    facts = {name: training[part].get(key) for name, part, key in _SETTINGS}
    facts |= {
        _EVALUATED: schedule["micro_batch_size"] or schedule["batch_size"],
        _INPUT: prompt + new,
        _PROMPT: prompt,
        _NEW: new,
        _EPOCHS: training["examples"] / pairs["train"],
        "trained": training["train"],
        _PAIRS: pairs["train"] + pairs["validation"],
        "pairs for validation": pairs["validation"],
        "steps": training["steps"],
        "seed": training["seed"],
    }
    return Table(
        "table-09-training",
        f"How the tuned model was made from {model} (paper, Tables 9 and 10).",
        pl.DataFrame({"setting": list(facts), "value": [fact(value) for value in facts.values()]}),
        ("setting", "value", "paper"),
        tuple((name, fact(value), _PAPER.get(name, "–")) for name, value in facts.items()),
        (
            "Epochs: passes over the pairs that were trained on, as many as were made; the paper's 5 are a limit, "
            "since patience may end a training before. Input: prompt and new tokens together.",
        ),
    )


def probe_table(model: str, direction: Direction, steering: str | None, *, probe: Direction | None = None) -> Table:
    """Table 11: how well the direction tells comments apart, beside the majority's share, and the chosen α.

    Args:
        model: named in the title.
        direction: W; only a probe has a measured quality.
        steering: label of the strongest steering that keeps the text; None where none does or none was measured.
        probe: fitted to compare, where W is of another kind.
    """
    names = {
        "accuracy": "accuracy",
        "majority": "majority class",
        "balanced_accuracy": "balanced accuracy",
        "roc_auc": "ROC AUC",
    }

    def quality(one: Direction) -> Mapping[str, Any]:
        return one.about.get("quality", {})

    def row(one: Direction, used: str, steered: str | None) -> tuple[str, ...]:
        cells = tuple(percent(quality(one)[name]) if name in quality(one) else "–" for name in names)
        return (model, one.kind, used, *cells, steered or "–")

    rows = [(direction, "by the run", steering), *([] if probe is None else [(probe, "to compare", None)])]
    frame = [
        {
            "model": model,
            "kind": one.kind,
            "used": used,
            **{name: quality(one).get(name) for name in names},
            "steering": steered,
        }
        for one, used, steered in rows
    ]
    types = {**dict.fromkeys(names, pl.Float64), "steering": pl.String}
    notes = (
        "An accuracy says little beside the share of the majority class (paper: 91.0 to 96.1 % where 90.4 % of "
        "comments are not toxic).",
    )
    if probe is not None:
        notes += (
            "To compare: only a probe has such a quality. This one is fitted to the comments that the run's direction "
            "takes, of a difference of means as many toxic ones as others, and nothing else in the run rests on it but "
            "how stable groups are.",
        )
    return Table(
        "table-11-direction",
        f"Quality of the direction of {model} on comments it was not fitted to (paper, Table 11).",
        pl.DataFrame(frame, schema_overrides=types),
        ("model", "kind", "used", *names.values(), "steering chosen"),
        tuple(row(*one) for one in rows),
        notes,
    )


def agreement_table(model: str, edit: str, found: EditAgreement) -> Table:
    """How an edit's activation shifts go with those of tuning (paper, text of section 6)."""
    frame = found.to_polars()
    rows = tuple(
        (
            row["group"],
            f"{row['neurons']:,}",
            "–" if row["r"] is None else fixed(row["r"]),
            "–" if row["same_sign"] is None else percent(row["same_sign"]),
            "–" if row["edit_size"] is None else fact(row["edit_size"]),
            "–" if row["tuned_size"] is None else fact(row["tuned_size"]),
        )
        for row in frame.iter_rows(named=True)
    )
    return Table(
        "edit-shifts",
        f"Activation shifts of the edit {edit} beside those of tuning, {model} (paper, section 6).",
        frame,
        ("group", "neurons", "r", "same sign", "mean |shift|, edit", "mean |shift|, tuning"),
        rows,
        ("Same sign: of neurons that both move; 50 % is chance.",),
    )
