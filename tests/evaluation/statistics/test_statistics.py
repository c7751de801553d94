"""The bootstrap against a loop over the same draws, and what it promises to whoever compares."""

import itertools
import json
import math

import numpy as np
import pytest
from scipy.stats import norm, t, ttest_1samp

from dposcope.errors import DposcopeError
from dposcope.evaluation import bootstrap
from dposcope.evaluation.statistics.comparisons import (
    bootstrap_mean,
    bootstrap_ratio,
    paired_difference,
    paired_ratio,
    paired_share,
)
from dposcope.evaluation.statistics.intervals import Difference, Estimate, Ratio, Share, columns_of
from dposcope.evaluation.statistics.significance import holm, sign_flip_p


def sample(n=37, seed=3):
    return np.random.default_rng(seed).gamma(2.0, size=n)


def naive_draws(n, resamples, seed):
    """One item after another, all resamples in a row."""
    generator = np.random.default_rng(seed)
    return [generator.integers(0, n, size=n) for _ in range(resamples)]


def naive_interval(statistic, n, resamples, seed, level=0.95):
    """BCa with Student's tails. `statistic`: rows → number."""
    ordered = sorted(statistic(draw) for draw in naive_draws(n, resamples, seed))

    def quantile(share):
        place = share * (len(ordered) - 1)
        below = int(place)
        above = min(below + 1, len(ordered) - 1)
        return ordered[below] + (place - below) * (ordered[above] - ordered[below])

    here = statistic(range(n))
    bias = norm.ppf(sum((number < here) + 0.5 * (number == here) for number in ordered) / resamples)
    without = [statistic([row for row in range(n) if row != left_out]) for left_out in range(n)]
    middle = sum(without) / n
    skew = sum((middle - one) ** 3 for one in without) / (6 * sum((middle - one) ** 2 for one in without) ** 1.5)
    ends = []
    for side in (-1, 1):
        z = side * math.sqrt(n / (n - 1)) * t.ppf((1 + level) / 2, n - 1)
        ends.append(quantile(norm.cdf(bias + (bias + z) / (1 - skew * (bias + z)))))
    return tuple(ends)


def mean_of(column):
    return lambda rows: sum(column[row] for row in rows) / len(rows)


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_mean_is_the_naive_loop(level):
    values = sample()
    estimate = bootstrap_mean(values, level=level, resamples=300, seed=5)
    low, high = naive_interval(mean_of(values), 37, 300, 5, level)
    assert estimate.mean == pytest.approx(sum(values) / 37, rel=1e-14)
    assert (estimate.low, estimate.high) == pytest.approx((low, high), rel=1e-12)
    assert estimate.n == 37


def test_ratio_is_the_naive_loop():
    losses, tokens = sample(), np.arange(1, 38)
    estimate = bootstrap_ratio(losses, tokens, resamples=300, seed=1)
    expected = naive_interval(lambda rows: sum(losses[i] for i in rows) / sum(tokens[i] for i in rows), 37, 300, 1)
    assert (estimate.low, estimate.high) == pytest.approx(expected, rel=1e-12)
    assert estimate.mean == pytest.approx(losses.sum() / tokens.sum(), rel=1e-14)


def test_ratio_with_equal_denominators_is_the_mean():
    losses = sample()
    ratio, mean = bootstrap_ratio(losses, np.full(37, 4.0)), bootstrap_mean(losses / 4)
    assert list(ratio.to_dict().values()) == pytest.approx(list(mean.to_dict().values()), rel=1e-12)


def test_difference_is_the_naive_loop():
    a, b, tokens = sample(seed=1), sample(seed=2), np.arange(1, 38)
    plain = paired_difference(a, b, resamples=300, seed=9)
    expected = naive_interval(lambda rows: mean_of(a)(rows) - mean_of(b)(rows), 37, 300, 9)
    assert (plain.low, plain.high) == pytest.approx(expected, rel=1e-10)
    assert plain.mean == pytest.approx(a.mean() - b.mean(), rel=1e-12)

    weighted = paired_difference(a, b, denominators=tokens, resamples=300, seed=9)
    expected = naive_interval(lambda rows: sum(a[i] - b[i] for i in rows) / sum(tokens[i] for i in rows), 37, 300, 9)
    assert (weighted.low, weighted.high) == pytest.approx(expected, rel=1e-10)
    assert weighted.mean == pytest.approx((a.sum() - b.sum()) / tokens.sum(), rel=1e-12)


def test_paired_ratio_is_the_naive_loop():
    a, b = sample(seed=1), sample(seed=2)
    ratio = paired_ratio(a, b, resamples=300, seed=9)
    expected = naive_interval(lambda rows: mean_of(a)(rows) / mean_of(b)(rows), 37, 300, 9)
    assert (ratio.low, ratio.high) == pytest.approx(expected, rel=1e-12)
    assert ratio.ratio == pytest.approx(a.mean() / b.mean(), rel=1e-14)


