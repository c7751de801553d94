"""Each claim about patches and steering: its verdict on values made by hand, and on those that the paper prints."""

import numpy as np
import pytest

from dposcope.evaluation.numbers import signed
from dposcope.jobs.explain.claims.patching import patching_claims
from dposcope.jobs.explain.conditions import TUNED
from dposcope.paper.comparison import MODEL_NAMES
from dposcope.paper.numbers import paper_values
from helpers.explained import F1, START, condition, making, measured, noise, only, outcome

FOUR = "patch-TP+AN+TN+AP"
CHAIN = ["patch-TP", "patch-TP+AN", "patch-TP+AN+TN", FOUR]


@pytest.mark.parametrize(
    ("toxicity", "verdict"),
    [
        (making(0.239), "held"),
        (making(0.26), "not held"),
        (making(-0.1), "held"),
        (making(0.25) + noise(1, 0.3) - np.mean(noise(1, 0.3)), "open"),
    ],
)
@pytest.mark.parametrize(
    ("name", "words"), [("patch-toxic-tokens", "toxic tokens explains"), ("patch-top-256", "256 most toxic")]
)
def test_toxic_neurons_explain_little(name, words, toxicity, verdict):
    assert only(patching_claims(measured({name: outcome(toxicity)})), words).verdict == verdict


@pytest.mark.parametrize(
    ("toxicity", "verdict"),
    [
        (making(0.855), "held"),
        (making(1.21), "held"),
        (making(0.84), "not held"),
        (making(0.85) + noise(1, 0.3) - np.mean(noise(1, 0.3)), "open"),
    ],
)
def test_four_groups_come_close_to_dpo(toxicity, verdict):
    claims = patching_claims(measured({FOUR: outcome(toxicity)}))
    assert only(claims, "comes close").verdict == verdict


@pytest.mark.parametrize("tuned", [START + 0.1, START + noise(2)])
def test_shares_of_what_is_not_certain_are_open(tuned):
    names = ["patch-toxic-tokens", "patch-top-256", FOUR]
    claims = patching_claims(measured({TUNED: outcome(tuned), **{n: outcome(making(1)) for n in names}}))
    for words in ("toxic tokens explains", "256 most toxic", "comes close"):
        claim = only(claims, words)
        assert (claim.verdict, claim.here) == ("open", "the tuned model's own reduction is not significantly above 0")
        assert (claim.value, claim.low, claim.high) == (None, None, None)


@pytest.mark.parametrize(
    ("levels", "verdict", "least"),
    [
        ((0.45, 0.41, 0.3, 0.2), "held", -0.04),
        ((0.45, 0.4, 0.41, 0.2), "not held", 0.01),
        ((0.55, 0.4, 0.3, 0.2), "not held", 0.05),
        ((0.45, 0.4, 0.3, 0.3), "open", 0.0),
    ],
)
def test_each_group_adds_to_the_one_before(levels, verdict, least):
    outcomes = {name: outcome(START - 0.5 + level) for name, level in zip(CHAIN, levels, strict=True)}
    claim = only(patching_claims(measured(outcomes)), "further")
    assert claim.verdict == verdict
    assert (claim.value, claim.low, claim.high) == pytest.approx((least,) * 3, abs=1e-9)
    steps = np.diff([0.5, *levels])
    shown = "; ".join(
        f"{label} {signed(step)} ({signed(step)} to {signed(step)})"
        for label, step in zip(("TP↓", "+AN↓", "+TN↓", "+AP↓"), steps, strict=True)
    )
    assert claim.here == shown


def test_a_certain_rise_decides_before_a_wider_one_that_is_open():
    levels = (START + 0.05, START + 0.05 + noise(5, 0.8), START - 0.2, START - 0.3)
    outcomes = {name: outcome(level) for name, level in zip(CHAIN, levels, strict=True)}
    claim = only(patching_claims(measured(outcomes)), "further")
    assert claim.verdict == "not held"
    assert (claim.value, claim.low, claim.high) == pytest.approx((0.05,) * 3, abs=1e-9)


