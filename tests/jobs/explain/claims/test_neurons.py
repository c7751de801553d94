"""Each claim about neurons: its verdict and number on values made by hand, and on those that the paper prints."""

from dataclasses import replace

import pytest
import torch

from dposcope.jobs.explain.claims.claim import Claim
from dposcope.jobs.explain.claims.neurons import neuron_claims
from dposcope.neurons.groups import Group
from dposcope.neurons.ranks import CumulativeReduction, RankRangeShifts
from dposcope.neurons.shifts import Correlation
from dposcope.paper.numbers import paper_values
from helpers.explained import only, pair


@pytest.fixture(scope="module")
def found():
    return pair("llama").explanation


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
    assert about_neurons(changed, "mean activations are negative").verdict == verdict


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


def probed(found, **quality):
    about = {"quality": {**found.direction.about["quality"], **quality}}
    return replace(found, direction=replace(found.direction, about=about))


@pytest.mark.parametrize(
    ("accuracy", "majority", "texts", "verdict"),
    [
        (0.93, 0.904, 10_000, "held"),
        (0.93, 0.95, 10_000, "not held"),  # less than always giving the same answer
        (0.89, 0.5, 10_000, "not held"),
        (0.93, 0.904, 200, "open"),
        (0.93, 0.93, 10_000, "open"),
    ],
)
def test_a_probes_accuracy_is_read_beside_the_larger_class(found, accuracy, majority, texts, verdict):
    claim = about_neurons(probed(found, accuracy=accuracy, majority=majority, test_texts=texts), "probe tells")
    assert claim.verdict == verdict
    assert claim.value == accuracy
    # Wilson's interval, by its own formula.
    z = 1.959964
    centre = (accuracy + z**2 / (2 * texts)) / (1 + z**2 / texts)
    half = z / (1 + z**2 / texts) * (accuracy * (1 - accuracy) / texts + z**2 / (4 * texts**2)) ** 0.5
    assert (claim.low, claim.high) == pytest.approx((centre - half, centre + half), abs=1e-6)
    assert f"the larger class alone {100 * majority:.1f} %" in claim.here


def test_a_direction_without_accuracy_makes_no_claim_of_it(found):
    other = replace(found, direction=replace(found.direction, about={}))
    assert not [claim for claim in neuron_claims(other) if claim.section == "3.1"]
    assert len(neuron_claims(other)) == len(neuron_claims(found)) - 1


@pytest.mark.parametrize("model", ["GPT-2-355M", "Llama-3.1-8B", "Gemma-2-2B", "Mistral-7B"])
def test_the_papers_own_accuracy_meets_the_rule(found, model):
    (printed,) = paper_values(table="11", model=model, measure="accuracy")
    claim = about_neurons(probed(found, accuracy=printed.value, majority=0.904, test_texts=56_180), "probe tells")
    assert claim.verdict == "held"


@pytest.mark.parametrize(
    ("shifts", "verdict", "least"),
    [
        (((1, 1), (1, 1), (-1, -1), (-1,)), "held", 1),
        (((1, 1, -1), (1, 1), (-1, -1), (-1,)), "held", 2 / 3),
        (((1, -1), (1, 1), (-1, -1), (-1,)), "not held", 0.5),
        (((1, 1), (1, 1), (1, 1), (-1,)), "not held", 0),
        (((1, 1), (), (0, 0), ()), "not held", 0),  # what stays shifts no way
        (((1, 1), (), (), (-1,)), "held", 1),
        (((), (), (), ()), "open", None),
    ],
)
def test_groups_shift_as_their_value_vectors_point(found, shifts, verdict, least):
    groups = [Group.TP, Group.TN, Group.AP, Group.AN]
    values = torch.tensor([value for part in shifts for value in part], dtype=torch.float64)
    owner = [group for group, part in zip(groups, shifts, strict=True) for _ in part]
    members = {group: torch.tensor([one is group for one in owner], dtype=torch.bool) for group in groups}
    first, *others = found.ranges.ranges
    changed = RankRangeShifts((replace(first, shift=values, groups=members), *others))
    claim = about_neurons(replace(found, ranges=changed), "Groups shift")
    assert (claim.section, claim.verdict) == ("5.2", verdict)
    assert claim.value == pytest.approx(least)


