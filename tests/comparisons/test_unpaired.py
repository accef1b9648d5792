"""The difference of variants with different seeds: against scipy, by hand, and its coverage where the truth is known."""

import numpy as np
import pytest
from scipy import stats

from rewardft.comparisons.statistics import difference_interval
from rewardft.comparisons.unpaired import unpaired_seeds_interval
from rewardft.errors import DataError


def make(seeds, samples, number=0):
    return np.random.default_rng(number).normal(size=(seeds, samples))


def experiment(rng, shape, samples, spread, spreads=None):
    """Two variants without a true difference, and with samples that they take differently."""
    common, liking = rng.standard_normal(samples), 0.3 * rng.standard_normal(samples)
    spreads = spreads or (spread, spread)
    return [
        common
        + sign * liking
        + s * rng.standard_normal((n, 1))
        + 0.3 * rng.standard_normal((n, samples))
        for n, s, sign in zip(shape, spreads, (1, 0))
    ]


@pytest.mark.parametrize("shape", [(3, 2), (5, 3), (3, 1), (1, 3), (2, 3)])
@pytest.mark.parametrize("spread", [0.0, 0.2, 1.0])
def test_it_covers_new_seeds_and_new_samples(shape, spread):
    """93 to 97 of 100; with two seeds on a side rather more, for Welch's degrees of freedom are few."""
    rng = np.random.default_rng(7)
    found = [unpaired_seeds_interval(*experiment(rng, shape, 32, spread)) for _ in range(600)]
    assert (
        92.5
        <= 100 * np.mean([one.low <= 0 <= one.high for one in found])
        <= (99.0 if min(shape) == 2 else 98.0)
    )


@pytest.mark.parametrize("shape", [(3, 2), (5, 3)])
def test_sides_may_vary_differently(shape):
    rng = np.random.default_rng(8)
    found = [
        unpaired_seeds_interval(*experiment(rng, shape, 32, 0.0, spreads=(0.05, 0.5)))
        for _ in range(600)
    ]
    assert np.mean([one.low <= 0 <= one.high for one in found]) >= 0.92


def test_treating_the_other_side_as_fixed_would_not_cover():
    rng = np.random.default_rng(9)
    sides = [experiment(rng, (1, 3), 32, 1.0) for _ in range(300)]
    fixed = [difference_interval(one, other.mean(axis=0, keepdims=True)) for one, other in sides]
    assert np.mean([one.low <= 0 <= one.high for one in fixed]) < 0.5


def test_with_one_sample_it_is_welchs_t_interval():
    one, other = make(5, 1), make(3, 1, 1) + 2
    welch = stats.ttest_ind(one[:, 0], other[:, 0], equal_var=False)
    error = (one.mean() - other.mean()) / welch.statistic
    half = stats.t.ppf(0.975, int(welch.df)) * error
    found = unpaired_seeds_interval(one, other)
    assert found.value == pytest.approx(one.mean() - other.mean())
    assert (found.low, found.high) == pytest.approx((found.value - half, found.value + half))


def test_with_one_seed_each_it_is_the_paired_t_interval_of_the_samples():
    one, other = make(1, 20), make(1, 20, 1)
    expected = stats.ttest_rel(one[0], other[0]).confidence_interval()
    found = unpaired_seeds_interval(one, other)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_exchanging_the_sides_turns_it_round_and_nan_leaves_the_sample_out():
    one, other = make(3, 8), make(2, 8, 1)
    found, turned = unpaired_seeds_interval(one, other), unpaired_seeds_interval(other, one)
    assert (turned.low, turned.high) == pytest.approx((-found.high, -found.low))
    holed = one.copy()
    holed[1, 3] = np.nan
    without = unpaired_seeds_interval(np.delete(one, 3, 1), np.delete(other, 3, 1))
    assert vars(unpaired_seeds_interval(holed, other)) == pytest.approx(vars(without))
    assert np.isnan(unpaired_seeds_interval(np.full((2, 3), np.nan), make(1, 3)).value)


def test_wrong_shapes_are_named():
    with pytest.raises(DataError, match="of the same samples are needed"):
        unpaired_seeds_interval(make(2, 3), make(2, 4))