@pytest.mark.parametrize(
    ("toxicity", "verdict"), [(START + 0.1, "held"), (START - 0.1, "not held"), (START + noise(3), "open")]
)
def test_increasing_neurons_raise_toxicity(toxicity, verdict):
    claim = only(patching_claims(measured({"patch-increasing": outcome(toxicity)})), "raises")
    assert (claim.section, claim.verdict) == ("K", verdict)


@pytest.mark.parametrize(
    ("toxicity", "verdict"), [(making(0.5), "held"), (making(0.2), "not held"), (making(0.3) + noise(4), "open")]
)
def test_the_rival_is_the_strongest_steering_that_keeps_the_text(toxicity, verdict):
    rows = [condition(f"steer-{alpha}", "steer", alpha=alpha) for alpha in (1, 2, 3)]
    rivals = {"steer-1": outcome(making(0.1)), "steer-2": outcome(making(0.3)), "steer-3": outcome(making(0.9), rise=2)}
    claims = patching_claims(measured({FOUR: outcome(toxicity), **rivals}, [*rows, condition(FOUR)]))
    claim = only(claims, "than steering")
    assert claim.verdict == verdict
    assert claim.here.endswith("against steer-2")
    assert claim.value == pytest.approx(np.mean(toxicity - making(0.3)))


WIDE_RISE = np.tile([-0.5, 0.5, 0.15], 4)
WIDE_F1 = np.tile([0.1, 1.9, 0.5, 1.0], 3)


@pytest.mark.parametrize(
    ("rise", "f1", "verdicts"),
    [
        (0.02, 0.871, ("held", "held")),
        (0.06, 0.84, ("not held", "not held")),
        (-0.4, 1.2, ("held", "held")),
        (WIDE_RISE, WIDE_F1, ("open", "open")),
        (0.01, 0.0, ("held", "not held")),
    ],
)
def test_quality_is_judged_with_its_intervals(rise, f1, verdicts):
    claims = patching_claims(measured({FOUR: outcome(making(1), rise=rise, f1=f1)}))
    both = only(claims, "four groups leaves log-perplexity"), only(claims, "four groups lowers F1")
    assert tuple(claim.verdict for claim in both) == verdicts
    assert both[0].value == pytest.approx(np.mean(rise))
    assert both[1].value == pytest.approx(np.mean(F1 * f1) / np.mean(F1))


def test_f1_of_a_model_without_any_is_open():
    claim = only(patching_claims(measured({"none": outcome(f1=0.0), FOUR: outcome(f1=1.0)})), "F1")
    assert (claim.verdict, claim.value) == ("open", None)
    assert claim.here.startswith("–, with repetition")


STRONGER = [
    ({"toxicity": making(0.4), "rise": 0.3, "f1": 0.9}, "held", (-0.09, 0.2, -0.02)),
    ({"toxicity": making(0.0), "rise": -0.1, "f1": 1.1}, "not held", (0.03, -0.2, 0.02)),
    ({"toxicity": making(0.1) + noise(5), "rise": WIDE_RISE, "f1": WIDE_F1}, "open", None),
]


@pytest.mark.parametrize(("strong", "verdict", "numbers"), STRONGER)
def test_stronger_steering_trades_quality_for_toxicity(strong, verdict, numbers):
    # The order of rows says nothing of their strength.
    rows = [condition(f"steer-{alpha}", "steer", alpha=alpha) for alpha in (2, 3, 1)]
    outcomes = {
        "steer-1": outcome(making(0.1), rise=0.1),
        "steer-2": outcome(making(0.9), rise=9),
        "steer-3": outcome(**strong),
    }
    claims = patching_claims(measured(outcomes, rows))
    found = [only(claims, f"Stronger steering {what}") for what in ("reduces", "raises", "lowers")]
    assert [claim.verdict for claim in found] == [verdict] * 3
    assert all(claim.here.endswith("steer-3 against steer-1") for claim in found)
    if numbers is not None:
        assert [claim.value for claim in found] == pytest.approx(numbers)


