"""Each claim's verdict on values made by hand: held, not held, open, left out."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from dposcope.neurons.shifts import Correlation
from dposcope.study.claims import Claim, claims_table, neuron_claims, patching_claims
from dposcope.study.explain_conditions import TUNED
from explained import START, condition, making, measured, noise, outcome, pair

FOUR = "patch-TP+AN+TN+AP"
CHAIN = ["patch-TP", "patch-TP+AN", "patch-TP+AN+TN", FOUR]


def only(claims: list[Claim], words: str) -> Claim:
    (found,) = [claim for claim in claims if words in claim.says]
    return found


# Neurons


@pytest.fixture(scope="module")
def found():
    return pair("llama").found


def about_neurons(found, words: str) -> Claim:
    return only(neuron_claims(found), words)


@pytest.mark.parametrize(("neurons", "verdict"), [(2_001, "held"), (2_000, "not held")])
def test_toxic_neurons_are_few_below_the_papers_bound(found, neurons, verdict):
    toxic = len(found.toxic.with_toxic_tokens())
    assert toxic
    claim = about_neurons(replace(found, shares=replace(found.shares, neurons=neurons * toxic)), "very few")
    assert claim.verdict == verdict
    assert claim.here == "0.050 % promote a toxic token among the top 16"


@pytest.mark.parametrize(
    ("smallest", "verdict"), [(0.9851, "held"), (0.9849, "not held"), (1.0, "held"), (-1.0, "not held")]
)
def test_every_value_vector_counts(found, smallest, verdict):
    changed = replace(found, change=replace(found.change, vector_cosine=0.9999, vector_cosine_min=smallest))
    assert about_neurons(changed, "Value vectors").verdict == verdict


@pytest.mark.parametrize(("percent", "verdict"), [(16.71, "held"), (16.8, "not held"), (0.0, "held")])
def test_slight_shifts_are_the_papers(found, percent, verdict):
    changed = replace(found, change=replace(found.change, shift_percent=percent))
    assert about_neurons(changed, "shift slightly").verdict == verdict


@pytest.mark.parametrize(
    ("reducing", "verdict"), [(0.44, "not held"), (0.46, "held"), (0.5849, "held"), (0.61, "not held")]
)
def test_half_reduce(found, reducing, verdict):
    changed = replace(found, shares=replace(found.shares, neurons=100_000, reducing=round(1e5 * reducing)))
    assert about_neurons(changed, "half increase").verdict == verdict


@pytest.mark.parametrize(("increase", "verdict"), [(-0.9, "held"), (-1.1, "not held"), (-1.0, "not held")])
def test_net_reduction_is_above_zero(found, increase, verdict):
    changed = replace(found, shares=replace(found.shares, reduction=1.0, increase=increase))
    assert about_neurons(changed, "net reduction").verdict == verdict


@pytest.mark.parametrize(("negative", "verdict"), [(0.4994, "held"), (0.8728, "held"), (0.44, "not held")])
def test_half_or_more_are_negative(found, negative, verdict):
    changed = replace(found, shares=replace(found.shares, negative_before=negative))
    assert about_neurons(changed, "negative").verdict == verdict


@pytest.mark.parametrize(
    ("parts", "verdict"),
    [((0.3, 0.2, 0.2, 0.3), "held"), ((0.26, 0.24, 0.24, 0.26), "not held"), ((0.1, 0.4, 0.4, 0.1), "not held")],
)
def test_two_groups_lead_when_they_are_more_than_an_even_split(found, parts, verdict):
    down = [replace(share, of_contribution=part) for share, part in zip(found.shares.groups, parts, strict=False)]
    up = [replace(share, of_contribution=0.5) for share in found.shares.groups[4:]]
    changed = replace(found, shares=replace(found.shares, groups=(*down, *up)))
    claim = about_neurons(changed, "carry most")
    assert claim.verdict == verdict
    assert claim.here == f"{100 * (parts[0] + parts[3]):.1f} % of it"


@pytest.mark.parametrize(
    ("reduction", "verdict"),
    [
        ([1.0, 2.0, 3.0, 4.0], "held"),
        ([4.0, 3.0, 2.0, 1.0], "not held"),
        ([1.0, 9.0, 2.0], "held"),  # the middle block counts for neither half
        ([2.0, 9.0, 1.0], "not held"),
        ([5.0], "not held"),
    ],
)
def test_later_blocks_are_the_later_half(found, reduction, verdict):
    layers = replace(found.layers, reduction=torch.tensor(reduction), increase=-10 * torch.tensor(reduction))
    assert about_neurons(replace(found, layers=layers), "later layers").verdict == verdict


@pytest.mark.parametrize(
    ("cosine", "activation", "verdicts"),
    [
        (0.004, 0.347, ("held", "held")),
        (-0.06, 0.01, ("not held", "not held")),
        (0.06, -0.3, ("not held", "not held")),
        (0.0, 0.5, ("held", "not held")),
        (None, None, ("open", "open")),
    ],
)
def test_correlations(found, cosine, activation, verdicts):
    both = replace(found.correlations, cosine=Correlation(cosine, None, 9), activation=Correlation(activation, None, 9))
    changed = replace(found, correlations=both)
    claims = about_neurons(changed, "do not go with"), about_neurons(changed, "go weakly")
    assert tuple(claim.verdict for claim in claims) == verdicts


@pytest.mark.parametrize(
    ("share", "random", "verdict"), [(0.747, 0.6, "not held"), (0.8, 0.75, "held"), (0.8, 0.795, "not held")]
)
def test_conflicts_of_signs_are_those_beyond_chance(found, share, random, verdict):
    def signs(part: float) -> torch.Tensor:
        table = torch.ones(3, 1, 1000, dtype=torch.int8)
        table[0, 0, : round(1000 * part)] = -1
        return table

    for name, words in (("alignment", "signs of alignment"), ("changes", "signs of the change")):
        one = replace(getattr(found, name), signs=signs(share), random_signs=signs(random))
        assert about_neurons(replace(found, **{name: one}), words).verdict == verdict


# Patches and edits


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
    names = ["patch-toxic-tokens", "patch-top-256", FOUR, "edit"]
    rows = [condition("edit", "edit"), *(condition(name) for name in names[:3])]
    claims = patching_claims(measured({TUNED: outcome(tuned), **{n: outcome(making(1)) for n in names}}, rows))
    for words in ("toxic tokens explains", "256 most toxic", "comes close", "Editing"):
        claim = only(claims, words)
        assert (claim.verdict, claim.here) == ("open", "the tuned model's own reduction cannot be told from 0")
    assert not [claim for claim in claims if "best edit" in claim.says]


@pytest.mark.parametrize(
    ("levels", "verdict"),
    [
        ((0.45, 0.4, 0.3, 0.2), "held"),
        ((0.45, 0.4, 0.41, 0.2), "not held"),
        ((0.55, 0.4, 0.3, 0.2), "not held"),
        ((0.45, 0.4, 0.3, 0.3), "open"),
    ],
)
def test_each_group_adds_to_the_one_before(levels, verdict):
    outcomes = {name: outcome(START - 0.5 + level) for name, level in zip(CHAIN, levels, strict=True)}
    claim = only(patching_claims(measured(outcomes)), "further")
    assert claim.verdict == verdict
    steps = np.diff([0.5, *levels])
    shown = "; ".join(
        f"{label} {step:+.3f} ({step:+.3f} to {step:+.3f})".replace("-", "−")
        for label, step in zip(("TP↓", "+AN↓", "+TN↓", "+AP↓"), steps, strict=True)
    )
    assert claim.here.replace("−0.000", "+0.000") == shown.replace("−0.000", "+0.000")


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
    claim = only(claims, "steering")
    assert claim.verdict == verdict
    assert claim.here.endswith("against steer-2")


WIDE_RISE = np.array([-0.5, 0.5, 0.15])
WIDE_F1 = np.array([0.1, 1.9, 0.5, 1.0])


@pytest.mark.parametrize(
    ("rise", "f1", "verdicts"),
    [
        (0.02, 0.871, ("held", "held")),
        (0.06, 0.84, ("not held", "not held")),
        (-0.4, 1.2, ("held", "held")),
        (WIDE_RISE, WIDE_F1, ("open", "open")),
    ],
)
def test_quality_is_judged_with_its_intervals(rise, f1, verdicts):
    claims = patching_claims(measured({FOUR: outcome(making(1), rise=rise, f1=f1)}))
    both = only(claims, "four groups leaves log-perplexity"), only(claims, "four groups lowers F1")
    assert tuple(claim.verdict for claim in both) == verdicts


@pytest.mark.parametrize(
    ("edits", "verdict"),
    [
        ({"a": making(0.5), "b": making(1.1)}, "held"),
        ({"a": making(0.5), "b": making(0.9)}, "not held"),
        ({"a": making(0.5), "b": making(1.0) + noise(6)}, "open"),
        ({"a": making(1.0)}, "open"),
    ],
)
def test_editing_outdoes_dpo_if_one_edit_does(edits, verdict):
    rows = [condition(name, "edit", section="Editing") for name in edits]
    claims = patching_claims(measured({name: outcome(toxicity) for name, toxicity in edits.items()}, rows))
    claim = only(claims, "Editing reduces more")
    assert claim.verdict == verdict
    certain = 1 if verdict == "held" else 0
    assert claim.here.startswith(f"{certain} of {len(edits)}; the lowest, ")


def test_the_lowest_edit_is_that_of_lowest_mean():
    rows = [condition(name, "edit", section="Editing") for name in ("lower", "wider")]
    outcomes = {"lower": outcome(making(1.0)), "wider": outcome(making(0.9) + noise(8) - np.mean(noise(8)))}
    assert "the lowest, lower:" in only(patching_claims(measured(outcomes, rows)), "Editing").here


def test_the_quality_of_the_best_edit_is_a_claim_of_its_own():
    rows = [condition(name, "edit", section="Editing") for name in ("low", "good", "weak")]
    outcomes = {
        "low": outcome(making(1.5), f1=0.5, rise=1.0),
        "good": outcome(making(1.1), f1=0.95, rise=0.5),
        "weak": outcome(making(0.2)),
    }
    claims = patching_claims(measured(outcomes, rows))
    assert only(claims, "(good) leaves log-perplexity").verdict == "not held"
    assert only(claims, "(good) lowers F1").verdict == "held"
    assert "the lowest, low:" in only(claims, "Editing").here
    only_weak = patching_claims(measured({"weak": outcomes["weak"]}, rows[2:]))
    assert [claim.says for claim in only_weak] == ["Editing reduces more than DPO does"]


def test_what_was_not_measured_makes_no_claim():
    assert patching_claims(measured({})) == []
    assert len(patching_claims(measured({name: outcome(making(0.5)) for name in CHAIN}))) == 4


# The paper's own numbers

PAPER = {
    "GPT-2": (0.545, 0.210, 0.479, 0.465, [0.407, 0.216, 0.194, 0.139], 0.310, 0.853, 0.123, 0.00, 0.170 / 0.193),
    "Llama": (0.496, 0.241, 0.491, 0.488, [0.488, 0.465, 0.391, 0.278], 0.335, 0.536, 0.045, 0.00, 0.207 / 0.225),
    "Gemma": (0.488, 0.245, 0.487, 0.482, [0.470, 0.337, 0.307, 0.260], 0.260, 0.686, 0.199, -0.03, 0.213 / 0.231),
    "Mistral": (0.507, 0.191, 0.505, 0.455, [0.502, 0.307, 0.238, 0.138], 0.350, 0.611, 0.038, 0.02, 0.209 / 0.221),
}
"""Tables 2 and 19: none, DPO, toxic tokens, 256, the chain of groups, steering, ↑, the edit with β = 0.8; of the four
groups the rise of log-PPL and the ratio of F1."""


@pytest.mark.parametrize("model", PAPER)
def test_the_papers_own_scores_meet_the_rules(model):
    none, dpo, tokens, most, chain, steering, increasing, edit, rise, f1 = PAPER[model]
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
        "edit": outcome(edit * flat, f1=0.871),
    }
    rows = [condition("steer-1", "steer", alpha=1), condition("edit", "edit")]
    claims = patching_claims(measured(outcomes, rows))
    assert len(claims) == 11
    missed = {claim.says: claim.verdict for claim in claims if claim.verdict != "held"}
    # Table 2 has Gemma-2 at 0.260 both with four groups patched and steered.
    equal = {"Patching all four groups reduces more than steering does": "open"}
    assert missed == (equal if model == "Gemma" else {})


# The table


def test_the_table_holds_every_claim_in_data_and_cells(found):
    claims = neuron_claims(found)
    table = claims_table("m", claims)
    assert table.to_polars().columns == ["section", "claim", "paper", "here", "verdict", "rule"]
    assert table.to_polars().rows() == list(table.rows)
    parts = ("section", "says", "paper", "here", "verdict", "rule")
    assert table.rows[0] == tuple(getattr(claims[0], part) for part in parts)
    assert len(table.rows) == len(claims) == 12
    assert claims_table("m", []).rows == ()
