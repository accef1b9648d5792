"""What the intervals allow one to say: better, worse, or not separable."""

from __future__ import annotations

import math
from typing import Literal

from rewardft.contracts.records import ComparisonRecord, Interval, Value, VariantRecord

Verdict = Literal["better", "worse", "higher", "lower", "not separable", "unknown"]

# A mark beside the words, so that colour carries nothing alone.
MARKS: dict[Verdict, str] = {
    "better": "▲",
    "worse": "▼",
    "higher": "↑",
    "lower": "↓",
    "not separable": "≈",
    "unknown": "",
}


def verdict(difference: Interval | None, higher_is_better: bool | None) -> Verdict:
    """Of a difference (mine - theirs): separable only where its 95 % interval leaves out zero."""
    if difference is None or not (math.isfinite(difference.low) and math.isfinite(difference.high)):
        return "unknown"
    # A bound of exactly 0 does not leave it out.
    if difference.low <= 0 <= difference.high:
        return "not separable"
    up = difference.low > 0
    if higher_is_better is None:
        return "higher" if up else "lower"
    return "better" if up == higher_is_better else "worse"


def value_of(variant: VariantRecord, name: str | None) -> Value | None:
    """The variant's value of that name, if it was measured."""
    return next((value for value in variant.values if value.name == name), None)


def followed(record: ComparisonRecord) -> str | None:
    """The value that curves are about: the focus, or what it is of where it is one at equal
    divergence, which has no course."""
    name = focus(record)
    runs = [run for variant in record.variants for run in variant.runs]
    known = {key for run in runs for point in run.evaluations for key in point.values}
    plain = "" if name is None else name.partition(" at kl/")[0]
    return plain if name not in known and plain in known else name


def value_names(record: ComparisonRecord) -> list[str]:
    """All values' names: the focus, trained rewards, other values per sample, values per set;
    groups last."""
    roles = {"reward": 0, "held_out": 1, "set": 2}
    found: dict[str, tuple[bool, bool, int]] = {}
    first = focus(record)
    for variant in record.variants:
        for value in variant.values:
            found.setdefault(value.name, (False, value.name != first, roles[value.role]))
    return sorted(
        found, key=lambda name: (group_of(name, set(found)) is not None, *found[name][1:])
    )


def group_of(name: str, names: set[str]) -> str | None:
    """The group in `group/value`: a name is grouped where the rest of it is the name of a value
    over all samples."""
    parts = name.split("/")
    # Every cut: groups and values may both have slashes in their names.
    rests = (("/".join(parts[:cut]), "/".join(parts[cut:])) for cut in range(1, len(parts)))
    return next((group for group, rest in rests if rest in names), None)


def focus(record: ComparisonRecord) -> str | None:
    """The value that the report is about: the target, else the first value that all variants share.

    One that has a better direction goes before one that has none, such as a divergence; then one
    that no variant was trained for before one that some were.
    """
    if record.target is not None:
        return record.target
    measured = [variant for variant in record.variants if variant.values]
    if not measured:
        return None
    # Only a value that all have can rank them.
    shared = set.intersection(*({value.name for value in variant.values} for variant in measured))
    trained = {
        value.name for variant in measured for value in variant.values if value.role == "reward"
    }
    known = [value for value in measured[0].values if value.name in shared]
    first = min(
        known,
        key=lambda v: (v.higher_is_better is None, v.role == "set", v.name in trained),
        default=None,
    )
    return None if first is None else first.name


def direction(record: ComparisonRecord, name: str | None) -> bool | None:
    """Whether more of the value is better; None where neither is, or no variant has it."""
    found = (value_of(variant, name) for variant in record.variants)
    return next((value.higher_is_better for value in found if value is not None), None)


def ranked(record: ComparisonRecord) -> list[VariantRecord]:
    """The variants, best estimate of the focus first;
    in the record's order where neither direction is better."""
    name, better = focus(record), direction(record, focus(record))
    if better is None:
        return list(record.variants)
    return sorted(record.variants, key=lambda variant: _rank(value_of(variant, name), better))


def _rank(value: Value | None, higher_is_better: bool) -> float:
    estimate = value and (value.after or value.versus_base)
    if not estimate or not math.isfinite(estimate.value):
        return math.inf
    return -estimate.value if higher_is_better else estimate.value