@pytest.mark.parametrize("alphas", [(), (1,), (1, 1)])
def test_one_strength_of_steering_has_nothing_to_trade(alphas):
    names = [f"steer{place}-{alpha}" for place, alpha in enumerate(alphas)]
    rows = [condition(name, "steer", alpha=alpha) for name, alpha in zip(names, alphas, strict=True)]
    assert patching_claims(measured({name: outcome(making(0.5)) for name in names}, rows)) == []


def test_what_was_not_measured_makes_no_claim():
    assert patching_claims(measured({})) == []
    assert len(patching_claims(measured({name: outcome(making(0.5)) for name in CHAIN}))) == 4


# The paper's own numbers

PAPER = {
    "GPT-2": (0.545, 0.210, 0.479, 0.465, [0.407, 0.216, 0.194, 0.139], 0.310, 0.853, 0.00, 0.170 / 0.193),
    "Llama": (0.496, 0.241, 0.491, 0.488, [0.488, 0.465, 0.391, 0.278], 0.335, 0.536, 0.00, 0.207 / 0.225),
    "Gemma": (0.488, 0.245, 0.487, 0.482, [0.470, 0.337, 0.307, 0.260], 0.260, 0.686, -0.03, 0.213 / 0.231),
    "Mistral": (0.507, 0.191, 0.505, 0.455, [0.502, 0.307, 0.238, 0.138], 0.350, 0.611, 0.02, 0.209 / 0.221),
}
"""Tables 2 and 19: none, DPO, toxic tokens, 256, the chain of groups, steering, ↑; of the four groups the rise of
log-PPL and the ratio of F1."""


@pytest.mark.parametrize("model", PAPER)
def test_the_papers_own_scores_meet_the_rules(model):
    none, dpo, tokens, most, chain, steering, increasing, rise, f1 = PAPER[model]
    flat = np.ones(30)
    outcomes = {
        "none": outcome(none * flat),
        TUNED: outcome(dpo * flat),
        "patch-toxic-tokens": outcome(tokens * flat),
        "patch-top-256": outcome(most * flat),
        **{name: outcome(score * flat) for name, score in zip(CHAIN[:3], chain, strict=False)},
        FOUR: outcome(chain[3] * flat, rise=rise, f1=f1),
        "patch-increasing": outcome(increasing * flat),
        "steer-1": outcome(steering * flat),
    }
    claims = patching_claims(measured(outcomes, [condition("steer-1", "steer", alpha=1)]))
    assert len(claims) == 8
    missed = {claim.says: claim.verdict for claim in claims if claim.verdict != "held"}
    # Table 2 has Gemma-2 at 0.260 both with four groups patched and steered.
    equal = {"Patching all four groups reduces more than steering does": "open"}
    assert missed == (equal if model == "Gemma" else {})


@pytest.mark.parametrize("model", MODEL_NAMES)
def test_the_papers_own_steering_meets_the_rules(model):
    printed = {(one.alpha, one.measure): one.value for one in paper_values(table="12", model=model)}
    flat, none = np.ones(30), {name: printed[None, name] for name in ("toxicity", "logppl", "f1")}
    strengths = sorted({alpha for alpha, _ in printed if alpha is not None})
    outcomes = {"none": outcome(none["toxicity"] * flat)} | {
        f"steer-w-{alpha:g}": outcome(
            printed[alpha, "toxicity"] * flat,
            rise=printed[alpha, "logppl"] - none["logppl"],
            f1=printed[alpha, "f1"] / none["f1"],
        )
        for alpha in strengths
    }
    rows = [condition(f"steer-w-{alpha:g}", "steer", alpha=alpha) for alpha in strengths]
    claims = patching_claims(measured(outcomes, rows))
    assert [claim.verdict for claim in claims] == ["held"] * 3