def test_paired_ratio_of_counted_means_is_the_naive_loop():
    a, b, a_counts, b_counts = (sample(seed=seed) for seed in (1, 2, 3, 4))
    found = paired_ratio(a, b, a_counts=a_counts, b_counts=b_counts, resamples=300, seed=9)

    def ratio(rows):
        top, bottom, top_counts, bottom_counts = (sum(one[i] for i in rows) for one in (a, b, a_counts, b_counts))
        return (top / top_counts) / (bottom / bottom_counts)

    assert found.ratio == pytest.approx(ratio(range(37)), rel=1e-12)
    assert (found.low, found.high) == pytest.approx(naive_interval(ratio, 37, 300, 9), rel=1e-10)


def test_share_is_the_naive_loop():
    base, noise = 1 + sample(), sample(seed=8)
    part, whole = 0.8 * base + 0.02 * noise, 0.3 * base
    found = paired_share(base, part, whole, resamples=300, seed=4)

    def share(rows):
        start, middle, end = (sum(column[i] for i in rows) for column in (base, part, whole))
        return (start - middle) / (start - end)

    assert found.share == pytest.approx(share(range(37)), rel=1e-12)
    expected = naive_interval(share, 37, 300, 4)
    assert (found.low, found.high) == pytest.approx(expected, rel=1e-12)
    assert found.n == 37


def test_share_of_the_whole_is_one_and_of_nothing_zero():
    base = 1 + sample()
    assert paired_share(base, 0.5 * base, 0.5 * base) == Share(1.0, 1.0, 1.0, 37)
    assert paired_share(base, base, 0.5 * base) == Share(0.0, 0.0, 0.0, 37)
    assert paired_share(base, 1.1 * base, 0.5 * base).high == pytest.approx(-0.2)
    worse = paired_share(base, 1.1 * base, 0.5 * base)
    assert worse.share == pytest.approx(-0.2)
    assert str(worse) == "−20.0 % (−20.0 to −20.0)"
    assert str(Share(0.239, 0.12, 0.361, 200)) == "23.9 % (12.0–36.1)"
    assert Share.from_dict(worse.to_dict()) == worse


@pytest.mark.parametrize("factor", [1.0, 1.2])
def test_share_of_no_reduction_is_refused(factor):
    base = sample()
    with pytest.raises(DposcopeError, match="a share of it means nothing"):
        paired_share(base, 0.5 * base, factor * base)
    with pytest.raises(DposcopeError, match="a share of it means nothing"):
        paired_share([0.0, 1.0, 0.5, 0.2] * 5, [0.0] * 20, [0.1, 0.9, 0.4, 0.2] * 5)
    with pytest.raises(DposcopeError, match="part 2; give the same items"):
        paired_share([0.0, 1.0, 0.5], [0.0, 0.0], [0.0, 0.0, 0.0])


def test_pairing_removes_what_the_items_share():
    shared = sample(200) * 10
    a, b = shared + 0.1, shared
    assert bootstrap_mean(a).low < bootstrap_mean(b).high
    assert paired_difference(a, b).excludes_zero
    # A constant factor has a ratio without any spread, though both means have much.
    half = paired_ratio(shared / 2, shared)
    assert (half.low, half.high) == pytest.approx((0.5, 0.5), rel=1e-12)


def test_chunks_change_nothing(monkeypatch):
    values = sample()
    whole = bootstrap_mean(values, resamples=1000)
    monkeypatch.setattr(bootstrap, "_DRAWN_AT_ONCE", 37 * 7 + 5)
    assert bootstrap_mean(values, resamples=1000) == whole
    monkeypatch.setattr(bootstrap, "_DRAWN_AT_ONCE", 1)
    assert bootstrap_mean(values, resamples=1000) == whole


def test_seed_decides_the_interval_alone():
    values = sample()
    assert bootstrap_mean(values) == bootstrap_mean(values, seed=0)
    other = bootstrap_mean(values, seed=1)
    assert other.mean == bootstrap_mean(values).mean
    assert other.low != bootstrap_mean(values).low


