"""The table of benchmarks/results/algorithms.md, from the report of `compare_mini`.

    python benchmarks/algorithms_table.py runs/compare_mini/report.csv

Best first. Changes from the base have their 95 % intervals over seeds and samples; `behind` is the
paired difference to the best other variant. The last columns are what one run took: thousands of
samples in forwards, in backwards and in reward evaluations.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Mapping
from pathlib import Path

Row = Mapping[str, str]
REWARD = "reward/digit_likelihood"
# Heading, value in the report, factor, digits.
VALUES = (
    ("judge: accuracy, %", "digit_judge/accuracy", 100, 1),
    ("judge: log p", "digit_judge/log_prob", 1, 2),
    ("diversity", "diversity/pixels_within_group", 1, 3),
    ("KL", "kl/epsilon_mse", 1, 3),
)
COSTS = ("mean_forwards", "mean_backwards", "mean_rewards")


def change(row: Row | None, name: str = "versus_base", factor: float = 1, digits: int = 2) -> str:
    """'+0.91 ± 0.20'; '-' where the report has none."""
    if row is None or not row[name]:
        return "-"
    value, low, high = (float(row[name + bound]) * factor for bound in ("", "_low", "_high"))
    return f"{value:+.{digits}f} ± {(high - low) / 2:.{digits}f}"


def line(values: Mapping[str, Row]) -> list[str]:
    """Cells of one variant, whose rows are given by value."""
    row = values[REWARD]
    alarm = " !" if row["alarms"] else ""
    behind = f"{change(row, 'versus_best')} ({row['best'].removeprefix('digits_')})"
    return [
        f"`{row['variant'].removeprefix('digits_')}`{alarm}",
        f"{float(row['before']):.3f}",
        f"{float(row['after']):.3f}",
        change(row),
        ", ".join(f"{float(seed):+.2f}" for seed in row["seed_changes"].split()),
        behind,
        *(change(values.get(name), factor=factor, digits=n) for _, name, factor, n in VALUES),
        *(f"{float(row[cost]) / 1000:.1f} k" if row[cost] else "-" for cost in COSTS),
    ]


def main() -> None:
    rows = list(csv.DictReader(Path(sys.argv[1]).read_text(encoding="utf-8").splitlines()))
    found: dict[str, dict[str, Row]] = {}
    for row in rows:
        found.setdefault(row["variant"], {})[row["value"]] = row
    measured = [values for values in found.values() if REWARD in values]
    measured.sort(key=lambda values: -float(values[REWARD]["after"]))
    heads = [heading for heading, *_ in VALUES]
    columns = ["algorithm", "before", "after", "difference", "each seed", "to the best other"]
    columns += [*heads, "denoised", "differentiated", "rewards"]
    for cells in [columns, ["---"] * len(columns), *map(line, measured)]:
        print(f"| {' | '.join(cells)} |")
    for name in sorted(found.keys() - {values[REWARD]["variant"] for values in measured}):
        print(f"\n{name}: no result")


if __name__ == "__main__":
    main()
