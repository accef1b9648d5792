"""The interquartile mean and its variance over seeds, by resampling them."""

from __future__ import annotations

import itertools
import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

TRIMMED = 0.25  # share of the values that the interquartile mean leaves out at each end
# Up to this many, all ways to draw seeds with replacement are enumerated (126 of five).
EXACT_SEEDS = 5
DRAWS = 400  # of seeds above that


def iqm_variance_over_seeds(table: Array, seed: int) -> float:
    """Bootstrap variance of the interquartile mean of (S, N) over S >= 2 seeds, with the samples as
    they are."""
    # Sorted, so that the order in which the seeds are given does not matter to the draws.
    table = table[np.argsort(np.nanmean(table, axis=1))]
    # Sorted once; a resampling only changes how often each value counts.
    order = np.argsort(table, axis=None)[: int((~np.isnan(table)).sum())]  # NaN sorts last
    counts, chances = draws_of_seeds(len(table), seed)
    estimates = repeated_iqm(table.ravel()[order], counts[:, order // table.shape[1]])
    center = chances @ estimates
    # The bootstrap divides by S where an unbiased variance divides by S - 1.
    return float(chances @ (estimates - center) ** 2) * len(table) / (len(table) - 1)


@lru_cache(maxsize=64)
def draws_of_seeds(seeds: int, seed: int) -> tuple[Array, Array]:
    """How often each seed comes in S draws with replacement: counts (draws, S) and each row's
    probability (draws,)."""
    if seeds > EXACT_SEEDS:
        drawn = np.random.default_rng(seed).multinomial(seeds, [1 / seeds] * seeds, size=DRAWS)
        return drawn.astype(np.float64), np.full(DRAWS, 1 / DRAWS)
    # The order of a draw does not matter, so each multiset is taken once, by its probability.
    ways = itertools.combinations_with_replacement(range(seeds), seeds)
    counts = np.array([np.bincount(way, minlength=seeds) for way in ways], dtype=np.float64)
    orders = [
        math.factorial(seeds) / math.prod(math.factorial(int(n)) for n in row) for row in counts
    ]
    return counts, np.array(orders) / seeds**seeds


def repeated_iqm(ordered: Array, counts: Array) -> Array:
    """Interquartile means of the sorted values (n,), each taken as often as a row of counts (draws,
    n) says."""
    # Counts up to each value: it lies within the middle half as far as its interval does.
    last = counts.cumsum(axis=1)
    total = last[:, -1:]
    cut = np.floor(TRIMMED * total)
    kept = np.diff(np.clip(last, cut, total - cut), axis=1, prepend=cut)
    means: Array = kept @ ordered / kept.sum(axis=1)
    return means
