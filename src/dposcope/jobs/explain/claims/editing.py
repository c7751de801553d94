"""The paper's claims about editing (section 6), for each form of edit, at the settings that the paper prints or marks.

In Tables 2 and 19, the paper marks one setting for each kind of edit. The best edit of our run is not used: among 32
edits, some pass any bound by chance.
"""

from dposcope.evaluation.numbers import RATIO
from dposcope.jobs.explain.claims.claim import Claim, above, below, claim, claim_on, within
from dposcope.jobs.explain.claims.patching import CLOSE_SHARE, STEERING, UNCERTAIN, quality_claims
from dposcope.jobs.explain.conditions import (
    FORMS,
    TUNED,
    EditDirection,
    EditSetting,
    edit_among,
    shift_of_edit,
)
from dposcope.jobs.explain.measured import Measured
from dposcope.jobs.explain.patches import FOUR_GROUPS
from dposcope.jobs.explain.settings import Form
from dposcope.jobs.explain.tables.intervention import best_edit, strongest_steering, tuning_reduces
from dposcope.neurons.contributions import Contributions
from dposcope.neurons.groups import Ranking
from dposcope.neurons.shifts import edit_agreement

ALPHA = 0.01
"""α of all printed settings except one, which the paper never marks."""
MOST_BETA = 0.8
"""At this β, edits reduce toxicity more than DPO for every model of the paper."""
MARKED_BETA = 0.55
"""The marked β of probe-based edits, ranked by cosine."""
MARKED_OTHERWISE = 0.6
"""The marked β of probe-free edits, and of edits ranked by activation."""

SIMILAR_SHARE = 0.7
"""Two reductions count as "similar" if each is more than this share of the other; the paper's are 0.71 to 1.37."""

_OWN = "the cosine edit's own reduction is not significantly above 0"


def editing_claims(measured: Measured) -> list[Claim]:
    """Claims about edits, one for each measured form. Claims about settings that were not measured are left out."""
    makers = (
        _more_than_tuning,
        _more_than_patching,
        _more_than_steering,
        _quality,
        _best_trade_off,
        _more_neurons,
        _by_activation,
        _probe_free,
    )
    return [claim for make in makers for form in FORMS for claim in make(measured, form)]


def edit_named(
    measured: Measured, form: Form, beta: float, *, kind: EditDirection = "probe", ranking: Ranking = "cosine"
) -> str | None:
    """Name of the condition of an edit with α = 0.01; None if it was not measured.

    In the reference protocol, "by cosine" means the published code's ranking, which has its own name, `reference`.
    """
    own: list[Ranking] = ["reference"] if ranking == "cosine" and measured.scores.protocol == "reference" else []
    edits = (edit_among(measured.conditions, EditSetting(form, kind, one, ALPHA, beta)) for one in (*own, ranking))
    return next((edit.name for edit in edits if edit is not None), None)


def _more_than_tuning(measured: Measured, form: Form) -> list[Claim]:
    printed = {MOST_BETA: "by 0.05 to 0.20", MARKED_BETA: "by 0.01 to 0.07 (Llama-3.1: as much)"}
    claims: list[Claim] = []
    for beta, paper in printed.items():
        name = edit_named(measured, form, beta)
        if name is None:
            continue
        step = measured.toxicity(name, TUNED) if tuning_reduces(measured.scores) else None
        claims.append(
            claim_on(
                step, "6", f"Editing at β = {beta:g} reduces more than DPO does{_form(form)}", paper, below(0),
                "the paired interval lies below 0", measured="toxicity, minus the tuned model's",
                here=UNCERTAIN if step is None else f"{step}, {name}",
            )
        )  # fmt: skip
    return claims


def _more_than_patching(measured: Measured, form: Form) -> list[Claim]:
    name = edit_named(measured, form, MOST_BETA)
    if name is None or FOUR_GROUPS not in measured.outcomes:
        return []
    step = measured.toxicity(name, FOUR_GROUPS)
    return [
        claim_on(
            step, "6", f"Editing at β = {MOST_BETA:g} reduces more than patching all four groups does{_form(form)}",
            "by 0.02 to 0.23", below(0), "the paired interval lies below 0",
            measured="toxicity, minus that of patching four groups", here=f"{step}, {name}",
        )
    ]  # fmt: skip


def _best_trade_off(measured: Measured, form: Form) -> list[Claim]:
    betas = {edit_named(measured, form, beta): beta for beta in (MOST_BETA, MARKED_OTHERWISE, MARKED_BETA)}
    edits = [row for row in measured.conditions if row.name in betas]
    if len(edits) < len(betas):
        return []
    best = best_edit(edits, measured.scores)
    if not tuning_reduces(measured.scores):
        here, holds = UNCERTAIN, None
    elif best is None:
        here, holds = "no edit is as little toxic as the tuned model", False
    else:
        here, holds = f"β = {betas[best]:g} is marked", betas[best] == MARKED_BETA
    return [
        claim(
            "6.1", f"β = {MARKED_BETA:g} gives the best trade-off of toxicity and F1{_form(form)}", "in every model",
            here, holds, f"of β = {MOST_BETA:g}, {MARKED_OTHERWISE:g} and {MARKED_BETA:g}, the paper's rule marks "
            f"{MARKED_BETA:g}: the highest F1 among edits not more toxic than the tuned model",
            measured="β that the paper's rule marks", value=None if best is None else betas[best],
        )
    ]  # fmt: skip


