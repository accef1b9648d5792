"""What the figures of a paper draw: mean curves over seeds, with bands, as plain numbers."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from rewardft.comparisons.statistics import t_quantile
from rewardft.contracts.records import AXES, ComparisonRecord, Point, RunRecord, VariantRecord

MINUTES = re.compile(r"[0-9.]+ *(s|m|h|min)")


@dataclass(frozen=True)
class Curve:
    """Change from the base along the runs of a variant, evaluation by evaluation.

    x: spent on an axis; y: mean over seeds; low, high: 95 % over seeds, NaN for a single one.
    """

    x: list[float]
    y: list[float]
    low: list[float]
    high: list[float]


def budget_axis(record: ComparisonRecord) -> str:
    """The axis that the budget is given on; denoiser calls where there is none."""
    text = (record.budget or "").strip()
    if MINUTES.fullmatch(text):
        return "seconds"
    unit = re.split(r"[-\s]", text)[-1]
    return unit if unit in AXES else "calls"


def curve(variant: VariantRecord, name: str, axis: str) -> Curve | None:
    """The change of a value along a variant's runs; None where they were not evaluated on the
    way."""
    paths = [path for run in ended(variant) if (path := changes(run, name, axis))]
    # Runs on a budget of time may differ in the number of their evaluations.
    length = min((len(path) for path in paths), default=0)
    if length < 2:
        return None
    x, y, low, high = [], [], [], []
    for points in zip(*(path[:length] for path in paths)):
        x.append(fmean(point[0] for point in points))
        middle, half = mean_and_half([point[1] for point in points])
        y.append(middle)
        low.append(middle - half)
        high.append(middle + half)
    return Curve(x, y, low, high)


def changes(run: RunRecord, name: str, axis: str) -> list[tuple[float, float]]:
    """(spent, change from the run's own first evaluation) at each evaluation of a run."""
    known = [p for p in run.evaluations if is_known(p, name, axis)]
    return [(p.axes[axis], p.values[name] - known[0].values[name]) for p in known]


def path_between(variant: VariantRecord, across: str, up: str) -> list[tuple[float, float]]:
    """The mean path of a variant in the plane of two values, as changes from the base."""
    one, other = curve(variant, across, "steps"), curve(variant, up, "steps")
    if one is None or other is None or len(one.y) != len(other.y):
        return []
    return list(zip(one.y, other.y))


def ended(variant: VariantRecord) -> list[RunRecord]:
    """The runs that came to their end: others were trained for less."""
    return [run for run in variant.runs if run.status in ("finished", "stopped")]


def is_known(point: Point, name: str, axis: str) -> bool:
    """Whether a point has the value and the axis."""
    numbers = (point.axes.get(axis, math.nan), point.values.get(name, math.nan))
    return all(map(math.isfinite, numbers))


def mean_and_half(values: Sequence[float]) -> tuple[float, float]:
    """Mean over seeds with the half-width of its 95 % interval; NaN for one seed."""
    if len(values) < 2:
        return fmean(values), math.nan
    return fmean(values), t_quantile(len(values) - 1) * stdev(values) / math.sqrt(len(values))
