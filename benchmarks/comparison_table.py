"""The table of a comparison for docs/results.md: changes from the base with 95 % intervals, and what a run took.

    python benchmarks/comparison_table.py runs/compare_drpose reward/pose_score pose_judge/mpjpe_mm kl/epsilon_mse
"""

from __future__ import annotations

import sys
from pathlib import Path
from statistics import fmean

from rewardft.compare.records import Interval, VariantRecord, load_comparison
from rewardft.compare.report.numbers import number
from rewardft.compare.report.verdicts import ranked, value_of

AXES = ("steps", "forwards", "backwards", "rewards")


def change(estimate: Interval | None) -> str:
    """'+0.0046 ± 0.0009', as many digits as the interval allows."""
    if estimate is None:
        return "-"
    half = (estimate.high - estimate.low) / 2
    return f"{number(estimate.value, half, sign=True)} ± {number(half, half)}".replace("−", "-")


def row(variant: VariantRecord, names: list[str]) -> list[str]:
    """Cells of one variant."""
    values = [value_of(variant, name) for name in names]
    ended = [run for run in variant.runs if run.status in ("finished", "stopped")]
    costs = [f"{fmean(run.axes[axis] for run in ended):,.0f}" for axis in AXES] if ended else ["-"] * len(AXES)
    return [f"`{variant.name}`", *(change(value and value.versus_base) for value in values), *costs]


def main() -> None:
    folder, *names = sys.argv[1:]
    record = load_comparison(Path(folder) / "comparison.json")
    lines = [["variant", *names, *AXES], ["---"] * (1 + len(names) + len(AXES))]
    for cells in lines + [row(variant, names) for variant in ranked(record)]:
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