def shift_claims(measured: Measured, change: Contributions) -> list[Claim]:
    """The claim that the paper's edit shifts mean activations less than tuning does, for each measured form.

    Args:
        measured: all conditions.
        change: contributions of the tuned model.
    """
    claims: list[Claim] = []
    for form in FORMS:
        name = edit_named(measured, form, MARKED_BETA)
        if name is None:
            continue
        built = next(row for row in measured.conditions if row.name == name).build()
        sizes = edit_agreement(change, shift_of_edit(change, built)).overall
        if not sizes.edit_size or not sizes.tuned_size:
            continue
        share = sizes.edit_size / sizes.tuned_size
        claims.append(
            claim(
                "6", f"The edit shifts mean activations less than DPO does{_form(form)}", "without a number",
                f"{RATIO.value(share)} of DPO's mean |shift|, {name}", share < 1, "its mean |shift| is the smaller one",
                measured="mean |shift| over neurons, × DPO's", value=share,
            )
        )  # fmt: skip
    return claims


def _more_than_steering(measured: Measured, form: Form) -> list[Claim]:
    name, rival = edit_named(measured, form, MARKED_BETA), strongest_steering(measured.conditions, measured.scores)
    if name is None or rival is None:
        return []
    step = measured.toxicity(name, rival.name)
    return [
        claim_on(
            step, "6", f"Editing at β = {MARKED_BETA:g} reduces more than steering does{_form(form)}",
            "by 0.04 to 0.23", below(0), f"paired, against {STEERING}",
            measured="toxicity, minus steering's", here=f"{step}, {name} against {rival.name}",
        )
    ]  # fmt: skip


def _quality(measured: Measured, form: Form) -> list[Claim]:
    name = edit_named(measured, form, MARKED_BETA)
    if name is None:
        return []
    what, behind = f"Editing at β = {MARKED_BETA:g}", _form(form)
    return quality_claims(measured, name, "6", what, logppl="−0.05 to +0.02", f1="5 to 13 % lower", form=behind)


def _more_neurons(measured: Measured, form: Form) -> list[Claim]:
    more, less = edit_named(measured, form, MOST_BETA), edit_named(measured, form, MARKED_BETA)
    if more is None or less is None:
        return []
    parts = (
        ("reduces toxicity further", "by 0.02 to 0.20", measured.toxicity(more, less), "toxicity"),
        ("costs F1", "by 0.004 to 0.023", measured.f1(more, less), "F1"),
    )
    return [
        claim_on(
            step, "6.1", f"β = {MOST_BETA:g} in place of {MARKED_BETA:g} {what}{_form(form)}", paper, below(0),
            "the paired interval lies below 0", measured=f"{name}, minus that at β = {MARKED_BETA:g}",
            here=f"{step}, {more} against {less}",
        )
        for what, paper, step, name in parts
    ]  # fmt: skip


def _by_activation(measured: Measured, form: Form) -> list[Claim]:
    other = edit_named(measured, form, MARKED_OTHERWISE, ranking="activation")
    name = edit_named(measured, form, MARKED_BETA)
    if name is None or other is None:
        return []
    share = measured.share(other, name)
    return [
        claim_on(
            share, "6.1", f"Ranking by activation does much the same as by cosine{_form(form)}",
            "71 to 137 % of the reduction, each at its marked β", within(SIMILAR_SHARE, 1 / SIMILAR_SHARE),
            "70 to 143 % of the reduction by cosine, the interval too",
            measured="share of the reduction by cosine", here=_OWN if share is None else f"{share}, {other} of {name}",
        )
    ]  # fmt: skip


def _probe_free(measured: Measured, form: Form) -> list[Claim]:
    free = edit_named(measured, form, MARKED_OTHERWISE, kind="free")
    name = edit_named(measured, form, MARKED_BETA)
    if name is None or free is None:
        return []
    share = measured.share(free, name)
    return [
        claim_on(
            share, "6.2", f"Editing without a probe does as well as with it{_form(form)}",
            "90 to 100 % of the reduction, each at its marked β", above(CLOSE_SHARE),
            "the share of the probe-based edit's reduction lies above 85 %, the interval too",
            measured="share of the probe-based edit's reduction",
            here=_OWN if share is None else f"{share}, {free} of {name}",
        )
    ]  # fmt: skip


def _form(form: Form) -> str:
    return f" ({FORMS[form]})"
