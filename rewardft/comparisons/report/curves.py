"""What the figures draw, as plain data: curves thinned to what a screen can show,
numbers of six digits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeVar

from rewardft.comparisons.report.columns import mean_axis, peak_memory
from rewardft.comparisons.report.verdicts import direction, focus, followed, ranked
from rewardft.contracts.records import (
    AXES,
    ComparisonRecord,
    Interval,
    Point,
    RunRecord,
    Value,
    VariantRecord,
)
from rewardft.recipe.budget import parse_budget

T = TypeVar("T")
# Points of all curves together, and the fewest and most of one.
_POINTS, _LEAST, _MOST = 40_000, 40, 300


def figure_data(record: ComparisonRecord) -> dict[str, Any]:
    """All that the page's scripts read, best variant first."""
    runs = sum(len(variant.runs) for variant in record.variants)
    # The same for every run, or curves would seem to differ in their noise.
    most = points_per_curve(runs)
    name = focus(record)
    return {
        "axes": AXES,
        "axis": axis_of(record.budget),
        "focus": name,
        "followed": followed(record),
        "higher_is_better": direction(record, name),
        "variants": [_variant(variant, most) for variant in ranked(record)],
    }


def axis_of(budget: str | None) -> str:
    """What the budget counts, where all variants went equally far; calls where it does not say."""
    try:
        return parse_budget(budget or "").axis
    except ValueError:  # a length in steps is no budget, and a record may say it in words
        return "steps" if (budget or "").endswith("-steps") else "calls"


def points_per_curve(runs: int) -> int:
    """Few enough for all runs together to stay quick to draw."""
    return max(_LEAST, min(_MOST, _POINTS // max(runs, 1)))


def thin(points: Sequence[T], most: int) -> list[T]:
    """Evenly spaced ones of the points, the first and the last among them."""
    if len(points) <= most:
        return list(points)
    # Points as they are, not means of neighbours: a spike must stay one.
    return [points[round(i * (len(points) - 1) / (most - 1))] for i in range(most)]


def columns(points: Sequence[Point]) -> dict[str, dict[str, list[float | None]]]:
    """One list per axis and per value, null where a point lacks it."""
    # Columns and not rows: names are then in the file once.
    axes = dict.fromkeys(name for point in points for name in point.axes)
    values = dict.fromkeys(name for point in points for name in point.values)
    return {
        "axes": {
            name: [_short(point.axes.get(name, math.nan)) for point in points] for name in axes
        },
        "values": {
            name: [_short(point.values.get(name, math.nan)) for point in points] for name in values
        },
    }


def _variant(variant: VariantRecord, most: int) -> dict[str, Any]:
    runs = [run for run in variant.runs if run.has_ended]
    return {
        "name": variant.name,
        "runs": [_run(run, most) for run in variant.runs],
        "costs": {axis: _short(mean_axis(runs, axis)) for axis in AXES},
        "memory": peak_memory(runs),
        "values": {value.name: _value(value) for value in variant.values},
    }


def _run(run: RunRecord, most: int) -> dict[str, Any]:
    return {
        "seed": run.seed,
        "status": run.status,
        "training": columns(thin(run.training, most)),
        "evaluations": columns(thin(run.evaluations, most)),
    }


def _value(value: Value) -> dict[str, Any]:
    return {
        "role": value.role,
        "higher_is_better": value.higher_is_better,
        "before": _interval(value.before),
        "after": _interval(value.after),
        "versus_base": _interval(value.versus_base),
    }


def _interval(estimate: Interval | None) -> list[float | None] | None:
    return (
        None
        if estimate is None
        else [_short(x) for x in (estimate.value, estimate.low, estimate.high)]
    )


def _short(number: float) -> float | None:
    """Six digits: finer than any screen, a third of the file."""
    return float(f"{number:.6g}") if math.isfinite(number) else None