@pytest.mark.parametrize(
    ("before", "after", "verdict", "value"),
    [(60, 70, "held", 0.6), (60, 50, "not held", 0.5), (40, 90, "not held", 0.4), (100, 51, "held", 0.51)],
)
def test_most_toxic_neurons_are_negative_both_times(found, before, after, verdict, value):
    def means(negative: int) -> torch.Tensor:
        return torch.tensor([-1.0] * negative + [0.0] * (100 - negative), dtype=torch.float64)

    changed = replace(found, top=replace(found.top, before=means(before), after=means(after)))
    claim = about_neurons(changed, "100 most toxic")
    assert (claim.section, claim.verdict) == ("E", verdict)
    assert claim.value == pytest.approx(value)


@pytest.mark.parametrize(("largest", "verdict"), [(44.9, "held"), (45.1, "not held")])
def test_the_subspace_is_stable_when_axes_turn_little(found, largest, verdict):
    # Other steps do not count.
    angles = torch.tensor([[10.0, 80.0], [10.0, largest]], dtype=torch.float64)
    changed = replace(found, stability=replace(found.stability, sizes=(64, 128, 256), angles=angles))
    claim = about_neurons(changed, "is stable")
    assert (claim.verdict, claim.value) == (verdict, largest)
    smaller = replace(found, stability=replace(found.stability, sizes=(32, 64, 128), angles=angles))
    assert not [claim for claim in neuron_claims(smaller) if "is stable" in claim.says]


def test_claims_about_neurons_carry_the_number_that_their_rule_is_about(found):
    shares, layers = found.shares, found.layers
    tp, *_, an = (share.of_contribution for share in shares.groups[:4])
    half = len(layers.reduction) // 2
    expected = {
        "very few": found.toxic_share,
        "Value vectors": found.change.vector_cosine_min,
        "shift slightly": found.change.shift_percent / 100,
        "half increase": shares.share_reducing,
        "net reduction": shares.net,
        "mean activations are negative": shares.negative_before,
        "carry most": tp + an,
        "later layers": float(layers.reduction[-half:].sum() - layers.reduction[:half].sum()),
        "signs of alignment": found.alignment.share - max(found.alignment.random_share, 0.75),
        "signs of the change": found.changes.share - max(found.changes.random_share, 0.75),
        "do not go with": found.correlations.cosine.r,
        "go weakly": found.correlations.activation.r,
    }
    for words, number in expected.items():
        claim = about_neurons(found, words)
        assert claim.value == pytest.approx(number), words
        assert (claim.low, claim.high) == (None, None)
        assert claim.measured


def cumulative(tp, an, *, last=100):
    """Reduction by rank, TP↓ and AN↓ alone: the parts of the first tenth and of all ranks to `last`."""
    ranks = torch.tensor([1, last // 10, last, 2 * last])
    none = torch.zeros(4, dtype=torch.float64)
    groups = {Group.TP: torch.tensor([0, *tp, 1.0]).double(), Group.AN: torch.tensor([0, *an, 1.0]).double()}
    groups |= {Group.TN: none, Group.AP: none}
    return CumulativeReduction(ranks, sum(groups.values()), groups, last)


@pytest.mark.parametrize(
    ("tp", "an", "verdict"),
    [
        ((0.30, 0.40), (0.10, 0.30), "held"),  # TP leads with 0.3 of 0.4; AN has 2/3 of the rest
        ((0.30, 0.40), (0.10, 0.11), "not held"),  # AN loses
        ((0.10, 0.20), (0.30, 0.60), "not held"),  # AN leads
    ],
)
def test_ranks_are_led_as_the_figure_says(found, tp, an, verdict):
    claim = about_neurons(replace(found, cumulative=cumulative(tp, an)), "leads the early ranks")
    assert claim.verdict == verdict
    early, later = an[0] / (tp[0] + an[0]), (an[1] - an[0]) / (tp[1] - tp[0] + an[1] - an[0])
    assert claim.value == pytest.approx(later - early)


def test_few_ranks_have_no_early_and_late(found):
    claims = neuron_claims(replace(found, cumulative=cumulative((0.3, 0.4), (0.1, 0.3), last=10)))
    assert not [claim for claim in claims if "early ranks" in claim.says]
