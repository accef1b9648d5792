"""Estimates over seeds and held-out samples, with 95 % intervals.

Data are tables (S seeds, N samples), NaN where a value does not apply. All seeds see the same
samples and the same noise, so the factors are crossed: y[s, n] = mean + seed[s] + sample[n] +
rest[s, n]. An interval says where the estimate would lie with endless NEW seeds and NEW samples of
the same kinds. With one seed nothing is known about seeds, and it speaks of new samples alone (say
so next to it); with one sample, of new seeds alone; with one of each, nothing.

An estimate's variance is the sum of a seeds' part with S - 1 degrees of freedom and a samples' part
with N - 1. The half-width is the standard error times a mean of Student's two quantiles, weighted
by the parts (Cochran 1964, "Approximate significance levels of the Behrens-Fisher test", Biometrics
20): few seeds widen the interval as far as seeds matter. Cochran's weights cover up to 97.8 % with
two seeds; taken to the power 1.2 they cover, by numerical integration for normal parts of any sizes
and many samples, 93.2 to 97.2 % with two seeds, 94.8 to 96.6 % with three and 95.0 to 96.0 % with
five.

Measured and not used: Satterthwaite's degrees of freedom (1946) cover as little as 87 % with two
seeds. The bootstrap stratified by task (Agarwal et al. 2021, "Deep reinforcement learning at the
edge of the statistical precipice") draws seeds anew within each sample: it holds the samples fixed
and takes what a seed does to all of them for noise, so it answers another question, and as an
answer to this one covers 7 to 92 %.

Where coverage misses 93 to 97 % (`benchmarks/results/coverage.md`): two seeds, 92.5 to 98.1 %; up
to 97.4 % with three or five seeds and few or skewed samples; values missing in one seed much more
than in another, see `spread`; and the probability of improvement, up to 98.8 % with few seeds and
samples, but 71 to 91 % where seeds differ so much that each improves all samples or none: that the
few seen agree does not show in a variance. `benchmarks/interval_coverage.py` measures all of this.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike

from rewardft.comparisons.interquartile import TRIMMED, Array, iqm_variance_over_seeds
from rewardft.contracts.records import Interval
from rewardft.errors import DataError

CONFIDENCE = 0.95
POWER = 1.2


def mean_interval(values: ArrayLike) -> Interval:
    """Mean of the values that apply, for new seeds and new samples.

    Two-way random-effects analysis of variance: variance of the seeds' means + of the samples'
    means - of the rest, which both contain. It is what Owen's pigeonhole bootstrap (2007, Annals of
    Applied Statistics 1) estimates, without its count of the rest three times over. With one seed
    this is the t interval of a single sample.

    Args:
        values: (S, N), NaN where a value does not apply; seeds and samples without any value do not
            count.

    Raises:
        DataError: the values are no table.
    """
    table = known_part(values)
    mean = mean_of_known(table)
    with np.errstate(invalid="ignore"):  # infinite values
        # The influence function of a mean is the deviation from it.
        return symmetric(mean, spread(table - mean))


def iqm_interval(values: ArrayLike) -> Interval:
    """Interquartile mean, for new seeds and new samples: the mean of the middle half of all S * N
    values.

    The seeds' part of the variance is the bootstrap's over seeds, times S / (S - 1) for what it
    lacks with few of them: exact up to five seeds, 400 draws above. (A jackknife covers 90 % where
    five seeds differ by much.) The samples' part comes from the influence function, the values
    clipped to the middle half (Tukey & McLaughlin 1963), which is what a bootstrap over many
    samples comes to.

    Args:
        values: as for `mean_interval`.

    Raises:
        DataError: the values are no table.
    """
    table = known_part(values)
    flat = np.sort(table[~np.isnan(table)])
    # Whole values only: the middle half as scipy's trim_mean takes it.
    cut = int(TRIMMED * flat.size)
    middle = flat[cut : flat.size - cut]
    if middle.size == 0:
        return unknown()
    with np.errstate(invalid="ignore"):
        clipped = np.clip(table, middle[0], middle[-1])
        # Divided by the share that is kept (1/2): the influence function of a trimmed mean.
        found = spread((clipped - mean_of_known(clipped)) * (flat.size / middle.size))
        if len(table) > 1:
            found = replace(found, seeds=iqm_variance_over_seeds(table, seed=0))
        return symmetric(float(middle.mean()), found)


def difference_interval(after: ArrayLike, before: ArrayLike) -> Interval:
    """Mean of after - before on the same samples and noise, for new seeds and new samples: see
    `mean_interval`.

    Args:
        after: (S, N).
        before: (S, N), or (1, N) if every seed started from the same model. NaN in either leaves
            the pair out.

    Raises:
        DataError: the shapes do not fit.
    """
    after, before = pair(after, before)
    with np.errstate(invalid="ignore"):
        return mean_interval(after - before)


def probability_of_improvement(after: ArrayLike, before: ArrayLike) -> Interval:
    """P(after > before) + P(after = before) / 2 on the same sample and noise, for a new seed and a
    new sample.

    Pairs, unlike the Mann-Whitney form of Agarwal et al. (2021), which sets every run against every
    other. The interval is Wilson's (1927) for that number of independent pairs which would have the
    variance found (the effective sample size of Kish 1965), so it stays within [0, 1]. If nothing
    varies, as when every pair improves, it is that of N pairs, as the interval must not shrink to a
    point; it then speaks of the samples, and hardly of the seeds.

    Args:
        after, before: as for `difference_interval`.

    Raises:
        DataError: the shapes do not fit.
    """
    after, before = pair(after, before)
    table = known_part(
        np.where(
            np.isnan(after) | np.isnan(before), np.nan, (after > before) + 0.5 * (after == before)
        )
    )
    share = mean_of_known(table)
    found = spread(table - share)
    if math.isnan(found.variance):
        return unknown(share)
    # var = p (1 - p) / n solved for n.
    pairs = share * (1 - share) / found.variance if found.variance > 0 else max(table.shape[1], 2)
    return wilson(share, pairs, found.quantile)


def set_interval(values: ArrayLike) -> Interval:
    """Mean of one number per seed, (S,), with Student's t interval: for new seeds on the same set
    of samples.

    NaN does not count; with one seed the bounds are NaN.
    """
    return mean_interval(np.asarray(values, dtype=np.float64).reshape(-1, 1))


@dataclass(frozen=True)
class Spread:
    """Variance of an estimate: the parts that would shrink with more `seeds` and with more
    `samples`.

    shape: (S, N), whose degrees of freedom the parts have.
    """

    seeds: float
    samples: float
    shape: tuple[int, int]

    @property
    def variance(self) -> float:
        """Of the estimate; NaN where a single value cannot tell."""
        return self.seeds + self.samples if max(self.shape) > 1 else math.nan

    @property
    def quantile(self) -> float:
        """Standard errors to each side: between Student's two quantiles,
        by the part with fewer levels."""
        # The factor with fewer levels has the heavier tail; it weighs by its share.
        (levels, part), (more, _) = sorted(zip(self.shape, (self.seeds, self.samples)))
        share = part / self.variance if self.variance > 0 else 0.0
        few, many = t_quantile(max(levels - 1, 1)), t_quantile(max(more - 1, 1))
        return many + (few - many) * share**POWER


def spread(influence: Array) -> Spread:
    """Variance of the mean of `influence` (S, N), which has mean 0 and NaN where there is no value.

    Missing cells count as average ones, and the others the more: the usual linearization of a
    ratio, which is too small by a third where two seeds have values for all and for half of the
    samples.
    """
    seeds, samples = influence.shape
    if influence.size == 0:
        return Spread(0.0, 0.0, (0, 0))
    # (S, N); known cells weigh more, so that they stand for the missing ones.
    known = ~np.isnan(influence)
    table = np.where(known, influence, 0.0) * (influence.size / known.sum())
    with np.errstate(invalid="ignore"):
        rows, columns = table.sum(1, keepdims=True) / samples, table.sum(0, keepdims=True) / seeds
        of_rows = float((rows**2).sum()) / (seeds * max(seeds - 1, 1))
        of_columns = float((columns**2).sum()) / (samples * max(samples - 1, 1))
        rest = float(((table - rows - columns) ** 2).sum()) / (
            table.size * max((seeds - 1) * (samples - 1), 1)
        )
    return Spread(
        # Seeds' means keep their share of `rest`, samples' means lose it: it must count once.
        seeds=of_rows if seeds > 1 else 0.0,
        samples=max(of_columns - (rest if seeds > 1 else 0.0), 0.0) if samples > 1 else 0.0,
        shape=(seeds, samples),
    )


def symmetric(value: float, found: Spread) -> Interval:
    """value -+ half-width; bounds NaN where nothing can be said."""
    half = found.quantile * math.sqrt(found.variance) if math.isfinite(value) else math.nan
    return Interval(value=value, low=value - half, high=value + half)


def wilson(share: float, pairs: float, quantile: float) -> Interval:
    """Wilson's score interval (1927, eq. 1) of a share of so many independent pairs."""
    # z^2 / n of the paper.
    weight = quantile**2 / pairs
    center = (share + weight / 2) / (1 + weight)
    half = math.sqrt(weight * (share * (1 - share) + weight / 4)) / (1 + weight)
    return Interval(value=share, low=max(center - half, 0.0), high=min(center + half, 1.0))


