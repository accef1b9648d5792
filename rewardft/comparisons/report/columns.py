"""The numbers of a comparison that stand in every form of its report: tables of HTML, Markdown and
papers, and the columns of the CSV. Each is stated once, here."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from rewardft.comparisons.report.numbers import count, duration, size
from rewardft.contracts.records import RunRecord


@dataclass(frozen=True)
class Estimate:
    """An interval of a value.

    title: the head of its column. name: in the record; in the CSV it has NAME_low and NAME_high
    beside it. change: whether it is a difference, which has a sign and may be judged.
    """

    title: str
    name: str
    change: bool = False


ESTIMATES = (
    Estimate("Change from the base", "versus_base", change=True),
    Estimate("Base", "before"),
    Estimate("Tuned, mean", "after"),
    Estimate("Tuned, interquartile mean", "iqm"),
    Estimate("Against the best other variant", "versus_best", change=True),
    Estimate("Probability of better than base", "probability"),
)


@dataclass(frozen=True)
class Cost:
    """What one run of a variant spent.

    of: that amount, from the runs that ended; None or NaN where it is not known. text: as a table
    shows it. name: its column in the CSV.
    """

    title: str
    name: str
    of: Callable[[Sequence[RunRecord]], float | None]
    text: Callable[[float | None], str]


def mean_axis(runs: Iterable[RunRecord], axis: str) -> float:
    """Mean of a total over the runs that know it; NaN where none does."""
    known = [run.axes[axis] for run in runs if math.isfinite(run.axes.get(axis, math.nan))]
    return fmean(known) if known else math.nan


def mean_cost(title: str, axis: str, text: Callable[[float | None], str] = count) -> Cost:
    """The mean of one axis over a variant's runs."""
    return Cost(title, f"mean_{axis}", lambda runs: mean_axis(runs, axis), text)


def peak_memory(runs: Iterable[RunRecord]) -> int | None:
    """The most that any of the runs held, in bytes."""
    # The most and not the mean: it is what a machine must have.
    return max((run.peak_memory for run in runs if run.peak_memory is not None), default=None)


COSTS = (
    mean_cost("Training time", "seconds", duration),
    Cost("Peak memory", "peak_memory_bytes", peak_memory, size),
    mean_cost("Denoiser forwards", "forwards"),
    mean_cost("Denoiser backwards", "backwards"),
    mean_cost("Calls, both", "calls"),
    mean_cost("Reward evaluations", "rewards"),
    mean_cost("Optimizer steps", "steps"),
)
