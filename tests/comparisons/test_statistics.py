"""Estimates and intervals against scipy, second implementations and simulated experiments with a known truth."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from rewardft.comparisons import interquartile
from rewardft.comparisons.interquartile import iqm_variance_over_seeds
from rewardft.comparisons.statistics import (
    difference_interval,
    iqm_interval,
    mean_interval,
    probability_of_improvement,
    set_interval,
    t_quantile,
)
from rewardft.errors import DataError

ESTIMATES = {
    "mean": mean_interval,
    "iqm": iqm_interval,
    "difference": lambda table: difference_interval(table, 0.5 * table[:1] ** 2),
}
# Variances of seed, sample and rest.
NO_SEED_EFFECT, SMALL_SEED_EFFECT, SEEDS_AS_SAMPLES, SEEDS_DOMINATE, REST_ALONE = (
    (0, 1, 0.3),
    (0.02, 1, 0.3),
    (0.3, 1, 0.3),
    (25, 1, 1),
    (0, 0, 1),
)
ALL_PARTS = (NO_SEED_EFFECT, SMALL_SEED_EFFECT, SEEDS_AS_SAMPLES, SEEDS_DOMINATE, REST_ALONE)


def simulate(rng, seeds, samples, parts, skewed=False):
    seed, sample, rest = np.sqrt(parts)
    of_samples = rng.standard_exponential(samples) - 1 if skewed else rng.standard_normal(samples)
    return (
        seed * rng.standard_normal((seeds, 1))
        + sample * of_samples
        + rest * rng.standard_normal((seeds, samples))
    )


def make_table(seeds=3, samples=16, number=0):
    return simulate(np.random.default_rng(number), seeds, samples, (0.3, 1, 0.3)) + 0.7


def bounds(interval):
    return interval.low, interval.high


def everything(interval):
    return interval.value, interval.low, interval.high


def coverage(estimate, seeds, samples, parts, truth=0.0, skewed=False, experiments=1000):
    """Per cent of simulated experiments whose interval contains the truth."""
    rng = np.random.default_rng([2026, seeds, samples])
    found = [estimate(simulate(rng, seeds, samples, parts, skewed)) for _ in range(experiments)]
    return 100 * np.mean([interval.low <= truth <= interval.high for interval in found])


# --- coverage


@pytest.mark.parametrize("parts", ALL_PARTS)
@pytest.mark.parametrize("seeds", [3, 5])
def test_the_means_interval_covers_93_to_97_of_100_experiments(seeds, parts):
    assert (
        93 <= coverage(mean_interval, seeds, 64, parts, experiments=2000) <= 97
    )  # -+ 0.5 by chance


@pytest.mark.parametrize("parts", ALL_PARTS)
def test_with_two_seeds_the_interval_is_too_wide_sooner_than_too_narrow(parts):
    assert 93 <= coverage(mean_interval, 2, 64, parts) <= 98


def test_with_one_seed_the_interval_covers_new_samples():
    assert 93 <= coverage(mean_interval, 1, 64, (0, 1, 0.3)) <= 97


@pytest.mark.parametrize("parts", [NO_SEED_EFFECT, SEEDS_AS_SAMPLES, SEEDS_DOMINATE])
@pytest.mark.parametrize("seeds", [3, 5])
def test_the_interquartile_means_interval_covers_93_to_97_of_100_experiments(seeds, parts):
    assert 93 <= coverage(iqm_interval, seeds, 32, parts) <= 97


def test_paired_differences_and_probabilities_cover():
    def shifted(table):
        return probability_of_improvement(table + 1, np.zeros((1, table.shape[1])))

    truth = stats.norm.cdf(1 / math.sqrt(1.32))
    assert (
        93
        <= coverage(
            lambda table: difference_interval(table + 3, np.full((1, 64), 3.0)),
            3,
            64,
            (0.1, 1, 0.3),
        )
        <= 97
    )
    assert 93 <= coverage(shifted, 3, 64, SMALL_SEED_EFFECT, truth) <= 97


def test_missing_values_cost_no_coverage():
    holes = np.random.default_rng(1).random((3, 64)) < 0.2
    assert (
        93
        <= coverage(
            lambda table: mean_interval(np.where(holes, np.nan, table)), 3, 64, SEEDS_AS_SAMPLES
        )
        <= 97
    )


def test_skewed_samples_cost_little():
    assert 92 <= coverage(mean_interval, 3, 16, NO_SEED_EFFECT, skewed=True) <= 97


@pytest.mark.slow
@pytest.mark.parametrize("parts", ALL_PARTS)
@pytest.mark.parametrize("samples", [16, 64, 256])
@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_every_setting_covers(seeds, samples, parts):
    low, high = (92.5, 98.5) if seeds == 2 else (93, 98)  # 45 settings, each -+ 0.7 by chance
    assert low <= coverage(mean_interval, seeds, samples, parts) <= high
    assert low <= coverage(iqm_interval, seeds, samples, parts) <= high


# --- against scipy and second implementations


def test_quantiles_are_students():
    freedoms = [*range(1, 40), 99, 255, 511, 5000]
    assert [t_quantile(n) for n in freedoms] == pytest.approx(
        [stats.t.ppf(0.975, n) for n in freedoms], rel=1e-11
    )


def test_one_seed_gives_the_t_interval_of_the_samples():
    table = make_table(seeds=1)
    assert bounds(mean_interval(table)) == pytest.approx(
        tuple(stats.ttest_1samp(table[0], 0).confidence_interval())
    )


def test_one_sample_gives_the_t_interval_of_the_seeds():
    table = make_table(samples=1)
    expected = tuple(stats.ttest_1samp(table[:, 0], 0).confidence_interval())
    assert bounds(mean_interval(table)) == pytest.approx(expected)
    assert bounds(set_interval(table[:, 0])) == pytest.approx(expected)
    assert set_interval([1.0, math.nan, 3.0]) == set_interval([1.0, 3.0])


def test_differences_with_one_seed_are_the_paired_t_test():
    after, before = make_table(1, number=1), make_table(1, number=2)
    found = difference_interval(after, before)
    assert bounds(found) == pytest.approx(
        tuple(stats.ttest_rel(after[0], before[0]).confidence_interval())
    )
    assert found.value == pytest.approx(np.mean(after - before))


def test_the_mean_follows_the_analysis_of_variance_by_hand():
    # Rows (1, 2, 6) and (3, 8, 4): grand mean 4, row means 3 and 5, column means 2, 5 and 5.
    # Mean squares: rows 3(1 + 1) / 1 = 6; columns 2(4 + 1 + 1) / 2 = 6; residuals (0, -2, 2) and (0, 2, -2): 16 / 2 = 8.
    # Samples' part max(6 - 8, 0) = 0, so the variance is 6 / 6 = 1 with one degree of freedom.
    t = stats.t.ppf(0.975, 1)
    assert everything(mean_interval([[1, 2, 6], [3, 8, 4]])) == pytest.approx((4, 4 - t, 4 + t))
    table = np.array([[0.0, 4, 8], [2, 6, 13]])
    rows, columns, mean = table.mean(1), table.mean(0), table.mean()
    rest = (
        sum((table[i, j] - rows[i] - columns[j] + mean) ** 2 for i in range(2) for j in range(3))
        / 2
        / 6
    )
    of_seeds, of_samples = np.var(rows, ddof=1) / 2, np.var(columns, ddof=1) / 3 - rest
    share = of_seeds / (of_seeds + of_samples)
    quantile = share**1.2 * t + (1 - share**1.2) * stats.t.ppf(0.975, 2)
    half = quantile * math.sqrt(of_seeds + of_samples)
    assert everything(mean_interval(table)) == pytest.approx((5.5, 5.5 - half, 5.5 + half))


@pytest.mark.parametrize("shape", [(1, 4), (1, 7), (2, 9), (3, 5), (5, 64), (1, 1), (1, 3)])
def test_the_interquartile_mean_is_scipys(shape):
    table = make_table(*shape)
    assert iqm_interval(table).value == pytest.approx(stats.trim_mean(table.ravel(), 0.25))


def test_one_seeds_interquartile_mean_has_the_winsorized_standard_error():
    table = make_table(1, 64)
    error = stats.mstats.trimmed_stde(table[0], limits=(0.25, 0.25))
    found = iqm_interval(table)
    assert found.high - found.value == pytest.approx(stats.t.ppf(0.975, 63) * error)


@pytest.mark.parametrize(
    ("estimate", "statistic"), [(mean_interval, np.mean), (iqm_interval, stats.trim_mean)]
)
def test_one_seeds_standard_error_is_that_of_scipys_bootstrap(estimate, statistic):
    table = make_table(1, 400)
    arguments = {"proportiontocut": 0.25} if statistic is stats.trim_mean else {}
    resampled = stats.bootstrap(
        table,
        lambda x, axis: statistic(x, axis=axis, **arguments),
        n_resamples=4000,
        rng=np.random.default_rng(0),
    )
    found = estimate(table)
    assert (found.high - found.low) / 2 / t_quantile(399) == pytest.approx(
        resampled.standard_error, rel=0.06
    )


@pytest.mark.parametrize("seeds", [2, 3, 4])
def test_the_bootstrap_over_seeds_is_exact(seeds):
    table = make_table(seeds, 6)
    estimates = [
        stats.trim_mean(table[list(way)].ravel(), 0.25)
        for way in itertools.product(range(seeds), repeat=seeds)
    ]
    assert iqm_variance_over_seeds(table, 0) == pytest.approx(
        np.var(estimates) * seeds / (seeds - 1)
    )


def test_many_seeds_are_drawn_at_random_and_close_to_exact(monkeypatch):
    table = make_table(6, 16)
    drawn = iqm_variance_over_seeds(table, 0)
    assert (
        drawn
        == iqm_variance_over_seeds(table, 0)
        == pytest.approx(iqm_variance_over_seeds(table[::-1], 0), rel=1e-9)
    )
    assert drawn != iqm_variance_over_seeds(table, 1)
    monkeypatch.setattr(interquartile, "EXACT_SEEDS", 6)
    assert drawn == pytest.approx(iqm_variance_over_seeds(table, 0), rel=0.2)


def test_the_probability_counts_pairs_and_halves_ties():
    after, before = np.array([[2.0, 0, 5, 1], [3, 1, 5, 0]]), np.array([[1.0, 1, 5, 1]])
    found = probability_of_improvement(after, before)
    assert found.value == (1 + 0 + 0.5 + 0.5 + 1 + 0.5 + 0.5 + 0) / 8
    assert 0 <= found.low < found.value < found.high <= 1


def test_against_one_value_the_probability_is_mann_whitneys():
    after = make_table(1, 30)
    found = probability_of_improvement(after, np.full((1, 30), 0.5))
    assert found.value == pytest.approx(stats.mannwhitneyu(after[0], [0.5]).statistic / 30)


@pytest.mark.parametrize("sign", [1, -1])
def test_if_every_pair_improves_the_interval_is_wilsons_for_the_samples(sign):
    found = probability_of_improvement(np.full((3, 40), sign), np.zeros((1, 40)))
    level = 2 * stats.norm.cdf(stats.t.ppf(0.975, 39)) - 1
    expected = stats.binomtest(40 * (sign > 0), 40).proportion_ci(level, method="wilson")
    assert bounds(found) == pytest.approx((expected.low, expected.high))
    assert found.value == (sign > 0)


# --- invariances


@pytest.mark.parametrize("shape", [(1, 8), (3, 16), (7, 5)])
@pytest.mark.parametrize("estimate", [mean_interval, iqm_interval])
def test_shift_scale_and_sign_carry_over(estimate, shape):
    table = make_table(*shape)
    value, low, high = everything(estimate(table))
    assert everything(estimate(3 * table + 10)) == pytest.approx(
        (3 * value + 10, 3 * low + 10, 3 * high + 10)
    )
    if len(table) <= interquartile.EXACT_SEEDS:  # draws are of seeds in ascending order
        assert everything(estimate(-table)) == pytest.approx((-value, -high, -low))


@pytest.mark.parametrize("shape", [(3, 16), (7, 5)])
@pytest.mark.parametrize("name", ESTIMATES)
def test_the_order_of_seeds_and_samples_does_not_matter(name, shape):
    table = make_table(*shape)
    table[0, 1] = math.nan
    rng = np.random.default_rng(3)
    shuffled = table[:, rng.permutation(shape[1])]
    if name != "difference":  # which pairs its rows with the first
        shuffled = shuffled[rng.permutation(shape[0])]
    assert everything(ESTIMATES[name](shuffled)) == pytest.approx(
        everything(ESTIMATES[name](table)), rel=1e-9
    )


def test_exchanging_before_and_after_turns_the_results_round():
    after, before = make_table(number=1), make_table(number=2)
    value, low, high = everything(difference_interval(after, before))
    assert everything(difference_interval(before, after)) == pytest.approx((-value, -high, -low))
    value, low, high = everything(probability_of_improvement(after, before))
    assert everything(probability_of_improvement(before, after)) == pytest.approx(
        (1 - value, 1 - high, 1 - low)
    )


# --- edges


def test_one_base_for_all_seeds_is_the_same_as_its_copies():
    after, before = make_table(number=1), make_table(1, number=2)
    for estimate in (difference_interval, probability_of_improvement):
        assert estimate(after, before) == estimate(after, np.repeat(before, 3, axis=0))


@pytest.mark.parametrize("estimate", [mean_interval, iqm_interval])
def test_seeds_and_samples_without_values_do_not_count(estimate):
    table = make_table()
    padded = np.full((5, 18), math.nan)
    padded[1:4, 1:17] = table
    assert estimate(padded) == estimate(table)


@pytest.mark.parametrize("estimate", [mean_interval, iqm_interval])
def test_missing_values_are_left_out(estimate):
    holes = make_table(2, 20)
    holes[0, ::2] = math.nan
    known = holes[~np.isnan(holes)]
    expected = known.mean() if estimate is mean_interval else stats.trim_mean(known, 0.25)
    assert estimate(holes).value == pytest.approx(expected)


def test_nan_on_either_side_leaves_the_pair_out():
    after, before = make_table(1, 6, 1), make_table(1, 6, 2)
    after[0, 0], before[0, 3] = math.nan, math.nan
    rest = [1, 2, 4, 5]
    for estimate in (difference_interval, probability_of_improvement):
        assert estimate(after, before) == estimate(after[:, rest], before[:, rest])


@pytest.mark.parametrize("estimate", [mean_interval, iqm_interval])
def test_constant_values_have_a_point_for_an_interval(estimate):
    assert everything(estimate(np.full((3, 8), 0.25))) == (0.25, 0.25, 0.25)


@pytest.mark.parametrize("table", [np.full((2, 3), math.nan), np.empty((0, 4)), np.empty((3, 0))])
def test_no_values_give_nan(table):
    for interval in (
        mean_interval(table),
        iqm_interval(table),
        probability_of_improvement(table, table),
    ):
        assert np.isnan(everything(interval)).all()


def test_one_value_has_no_bounds():
    one = [[2.0]]
    found = [
        mean_interval(one),
        iqm_interval(one),
        difference_interval(one, [[0.5]]),
        set_interval([2.0]),
    ]
    assert [interval.value for interval in found] == [2.0, 2.0, 1.5, 2.0]
    better = probability_of_improvement(one, [[0.5]])
    assert better.value == 1
    assert np.isnan([bounds(interval) for interval in [*found, better]]).all()


def test_infinite_values_have_no_bounds():
    found = mean_interval([[1.0, math.inf], [2.0, 3.0]])
    assert found.value == math.inf and np.isnan(bounds(found)).all()
    assert probability_of_improvement([[math.inf, -math.inf]], [[0.0, 0.0]]).value == 0.5
    middle = iqm_interval([[-math.inf, 1.0, 2.0, math.inf]])
    assert middle.value == 1.5 and np.isfinite(bounds(middle)).all()


def test_wrong_shapes_are_named():
    with pytest.raises(DataError) as caught:
        mean_interval(np.zeros(3))
    assert str(caught.value) == "statistics need a table (seeds, samples), got the shape (3,)."
    with pytest.raises(DataError) as caught:
        difference_interval(np.zeros((3, 4)), np.zeros((3, 1)))
    assert str(caught.value) == (
        "pairs need `after` (seeds, samples) and `before` of the same shape or (1, samples), got (3, 4) and (3, 1)."
    )
