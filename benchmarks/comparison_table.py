"""The table of a comparison for docs/results.md: changes from the base with 95 % intervals,
and what a run took.

With `--each` every cell has the seeds' own changes too, and the paired difference to the best other
variant.

    python benchmarks/comparison_table.py runs/compare_drpose \
        reward/pose_score pose_judge/mpjpe_mm kl/epsilon_mse
"""

from __future__ import annotations

import sys
from pathlib import Path
from statistics import fmean

from rewardft.comparisons.report.numbers import number
from rewardft.comparisons.report.verdicts import ranked, value_of
from rewardft.contracts.records import Interval, Value, VariantRecord, load_comparison

AXES = ("steps", "forwards", "backwards", "rewards")


def change(estimate: Interval | None) -> str:
    """'+0.0046 ± 0.0009', as many digits as the interval allows."""
    if estimate is None:
        return "-"
    half = (estimate.high - estimate.low) / 2
    return f"{number(estimate.value, half, sign=True)} ± {number(half, half)}".replace("−", "-")


def cell(value: Value | None, each: bool) -> str:
    """A value of one variant; with `each`: 'change; seeds; difference to the best (its name)'."""
    if value is None:
        return "-"
    seeds = ", ".join(f"{seed:+.3g}" for seed in value.seeds)
    rival = f"{change(value.versus_best)} ({value.best})" if value.versus_best else "-"
    return (
        "; ".join([change(value.versus_base), seeds, rival]) if each else change(value.versus_base)
    )


def row(variant: VariantRecord, names: list[str], each: bool) -> list[str]:
    """Cells of one variant."""
    values = [value_of(variant, name) for name in names]
    ended = [run for run in variant.runs if run.has_ended]
    costs = (
        [f"{fmean(run.axes[axis] for run in ended):,.0f}" for axis in AXES]
        if ended
        else ["-"] * len(AXES)
    )
    return [f"`{variant.name}`", *(cell(value, each) for value in values), *costs]


def main() -> None:
    folder, *names = [word for word in sys.argv[1:] if word != "--each"]
    record = load_comparison(Path(folder) / "comparison.json")
    lines = [["variant", *names, *AXES], ["---"] * (1 + len(names) + len(AXES))]
    for cells in lines + [row(variant, names, "--each" in sys.argv) for variant in ranked(record)]:
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
