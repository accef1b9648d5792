"""The Pareto front of several trained rewards."""

from __future__ import annotations

import math
from collections.abc import Mapping

from rewardft.comparisons.report.cells import Cell, Table
from rewardft.comparisons.report.numbers import interval
from rewardft.comparisons.report.verdicts import group_of, ranked, value_of
from rewardft.contracts.records import ComparisonRecord, Value


def trained_rewards(record: ComparisonRecord) -> list[str]:
    """The rewards that some variant was trained for, in the record's order; not once more for each
    group of samples."""
    values = [value for variant in record.variants for value in variant.values]
    known = {value.name for value in values}
    trained = dict.fromkeys(value.name for value in values if value.role == "reward")
    return [name for name in trained if group_of(name, known) is None]


def front_table(record: ComparisonRecord) -> Table:
    """Every variant by all trained rewards, and which other one beats it in all of them; without
    rows where there is one trained reward, or none.

    By estimates, as the figure has it: the intervals stand beside them.
    """
    names = trained_rewards(record)
    columns = ["Variant", *names, "On the front"]
    found = {
        variant.name: {name: value for name in names if (value := value_of(variant, name))}
        for variant in ranked(record)
    }
    # Only variants that all the rewards were measured of can be compared.
    known = {
        variant: {name: goodness(value) for name, value in values.items()}
        for variant, values in found.items()
        if len(values) == len(names) and all(value.after for value in values.values())
    }
    rows = [
        [
            Cell(variant, variant),
            *(cell_of(found[variant][name]) for name in names),
            Cell(said(variant, known), beaten_by(variant, known) or ""),
        ]
        for variant in known
    ]
    caption = "Pareto front of the trained rewards, tuned, with 95 % intervals"
    return Table(caption, columns, rows if len(names) > 1 and len(known) > 1 else [])


def goodness(value: Value) -> float:
    """The estimate, better where it is more."""
    if value.after is None:
        return math.nan
    return -value.after.value if value.higher_is_better is False else value.after.value


def cell_of(value: Value) -> Cell:
    """The estimate as it was measured."""
    return Cell(interval(value.after), None if value.after is None else value.after.value)


def said(variant: str, known: Mapping[str, Mapping[str, float]]) -> str:
    """Whether nothing beats it, or what does."""
    rival = beaten_by(variant, known)
    return "yes" if rival is None else f"no, beaten by {rival}"


def beaten_by(variant: str, known: Mapping[str, Mapping[str, float]]) -> str | None:
    """A variant that is at least as good in every reward and better in one, by `goodness`; None for
    one on the front."""
    own = known[variant]
    if any(math.isnan(value) for value in own.values()):
        return None
    return next(
        (
            other
            for other, theirs in known.items()
            if all(theirs[name] >= value for name, value in own.items())
            and any(theirs[name] > value for name, value in own.items())
        ),
        None,
    )
