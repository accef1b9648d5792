"""report.csv: one row per variant and value, every number in full."""

from __future__ import annotations

import csv
import io
import math
from typing import Any

from rewardft.comparisons.report.columns import COSTS, ESTIMATES
from rewardft.contracts.records import ComparisonRecord, Interval, Value, VariantRecord

# A name that begins so would be run as code by the spreadsheet that opens the file.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def csv_text(record: ComparisonRecord) -> str:
    """Numbers as Python writes them, so that nothing is lost; empty where the record has none,
    `nan` where unknown.

    A variant without values has one row. Text that a spreadsheet would take for a formula starts
    with an apostrophe.
    """
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, _columns(), restval="", lineterminator="\n")
    writer.writeheader()
    for variant in record.variants:
        of_variant = _variant(variant)
        writer.writerows(
            # One row at least: a variant that failed must not be missing from the table.
            [{**of_variant, **_value(value)} for value in variant.values] or [of_variant]
        )
    return buffer.getvalue()


def _columns() -> list[str]:
    parts = [one.name + bound for one in ESTIMATES for bound in ("", "_low", "_high")]
    facts = ["variant", "algorithm", "recipe", "value", "role", "higher_is_better", "samples"]
    runs = ["best", "seed_changes", "runs", "runs_ended", "runs_failed", "alarms"]
    return [*facts, *parts, *runs, *(cost.name for cost in COSTS)]


def _variant(variant: VariantRecord) -> dict[str, Any]:
    runs = [run for run in variant.runs if run.has_ended]
    return {
        "variant": _text(variant.name),
        "algorithm": _text(variant.algorithm),
        "recipe": _text(variant.recipe),
        "runs": len(variant.runs),
        "runs_ended": len(runs),
        "runs_failed": sum(run.status == "failed" for run in variant.runs),
        "alarms": _text("; ".join(variant.alarms)),
        **{cost.name: _known(cost.of(runs)) for cost in COSTS},
    }


def _value(value: Value) -> dict[str, Any]:
    row: dict[str, Any] = {
        "value": _text(value.name),
        "role": value.role,
        "higher_is_better": ""
        if value.higher_is_better is None
        else str(value.higher_is_better).lower(),
        "samples": value.samples,
        "best": _text(value.best or ""),
        # One column however many seeds: variants may have different numbers of them.
        "seed_changes": " ".join(map(repr, value.seeds)),
    }
    for name in (one.name for one in ESTIMATES):
        estimate: Interval | None = getattr(value, name)
        if estimate is not None:
            bounds = {f"{name}_low": estimate.low, f"{name}_high": estimate.high}
            row |= {name: estimate.value, **bounds}
    return row


def _known(number: float | None) -> float | str:
    return number if number is not None and math.isfinite(number) else ""


def _text(text: str) -> str:
    return "'" + text if text.startswith(_FORMULA) else text
