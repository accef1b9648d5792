"""The table of benchmarks/results/algorithms.md, from the report of `compare_mini`.

    python benchmarks/algorithms_table.py runs/compare_mini/report.csv

One table for each base model, as figures cannot be ranked across bases; best first. Changes from
the base have their 95 % intervals over seeds and samples; the difference to the best other variant
is paired. `!` marks variants that raised an alarm. The last columns are what one run took:
thousands of samples in forwards, in backwards and in reward evaluations.
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
COLUMNS = [
    "algorithm",
    "after",
    "difference",
    "each seed",
    "to the best other",
    *(heading for heading, *_ in VALUES),
    "denoised",
    "differentiated",
    "rewards",
]


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
    rival = row["best"].removeprefix("digits_")
    behind = f"{change(row, 'versus_best')} ({rival})" if rival else "-"
    return [
        f"`{row['variant'].removeprefix('digits_')}`{alarm}",
        f"{float(row['after']):.3f}",
        change(row),
        ", ".join(f"{float(seed):+.2f}" for seed in row["seed_changes"].split()),
        behind,
        *(change(values.get(name), factor=factor, digits=n) for _, name, factor, n in VALUES),
        *(f"{float(row[cost]) / 1000:.1f} k" if row[cost] else "-" for cost in COSTS),
    ]


def by_variant(report: Path) -> dict[str, dict[str, Row]]:
    """The rows of a report.csv, by variant and value."""
    found: dict[str, dict[str, Row]] = {}
    for row in csv.DictReader(report.read_text(encoding="utf-8").splitlines()):
        found.setdefault(row["variant"], {})[row["value"]] = row
    return found


def main() -> None:
    found = by_variant(Path(sys.argv[1]))
    measured = [values for values in found.values() if REWARD in values]
    measured.sort(key=lambda values: -float(values[REWARD]["after"]))
    # The same base has the same mean before training, on the same samples and noise.
    for base in sorted({values[REWARD]["before"] for values in measured}):
        own = [values for values in measured if values[REWARD]["before"] == base]
        print(f"\nBase: {float(base):.3f}\n")
        for cells in [COLUMNS, ["---"] * len(COLUMNS), *map(line, own)]:
            print(f"| {' | '.join(cells)} |")
    for name in sorted(found.keys() - {values[REWARD]["variant"] for values in measured}):
        print(f"\n{name}: no result")


if __name__ == "__main__":
    main()
