"""The paper's tables of neurons: sizes and shares of groups, signs, correlations, how much changed."""

import polars as pl

from dposcope.model.language_model import LanguageModel
from dposcope.neurons.shares import GroupShares
from dposcope.neurons.shifts import ChangeSummary, Correlation, Correlations
from dposcope.study.numbers import fact, fixed
from dposcope.study.table import Table


def percent(share: float, digits: int = 1) -> str:
    """`52.3 %`."""
    return f"{fixed(100 * share, digits)} %"


def model_table(lm: LanguageModel) -> Table:
    """Table 8: sizes of the model's MLPs."""
    config = lm.model.config.get_text_config().to_dict()
    names = ("hidden_activation", "hidden_act", "activation_function")
    activation = next((str(config[name]) for name in names if config.get(name)), "unknown")
    facts = {
        "model": lm.name,
        "blocks": lm.n_blocks,
        "d": lm.d_model,
        "d_mlp": lm.d_mlp,
        "activation": activation,
        "gated": lm.gated,
        "neurons": lm.n_neurons,
    }
    return Table(
        "table-08-model",
        "MLPs of the model (paper, Table 8).",
        pl.DataFrame([facts]),
        ("model", "l", "d", "d_mlp", "σ", "gated", "neurons"),
        (
            (
                lm.name,
                str(lm.n_blocks),
                f"{lm.d_model:,}",
                f"{lm.d_mlp:,}",
                activation,
                "yes" if lm.gated else "no",
                f"{lm.n_neurons:,}",
            ),
        ),
    )


def groups_table(model: str, shares: GroupShares) -> Table:
    """Table 5: the four groups among the neurons that reduce; with the ↑ groups and sums of Δ beside it."""
    rows = tuple(
        (
            str(share.group),
            f"{share.neurons:,}",
            percent(share.of_all),
            percent(share.of_moved),
            fact(share.contribution),
            percent(share.of_contribution),
            percent(share.certain),
        )
        for share in shares.groups
    )
    sums = (
        ("sum ↓", shares.reducing, shares.share_reducing, shares.reduction),
        ("sum ↑", shares.increasing, shares.share_increasing, shares.increase),
    )
    totals = tuple(
        (name, f"{count:,}", percent(of), "100 %", fact(delta), "100 %", "") for name, count, of, delta in sums
    )
    return Table(
        "table-05-groups",
        f"Neuron groups of {model} and what they carry (paper, Table 5 and Figure 2a).",
        shares.to_polars(),
        ("group", "neurons", "of all", "of ↓ or ↑", "Σ Δ", "of the Σ Δ of ↓ or ↑", "sign certain"),
        rows + totals,
        (
            "T or A: the value vector points with or against the direction; P or N: sign of the mean before; "
            "↓: Δ > 0. Σ Δ is in the stream's unit. Sign certain: |Δ| above 1.96 standard errors, tokens taken as "
            "independent.",
        ),
    )


def negative_table(model: str, shares: GroupShares) -> Table:
    """Table 13: neurons with negative mean activation before tuning."""
    negative = shares.negative_before
    return Table(
        "table-13-negative",
        f"Neurons of {model} with a negative mean activation before tuning (paper, Table 13).",
        pl.DataFrame(
            {"model": [model], "negative": [negative], "positive": [1 - negative], "neurons": [shares.neurons]}
        ),
        ("model", "negative", "positive or 0", "neurons"),
        ((model, percent(negative, 2), percent(1 - negative, 2), f"{shares.neurons:,}"),),
    )


def directions_table(model: str, shares: GroupShares) -> Table:
    """Table 18: neurons that reduce the projection, and that increase it."""
    return Table(
        "table-18-reducing",
        f"Neurons of {model} by the sign of Δ (paper, Table 18; its caption has the sign reversed).",
        pl.DataFrame(
            {
                "model": [model],
                "reducing": [shares.share_reducing],
                "increasing": [shares.share_increasing],
                "neurons": [shares.neurons],
            }
        ),
        ("model", "reduce (↓)", "increase (↑)", "neurons"),
        ((model, percent(shares.share_reducing, 2), percent(shares.share_increasing, 2), f"{shares.neurons:,}"),),
    )


def correlations_table(model: str, found: Correlations) -> Table:
    """Table 17: what activation shifts go with."""
    rows = (
        ("activation shift and cosine with the direction", found.cosine),
        ("activation shift and mean activation before", found.activation),
    )
    return Table(
        "table-17-correlations",
        f"Pearson correlation of the activation shift, before − after, over neurons of {model} (paper, Table 17).",
        found.to_polars(),
        ("variables", "r", "p", "neurons"),
        tuple((name, _r(one), _p(one), f"{one.neurons:,}") for name, one in rows),
        ("p takes neurons as independent, which they are not.",),
    )


def change_table(model: str, change: ChangeSummary) -> Table:
    """How much value vectors and activations changed (paper, text of 5.1)."""
    rows = (
        ("cosine of a value vector with itself after tuning, mean", fixed(change.vector_cosine, 5)),
        ("the same, smallest", fixed(change.vector_cosine_min, 5)),
        ("mean |activation shift| over mean |activation|", f"{fixed(change.shift_percent, 2)} %"),
        ("median over neurons of |shift| / |activation|", f"{fixed(change.median_shift_percent, 2)} %"),
    )
    return Table(
        "change",
        f"How much tuning changed {model} (paper, section 5.1).",
        change.to_polars(),
        ("", "value"),
        rows,
    )


def _r(found: Correlation) -> str:
    return "–" if found.r is None else fixed(found.r)


def _p(found: Correlation) -> str:
    if found.p is None:
        return "–"
    return "< 0.0001" if found.p < 1e-4 else fixed(found.p, 4)