@pytest.mark.parametrize("n", [1, 2, 9])
def test_too_few_items_have_no_interval(n):
    values = sample(n)
    estimate, difference = bootstrap_mean(values), paired_difference(values, values + 1)
    assert (estimate.low, estimate.high) == (-math.inf, math.inf)
    assert not estimate.known
    assert estimate.to_dict() == {"mean": values.mean(), "low": None, "high": None, "n": n}
    assert Estimate.from_dict(json.loads(json.dumps(estimate.to_dict()))) == estimate
    assert str(Estimate(0.3, -math.inf, math.inf, n)) == f"0.300 (n = {n}, no interval)"
    assert str(difference) == f"−1.000 (n = {n}, no interval)"
    assert columns_of("x", estimate) == {"x": values.mean(), "x_low": None, "x_high": None, "x_n": n}
    assert not difference.excludes_zero
    assert not difference.shown
    assert difference.doubt == f"n = {n}, no interval"
    assert difference.p == 1
    assert bootstrap_mean(sample(10)).known


@pytest.mark.parametrize("shift", [-0.4, -0.1, 0.0, 0.05, 0.3, 1.6])
def test_the_p_value_is_the_level_at_which_the_interval_ends_at_zero(shift):
    a, b = sample(seed=1) + shift, sample(seed=2)
    p = paired_difference(a, b, resamples=100_000).p
    for level, inside in ((1 - 1.1 * p, False), (1 - 0.9 * p, True)):
        if 0 < level < 1:
            found = paired_difference(a, b, level=level, resamples=100_000)
            assert (found.low <= 0 <= found.high) is inside
    assert 1e-4 <= p <= 1


def test_a_difference_in_every_item_has_the_smallest_p_value_and_none_has_the_largest():
    values = sample()
    assert paired_difference(values, values).p == 1
    assert paired_difference(values, values - 1).p == 0


def test_a_p_value_is_smaller_than_a_share_of_resamples_can_show():
    """About that of Student's t, however few the resamples are."""
    values = np.random.default_rng(0).normal(0.5, 0.2, size=32)
    expected = ttest_1samp(values, 0).pvalue
    assert expected < 1e-12
    for resamples in (500, 10_000):
        found = paired_difference(values, 0 * values, resamples=resamples).p
        assert -2 < math.log10(found) - math.log10(expected) < 2


def test_nothing_is_significant_whose_interval_holds_zero():
    """Measures that are 0, 1 or −1 give many resamples that are exactly 0. The first has 0.125 by a sign test."""
    six_to_one = np.array([1.0] * 6 + [-1.0] + [0.0] * 21)
    draw = np.random.default_rng(0)
    drawn = [(draw.random(n) < 0.3) * 1.0 - (draw.random(n) < 0.12) for n in range(12, 60)]
    found = [paired_difference(one, np.zeros(len(one)), resamples=2000) for one in (six_to_one, *drawn)]
    assert sum(one.p < 0.05 for one in found) >= 10
    assert all(one.excludes_zero for one in found if one.p < 0.05)
    assert found[0].p > 0.05


@pytest.mark.parametrize("shift", [0.0, 0.2, -0.6])
def test_the_sign_flip_test_tries_all_signs(shift):
    """Against every assignment of signs to twelve pairs."""
    differences = np.random.default_rng(3).normal(shift, 1, size=12)
    signs = np.array(list(itertools.product([-1, 1], repeat=12)))
    exact = np.mean(np.abs(signs @ differences) >= abs(differences.sum()) - 1e-9)
    tail = 2 * norm.sf(abs(differences.sum()) / np.sqrt((differences**2).sum()))
    assert sign_flip_p(differences, flips=100_000) == pytest.approx(max(exact, tail), rel=0.05)
    few = np.append(differences, np.zeros(30))
    assert sign_flip_p(few, flips=100_000) == sign_flip_p(differences, flips=100_000)
    assert sign_flip_p(-differences) == sign_flip_p(differences)
    assert sign_flip_p(differences[:9]) == 1
    assert sign_flip_p(np.zeros(12)) == 1


def test_one_pair_that_differs_is_no_difference_however_little_the_others_vary():
    differences = np.full(30, -1e-9)
    differences[0] = -0.964
    found = paired_difference(differences, np.zeros(30))
    assert found.p < 1e-6
    assert found.p_mark > 0.3
    assert found.excludes_zero
    assert not found.shown
    assert not found.falls
    assert not found.rises
    assert found.doubt.replace("\u00a0", " ") == f"the sign-flip test has p = {found.p_sign:.3f}"


@pytest.mark.parametrize("shift", [-0.4, -0.1, -0.02, 0.0, 0.02, 0.1, 0.4])
def test_what_is_shown_of_one_condition_is_what_is_marked_in_a_column_of_one(shift):
    """Both by the definition: the interval of 95 % does not hold 0, and neither p-value is above 0.05."""
    draw = np.random.default_rng(5)
    for n in (12, 40):
        for sparse in (1.0, 0.15):
            differences = (draw.normal(0, 0.2, n) + shift) * (draw.random(n) < sparse)
            found = paired_difference(differences, np.zeros(n))
            assert found.shown == (not found.low <= 0 <= found.high and sign_flip_p(differences) <= 0.05)
            assert found.shown == holm([found.p_mark])[0]
            assert (found.falls, found.rises) == (found.shown and found.mean < 0, found.shown and found.mean > 0)
            assert (found.doubt == "") == found.shown


