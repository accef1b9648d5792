"""report.csv: one row per variant and value, every number in full."""

from __future__ import annotations

import csv
import io
import math
from typing import Any

from rewardft.comparisons.report.tables import mean_axis
from rewardft.contracts.records import AXES, ComparisonRecord, Value, VariantRecord

_INTERVALS = ("before", "after", "iqm", "versus_base", "versus_best", "probability")
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
    parts = [name + bound for name in _INTERVALS for bound in ("", "_low", "_high")]
    costs = [f"mean_{axis}" for axis in AXES]
    facts = ["variant", "algorithm", "recipe", "value", "role", "higher_is_better", "samples"]
    runs = ["best", "seed_changes", "runs", "runs_ended", "runs_failed", "alarms"]
    return [*facts, *parts, *runs, *costs, "peak_memory_bytes"]


def _variant(variant: VariantRecord) -> dict[str, Any]:
    ended = [run for run in variant.runs if run.status in ("finished", "stopped")]
    memory = [run.peak_memory for run in ended if run.peak_memory is not None]
    return {
        "variant": _text(variant.name),
        "algorithm": _text(variant.algorithm),
        "recipe": _text(variant.recipe),
        "runs": len(variant.runs),
        "runs_ended": len(ended),
        "runs_failed": sum(run.status == "failed" for run in variant.runs),
        "alarms": _text("; ".join(variant.alarms)),
        **{f"mean_{axis}": _known(mean_axis(ended, axis)) for axis in AXES},
        "peak_memory_bytes": max(memory, default=""),
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
    for name in _INTERVALS:
        estimate = getattr(value, name)
        if estimate is not None:
            row |= {
                name: estimate.value,
                f"{name}_low": estimate.low,
                f"{name}_high": estimate.high,
            }
    return row


def _known(number: float) -> float | str:
    return number if math.isfinite(number) else ""


def _text(text: str) -> str:
    return "'" + text if text.startswith(_FORMULA) else text
