"""The tables of `docs/adhmr.md`, from a comparison's folder."""

from __future__ import annotations

from collections.abc import Sequence

from rewardft.contracts.records import ComparisonRecord, Interval, Value, VariantRecord
from rewardft.errors import DataError

GROUPS = ("tilted", "plain")
ROWS = {
    "hmr_errors/mpjpe": "each hypothesis, MPJPE",
    "hmr_errors/pa_mpjpe": "each hypothesis, PA-MPJPE",
    "hmr_errors/pve": "each hypothesis, PVE",
    "hmr_errors/mpjpe_mean": "mean pose, MPJPE",
    "hmr_errors/pve_mean": "mean pose, PVE",
    "hmr_errors/mpjpe_best": "best of all, MPJPE",
    "hmr_errors/mpjpe_chosen": "the scorer's choice, MPJPE",
    "hmr_errors/spread": "spread of the hypotheses",
    "hmr_errors/pair_right": "best scored truly better than worst",
    "reward/hmr_scorer": "score",
}


def tables(record: ComparisonRecord) -> str:
    """Markdown: for each group of pictures the base and each variant's change from it, with 95 %
    intervals; of two variants also their difference.

    Raises DataError when no variant has values of `hmr_errors`.
    """
    shown = [variant for variant in record.variants if variant.values]
    parts = [table(shown, group) for group in GROUPS]
    if not any(parts):
        raise DataError("the comparison has no values of hmr_errors; no run has finished.")
    return "\n\n".join(part for part in parts if part)


def table(variants: Sequence[VariantRecord], group: str) -> str:
    """One group's table; empty where nothing was measured."""
    names = [variant.name for variant in variants]
    pair = [f"{names[0]} less {names[1]}"] if len(names) == 2 else []
    head = [group, "base", *names, *pair]
    rows = [cells for name, title in ROWS.items() if (cells := row(variants, group, name, title))]
    if not rows:
        return ""
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, ["---"] * len(head), *rows))


def row(variants: Sequence[VariantRecord], group: str, name: str, title: str) -> list[str]:
    """A title, the base, and the changes; empty where no variant has the value."""
    found = [value_of(variant, f"{group}/{name}") for variant in variants]
    bases = [value.before for value in found if value and value.before]
    if not bases:
        return []
    digits = 1 if name.startswith("hmr_errors") and not name.endswith("pair_right") else 2
    changes = [change(value.versus_base if value else None, digits) for value in found]
    if len(variants) == 2:
        # The comparison gives each variant its difference from the best other one: of two, the
        # other.
        changes.append(change(found[0].versus_best if found[0] else None, digits))
    return [title, f"{bases[0].value:.{digits}f}", *changes]


def value_of(variant: VariantRecord, name: str) -> Value | None:
    """A variant's value by its name."""
    return next((value for value in variant.values if value.name == name), None)


def change(interval: Interval | None, digits: int) -> str:
    """`-48.9 ± 7.1`, and whether the interval contains 0."""
    if interval is None:
        return "-"
    half = (interval.high - interval.low) / 2
    apart = interval.low > 0 or interval.high < 0
    text = f"{interval.value:+.{digits}f} ± {half:.{digits}f}".replace("-", "−")
    return text if apart else f"{text} (n. s.)"