def unknown(value: float = math.nan) -> Interval:
    """An estimate of which no interval can be given."""
    return Interval(value=value, low=math.nan, high=math.nan)


def known_part(values: ArrayLike) -> Array:
    """The table (S, N) without the seeds and samples that have no value at all."""
    table = np.asarray(values, dtype=np.float64)
    if table.ndim != 2:
        raise DataError(f"statistics need a table (seeds, samples), got the shape {table.shape}.")
    # A seed or sample without values has no degrees of freedom to offer.
    known = ~np.isnan(table)
    return table[known.any(axis=1)][:, known.any(axis=0)]


def pair(after: ArrayLike, before: ArrayLike) -> tuple[Array, Array]:
    """Both as tables; raises DataError unless before is (S, N) or (1, N) for after (S, N)."""
    tuned, base = np.asarray(after, dtype=np.float64), np.asarray(before, dtype=np.float64)
    if tuned.ndim != 2 or base.shape not in (tuned.shape, (1, *tuned.shape[1:])):
        raise DataError(
            f"pairs need `after` (seeds, samples) and `before` of the same shape or (1, samples), "
            f"got {tuned.shape} and {base.shape}."
        )
    return tuned, base


def mean_of_known(table: Array) -> float:
    """NaN if there are no values, or infinite ones of both signs."""
    known = table[~np.isnan(table)]
    with np.errstate(invalid="ignore"):
        return float(known.mean()) if known.size else math.nan


@lru_cache(maxsize=4096)
def t_quantile(freedom: int) -> float:
    """97.5 % quantile of Student's t with `freedom` >= 1 degrees of freedom, to 12 digits.

    Bisects the angle atan(t / sqrt(freedom)), for which P(|t| <= .) is a finite sum (Abramowitz &
    Stegun 26.7.3-4).
    """
    odd = freedom % 2
    k = np.arange(2 + odd, freedom - 1, 2, dtype=np.float64)
    # cos^odd, cos^(2 + odd), ...
    # The ratios (k - 1) / k of neighbouring terms of the sum.
    factors = np.concatenate(([1.0], np.cumprod((k - 1) / k)))[: freedom // 2]
    powers = odd + 2 * np.arange(len(factors))

    def inside(angle: float) -> float:
        series = math.sin(angle) * float((factors * math.cos(angle) ** powers).sum())
        return 2 / math.pi * (angle + series) if odd else series

    low, high = 0.0, math.pi / 2
    # 60 halvings of [0, pi / 2] are below float64's resolution.
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if inside(middle) < CONFIDENCE else (low, middle)
    return math.sqrt(freedom) * math.tan(low)