def test_marks_keep_their_level_where_few_pairs_differ():
    """Real conditions change few texts: the sign of each pair's difference by chance, in columns of twelve."""
    draw = np.random.default_rng(0)
    marked = by_interval = 0
    for _ in range(100):
        sparse = draw.exponential(0.3, size=(12, 40)) * (draw.random((12, 40)) < 0.12)
        found = [paired_difference(row * draw.choice([-1, 1], size=40), np.zeros(40), resamples=1000) for row in sparse]
        marked += any(holm([one.p_mark for one in found]))
        by_interval += any(holm([one.p for one in found]))
    assert marked <= 10
    assert by_interval >= 30


def test_holm_is_the_definition():
    """All hypotheses whose p-value, and every smaller one, is at most level over the number of those not smaller."""
    generator = np.random.default_rng(0)
    for _ in range(200):
        p = (generator.random(7) ** 4).tolist()
        expected = [all(sorted(p)[rank] <= 0.05 / (7 - rank) for rank in range(sorted(p).index(one) + 1)) for one in p]
        assert holm(p) == expected
    assert holm([0.01, 0.04, 0.03, 0.005]) == [True, False, False, True]
    assert holm([]) == []


def test_one_in_twenty_tables_without_any_effect_has_a_star():
    """Twelve conditions that differ from none by nothing: each is one test, and 46 % of such tables would have a star
    without a correction."""
    generator = np.random.default_rng(1)
    starred = uncorrected = 0
    for _ in range(200):
        base = generator.beta(0.5, 2, size=60)
        found = [paired_difference(base + generator.normal(0, 0.1, size=60), base, resamples=1000) for _ in range(12)]
        starred += any(holm([one.p for one in found]))
        uncorrected += any(one.excludes_zero for one in found)
    assert starred / 200 <= 0.10
    assert uncorrected / 200 >= 0.30


def test_sums_are_float64_whatever_comes_in():
    values = np.array([1.0, 2**-20], dtype=np.float16).repeat(5000)
    assert bootstrap_mean(values, resamples=2).mean == pytest.approx((1 + 2**-20) / 2, rel=1e-14)


@pytest.mark.parametrize(
    ("low", "high", "excludes"), [(-0.2, -0.1, True), (0.1, 0.2, True), (-0.1, 0.1, False), (0.0, 0.1, False)]
)
def test_excludes_zero(low, high, excludes):
    assert Difference((low + high) / 2, low, high, 5).excludes_zero is excludes


def test_they_read_well():
    assert str(Estimate(0.2191, 0.1869, 0.2512, 200)) == "0.219 (0.187–0.251)"
    assert str(Estimate(-0.01, -0.02, 0.003, 200)) == "−0.010 (−0.020 to 0.003)"
    assert str(Difference(-0.088, -0.102, 0.061, 200)) == "−0.088 (−0.102 to +0.061)"
    assert str(Ratio(0.4812, 0.41, 0.56, 200)) == "0.48 × (0.41–0.56)"


def test_they_survive_json():
    for value in (
        bootstrap_mean(sample()),
        paired_difference(sample(), sample() / 2),
        paired_ratio(sample(), sample()),
    ):
        assert type(value).from_dict(json.loads(json.dumps(value.to_dict()))) == value


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bootstrap_mean([]), "values is empty; a mean needs at least one item"),
        (lambda: bootstrap_mean([[1.0, 2.0]]), r"shape \(1, 2\); give one number per item"),
        (lambda: bootstrap_mean([1.0, np.nan]), "1 of 2 numbers in values is not finite; score those items again"),
        (lambda: paired_ratio([1.0], [np.inf]), "1 of 1 number in b is not finite"),
        (lambda: paired_difference([1.0, 2.0], [1.0]), "a has 2 items and b 1; give the same items to both"),
        (lambda: bootstrap_ratio([1.0, 2.0], [1.0, 0.0]), "denominators must be above 0; leave out"),
        (
            lambda: paired_ratio([1.0, 1.0], [0.0, 1.0]),
            "a ratio needs .* give more items, or use the paired difference",
        ),
        (lambda: bootstrap_mean([1.0], level=1.0), "level is 1.0; give a share between 0 and 1"),
        (lambda: bootstrap_mean([1.0], resamples=0), "resamples is 0; give at least 1"),
    ],
)
def test_bad_input_says_how_to_mend_it(call, message):
    with pytest.raises(DposcopeError, match=message):
        call()
