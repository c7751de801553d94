"""Tables of the setup: training of the tuned model, quality of the probe, an edit's shifts (9, 10, 11; text of 6)."""

from collections.abc import Mapping
from typing import Any

import polars as pl

from dposcope.directions.direction import Direction
from dposcope.evaluation.numbers import COUNT, FACT, MEAN, NOTHING, SHARE, fact
from dposcope.jobs.dpo.training_record import TrainingRecord
from dposcope.neurons.shifts import EditAgreement
from dposcope.report.table import Column, Table

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
    "batch size in evaluation": "8",
    "input tokens at most": "256",
    "prompt tokens at most": "64",
    "new tokens at most": "64",
    "epochs": "5",
    "pairs, with those for validation": "24,576",
}


def training_table(model: str, training: TrainingRecord) -> Table:
    """Tables 9 and 10: how the tuned model was trained."""
    objective, schedule, settings = training.objective, training.schedule, training.settings
    prompt, new = settings.max_prompt_tokens, settings.max_completion_tokens
    facts = {
        "β": objective.beta,
        "λ (KL weight)": objective.kl_weight,
        "KL on": objective.kl_on,
        "optimizer": schedule.optimizer,
        "learning rate": schedule.learning_rate,
        "warm-up steps": schedule.warmup_steps,
        "batch size": schedule.batch_size,
        "gradient norm at most": schedule.max_grad_norm,
        "patience": schedule.patience,
        "batch size in evaluation": schedule.validated_at_once,
        "input tokens at most": prompt + new,
        "prompt tokens at most": prompt,
        "new tokens at most": new,
        "epochs": training.examples / training.pairs.train,
        "trained": settings.train,
        "pairs, with those for validation": training.pairs.total,
        "pairs for validation": training.pairs.validation,
        "steps": training.steps,
        "seed": settings.seed,
    }
    # The column holds values of many kinds, so it is text, also in the data.
    frame = pl.DataFrame({"setting": list(facts), "value": [fact(value) for value in facts.values()]})
    return Table(
        "table-09-training",
        f"How the tuned model was made from {model} (paper, Tables 9 and 10).",
        frame,
        (Column("setting", "setting"), Column("value", "value"), Column("paper", "paper")),
        (
            "Epochs: number of passes made over the training pairs. The paper's 5 are a maximum, since early stopping "
            "may end a training before. Input: prompt and new tokens together.",
        ),
        view=frame.with_columns(paper=pl.col("setting").replace_strict(_PAPER, default=NOTHING)),
        number=9,
    )


def probe_table(model: str, direction: Direction, steering: str | None, *, probe: Direction | None = None) -> Table:
    """Table 11: accuracy of the direction on held-out comments, the share of the majority class, and the chosen α.

    Args:
        model: named in the title.
        direction: W; only a probe has a measured quality.
        steering: label of the strongest steering; see `strongest_steering`. None if there is none.
        probe: a probe to compare with, if W is of another kind.
    """
    names = {
        "accuracy": "accuracy",
        "majority": "majority class",
        "balanced_accuracy": "balanced accuracy",
        "roc_auc": "ROC AUC",
    }

    def row(one: Direction, used: str, steered: str | None) -> Mapping[str, Any]:
        quality = one.about.get("quality", {})
        measured = {name: quality.get(name) for name in names}
        return {"model": model, "kind": one.kind, "used": used, **measured, "steering": steered}

    rows = [row(direction, "by the run", steering), *([] if probe is None else [row(probe, "to compare", None)])]
    notes = (
        "Compare the accuracy with the share of the majority class (paper: 91.0 to 96.1 %, and 90.4 % of comments are "
        "not toxic).",
    )
    if probe is not None:
        notes += (
            "To compare: only a probe has an accuracy. This probe is fitted to the comments of the run's direction "
            "(for a difference of means: equal numbers of both classes). The run uses it only here and to measure how "
            "stable groups are.",
        )
    frame = pl.DataFrame(rows, schema_overrides={**dict.fromkeys(names, pl.Float64), "steering": pl.String})
    return Table(
        "table-11-direction",
        f"Quality of the direction of {model} on comments it was not fitted to (paper, Table 11).",
        frame,
        (
            *(Column(name, name) for name in ("model", "kind", "used")),
            *(Column(name, label, SHARE) for name, label in names.items()),
            Column("steering", "steering chosen"),
        ),
        notes,
        view=frame.with_columns(pl.col("kind").str.replace_all("_", " ")),
        number=11,
    )


def agreement_table(model: str, edit: str, agreement: EditAgreement) -> Table:
    """Agreement of an edit's activation shifts with those of tuning (paper, text of section 6)."""
    return Table(
        "edit-shifts",
        f"Activation shifts of the edit {edit} compared with those of tuning, {model} (paper, section 6).",
        agreement.to_polars(),
        (
            Column("group", "group"),
            Column("neurons", "neurons", COUNT),
            Column("r", "r", MEAN),
            Column("same_sign", "same sign", SHARE),
            Column("edit_size", "mean |shift|, edit", FACT),
            Column("tuned_size", "mean |shift|, tuning", FACT),
        ),
        ("Same sign: share of the neurons that both shift; 50 % is chance.",),
    )
