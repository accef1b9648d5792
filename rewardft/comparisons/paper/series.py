"""What the figures of a paper draw: mean curves over seeds, with bands, as plain numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from rewardft.comparisons.statistics import t_quantile
from rewardft.contracts.records import Point, RunRecord, VariantRecord


@dataclass(frozen=True)
class Curve:
    """Change from the base along the runs of a variant, evaluation by evaluation.

    at: steps, infinity for the last; x: spent on an axis; y: mean over seeds; low, high: 95 % over
    seeds, NaN for a single one.
    """

    at: list[float]
    x: list[float]
    y: list[float]
    low: list[float]
    high: list[float]


def curve(variant: VariantRecord, name: str, axis: str) -> Curve | None:
    """The change of a value along a variant's runs; None where they were not evaluated on the
    way."""
    paths = [changes(run, name, axis) for run in variant.runs if run.has_ended]
    paths = [path for path in paths if path]
    # Evaluations that all of them have: one that lacks the value must not move the others up.
    common = [at for at in paths[0] if all(at in path for path in paths)] if paths else []
    if len(common) < 2:
        return None
    x, y, low, high = [], [], [], []
    for at in common:
        x.append(fmean(path[at][0] for path in paths))
        middle, half = mean_and_half([path[at][1] for path in paths])
        y.append(middle)
        low.append(middle - half)
        high.append(middle + half)
    return Curve(common, x, y, low, high)


def changes(run: RunRecord, name: str, axis: str) -> dict[float, tuple[float, float]]:
    """(spent, change from the run's own first evaluation) by the step of each evaluation; infinity
    is that of the last one, which comes after other steps in each run where a budget ends it."""
    points = run.evaluations
    if not points or not is_known(points[0], name, axis):
        return {}
    steps = [*(point.axes.get("steps", math.nan) for point in points[:-1]), math.inf]
    base = points[0].values[name]
    known = [(at, p) for at, p in zip(steps, points) if is_known(p, name, axis)]
    return {at: (p.axes[axis], p.values[name] - base) for at, p in known}


def path_between(variant: VariantRecord, across: str, up: str) -> list[tuple[float, float]]:
    """The mean path of a variant in the plane of two values, as changes from the base."""
    one, other = curve(variant, across, "steps"), curve(variant, up, "steps")
    if one is None or other is None:
        return []
    ends = dict(zip(other.at, other.y))
    return [(x, ends[at]) for at, x in zip(one.at, one.y) if at in ends]


def is_known(point: Point, name: str, axis: str) -> bool:
    """Whether a point has the value and the axis."""
    numbers = (point.axes.get(axis, math.nan), point.values.get(name, math.nan))
    return all(map(math.isfinite, numbers))


def mean_and_half(values: Sequence[float]) -> tuple[float, float]:
    """Mean over seeds with the half-width of its 95 % interval; NaN for one seed."""
    if len(values) < 2:
        return fmean(values), math.nan
    return fmean(values), t_quantile(len(values) - 1) * stdev(values) / math.sqrt(len(values))
