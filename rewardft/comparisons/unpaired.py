"""The difference of two variants whose seeds are not the same, as when a run has failed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rewardft.comparisons.statistics import Spread, symmetric, unknown
from rewardft.contracts.records import Interval
from rewardft.errors import DataError


def unpaired_seeds_interval(one: ArrayLike, other: ArrayLike) -> Interval:
    """Mean of one - mean of other on the same samples and noise, where the two have different seeds
    or numbers of them.

    Each side's seeds vary by themselves (Welch 1947). A single seed is taken to vary as those of
    the other side do, which is a guess; with one seed on each side nothing is known about seeds,
    and the interval is over samples alone.

    Args:
        one, other: (S1, N) and (S2, N); samples with a NaN in either do not count.

    Raises:
        DataError: the numbers of samples differ, or the values are no tables.
    """
    tables = [np.asarray(values, dtype=np.float64) for values in (one, other)]
    if any(table.ndim != 2 for table in tables) or tables[0].shape[1] != tables[1].shape[1]:
        raise DataError(
            "two tables (seeds, samples) of the same samples are needed, got "
            f"{[t.shape for t in tables]}."
        )
    # Samples that all seeds of both sides have: the difference of means is then by pairs.
    known = ~np.isnan(np.concatenate(tables)).any(axis=0)
    tables = [table[:, known] for table in tables]
    samples = int(known.sum())
    if samples == 0 or min(len(table) for table in tables) == 0:
        return unknown()
    difference = tables[0].mean(axis=0) - tables[1].mean(axis=0)
    # Of the samples' differences; it contains what single cells add, which is taken off below.
    of_columns = float(difference.var(ddof=1)) / samples if samples > 1 else 0.0
    sides = [side(table) for table in tables]
    known_sides = [one for one in sides if one.freedom]
    if len(known_sides) == 1:  # the side with a single seed is taken to vary as the other does
        sides = [replace(one, rows=known_sides[0].rows, rest=known_sides[0].rest) for one in sides]
    parts = [one.rows / one.seeds for one in sides]
    found = Spread(
        seeds=sum(parts),
        samples=max(of_columns - sum(one.rest / one.seeds for one in sides), 0.0),
        shape=(1 + degrees_of_freedom(sides, parts), samples),
    )
    return symmetric(float(difference.mean()), found)


@dataclass(frozen=True)
class Side:
    """One variant's seeds: the variance of a seed's mean, and what single samples add to the
    variance of a sample's.

    Both are 0 with one seed, which has no degrees of freedom.
    """

    seeds: int
    rows: float
    rest: float

    @property
    def freedom(self) -> int:
        return self.seeds - 1


def side(table: NDArray[np.float64]) -> Side:
    """Of a table (seeds, samples) without NaN."""
    seeds, samples = table.shape
    centred = table - table.mean(axis=0)  # what seeds do, to each sample
    rows = centred.mean(axis=1, keepdims=True)
    rest = float(((centred - rows) ** 2).sum()) / (
        max(seeds - 1, 1) * max(samples - 1, 1) * samples
    )
    return Side(seeds, float((rows**2).sum()) / max(seeds - 1, 1), rest)


def degrees_of_freedom(sides: Sequence[Side], parts: Sequence[float]) -> int:
    """Welch's and Satterthwaite's, rounded down; those of the one side that has any."""
    if min(one.freedom for one in sides) == 0 or sum(parts) == 0:
        return max(one.freedom for one in sides)
    return int(sum(parts) ** 2 / sum(part**2 / one.freedom for part, one in zip(parts, sides)))
