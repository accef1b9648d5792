"""Signs that a reward is being hacked: it rises while something that was not trained for gets
worse.

An alarm is a reason to look, not a proof. What is watched, and why there:

* Held-out values. A trained reward is better and another value that has a better direction is
  worse, both by more than the 95 % interval of the paired difference (same samples, same noise).
  Each value raises a false alarm in about 1 of 40 evaluations of a model that has not changed in
  it.
* Values named `diversity/...`, one number per set: below a fraction of the base's.
* Values named `image_statistics/...`, per sample: the tuned mean outside the range of the middle 95
  % of the base's samples. A mean of n samples varies less than a sample does, by the root of n, so
  an unchanged model never gets there; a tuned mean outside says that the average sample is one that
  the base hardly ever draws.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence

from rewardft.contracts.alarm import Alarm
from rewardft.evaluation.evaluate import Evaluation, Paired, compare, mean

DIVERSITY, STATISTICS = "diversity/", "image_statistics/"
MIDDLE = (0.025, 0.975)


def find_alarms(
    baseline: Evaluation,
    now: Evaluation,
    trained: Collection[str],
    min_diversity: float = 0.7,
    start: str = "base",
) -> list[Alarm]:
    """The alarms of an evaluation against that of the base model, or of what the run began with.

    Args:
        trained: names of the values that the run trains for, such as `reward/NAME`.
        min_diversity: fraction of the base's diversity, 0 to 1; 0: no alarm.
        start: the name of what it is compared with.

    Raises CheckpointError when the two evaluations were made with different settings.
    """
    # Over all samples: groups are smaller, and would raise false alarms more often.
    rows = {row.name: row for row in compare(baseline, now) if row.name in now.per_sample}
    return [
        *held_out_alarms(rows, now.higher_is_better, trained),
        *diversity_alarms(baseline, now, min_diversity, start),
        *range_alarms(baseline, now, start),
    ]


def held_out_alarms(
    rows: dict[str, Paired], better: dict[str, bool | None], trained: Collection[str]
) -> Iterator[Alarm]:
    """Values that got worse while a trained one got better;
    the one that did so most clearly is named."""
    gains = {name: gain(row, better.get(name)) for name, row in rows.items()}
    risen = [row for name, row in rows.items() if name in trained and gains[name] > 0]
    if not risen:
        return
    # Difference over half-width: how clearly it rose. The floor is for half-widths of 0.
    reward = max(risen, key=lambda row: abs(row.difference) / max(row.half_width, 1e-300))
    for name, row in rows.items():
        if name not in trained and gains[name] < 0:
            yield Alarm(
                name,
                f"{name} got worse, {words(row)}, while {reward.name} got better, {words(reward)} "
                f"(95 % intervals of paired differences, {row.count} samples)",
            )


def gain(row: Paired, higher_is_better: bool | None) -> int:
    """1 better, -1 worse, 0 where neither direction is better or the interval holds 0."""
    # Within the interval a change may be noise, in either direction.
    if higher_is_better is None or not row.separable:
        return 0
    return 1 if (row.difference > 0) == higher_is_better else -1


def words(row: Paired) -> str:
    """'by +0.1 ± 0.02'"""
    return f"by {row.difference:+.3g} ± {row.half_width:.2g}"


def diversity_alarms(
    baseline: Evaluation, now: Evaluation, least: float, start: str
) -> Iterator[Alarm]:
    """Values of diversity below `least` of the base's."""
    for name, value in now.overall.items():
        before = baseline.overall.get(name, math.nan)
        if name.startswith(DIVERSITY) and value < least * before:
            yield Alarm(
                name,
                f"{name} fell to {value / before:.0%} of the {start}'s, from {before:.3g} to "
                f"{value:.3g} (the limit is {least:.0%})",
            )


def range_alarms(baseline: Evaluation, now: Evaluation, start: str) -> Iterator[Alarm]:
    """Image statistics whose mean left the range of the base's samples."""
    for name, values in now.per_sample.items():
        before = [v for v in baseline.per_sample.get(name, []) if not math.isnan(v)]
        center = mean(values)
        # Without values there is no range to leave.
        if not name.startswith(STATISTICS) or not before or math.isnan(center):
            continue
        # Of single samples, while what is compared is a mean: see the top of the file.
        low, high = (quantile(before, q) for q in MIDDLE)
        slack = 1e-6 * max(abs(low), abs(high), 1.0)  # rounding, where all values are the same
        if not min(low, mean(before)) - slack <= center <= max(high, mean(before)) + slack:
            yield Alarm(
                name,
                f"{name} is {center:.3g} on average, outside the range {low:.3g} to {high:.3g} of "
                f"95 % of the {start}'s samples",
            )


def quantile(values: Sequence[float], q: float) -> float:
    """With linear interpolation between order statistics, as numpy's default."""
    ordered = sorted(values)
    place = q * (len(ordered) - 1)
    low = math.floor(place)
    return ordered[low] + (place - low) * (ordered[min(low + 1, len(ordered) - 1)] - ordered[low])
