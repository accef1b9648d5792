"""What a reader must know of the search before a comparison: what it was, and where not to trust
it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from rewardft.comparisons.words import listed
from rewardft.contracts.records import SearchRecord, Value, VariantRecord

LONGER = 1.5  # times the calls, from which on a run is not as long as another


def search_notes(
    searches: Sequence[SearchRecord], variants: Sequence[VariantRecord]
) -> Iterator[str]:
    """Sentences for the report."""
    if not searches:
        return
    first = searches[0]
    spent = {axis: sum(one.costs[axis] for one in searches) for axis in first.costs}
    yield (
        f"Tuned: each variant has the {' and '.join(first.keys)} that was best by {first.value} on "
        f"the training split, of {len(first.trials)} runs of {first.budget}; see Search. All "
        f"searches together: {spent['calls']:,.0f} calls, {spent['rewards']:,.0f} rewards, "
        f"{spent['seconds']:,.0f} s, which are not counted under Cost."
    )
    if lacking := [one.variant for one in searches if not one.chosen]:
        yield f"Not tuned: {listed(lacking)}, of which no run of the search has a result."
    tuned = {one.variant for one in searches}
    if given := [variant.name for variant in variants if variant.name not in tuned]:
        yield f"Not fair: Nothing was searched for {listed(given)}, whose runs were given."
    by_edge: dict[str, list[str]] = {}
    for one in searches:
        for edge in one.edges:
            by_edge.setdefault(edge, []).append(one.variant)
    for edge, names in by_edge.items():
        found = f"{edge}, in {listed(names)}"
        yield f"At the edge of what was tried: {found}: the best may lie beyond."
    made = {variant.name: variant for variant in variants}
    if worse := [one.variant for one in searches if ended_worse(one, made[one.variant])]:
        yield (
            "Ended behind the shorter run that they were chosen by, which was judged on the "
            f"training split: {listed(worse)}. What is best on a short run may be too much for a "
            "long one."
        )


def calls_of(variant: VariantRecord) -> float:
    """The mean of its runs that came to their end; NaN without one."""
    calls = [run.axes["calls"] for run in variant.runs if "calls" in run.axes]
    return sum(calls) / len(calls) if calls else math.nan


def calls_of_trial(search: SearchRecord) -> float:
    """The mean of its runs; NaN where nothing was counted."""
    return search.costs["calls"] / len(search.trials) or math.nan


def ended_worse(search: SearchRecord, variant: VariantRecord) -> bool:
    """Whether a variant's estimate is behind that of the shorter run that it was chosen by."""
    if not calls_of(variant) > LONGER * calls_of_trial(search):
        return False
    value = next((one for one in variant.values if one.name == search.value), None)
    chosen = next((trial.value for trial in search.trials if trial.name == search.chosen), math.nan)
    return value is not None and value.after is not None and behind(value, chosen)


def behind(value: Value, level: float) -> bool:
    """Whether a value is worse than a level; not where it has no better direction."""
    assert value.after is not None
    rise = value.after.value - level
    return rise > 0 if value.higher_is_better is False else rise < 0
