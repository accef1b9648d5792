"""The table of soups in benchmarks/results/several_rewards.md: what merging runs gives.

    python benchmarks/soups_table.py runs/soup_0.25_0 runs/soup_0.25_1 runs/soup_0.5_0 ...

Each folder is a soup that `rewardft evaluate` has evaluated. Soups of the same weights are seeds:
the change from the base is their mean with its 95 % interval over seeds and samples.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from comparison_table import change

from rewardft.comparisons.statistics import mean_interval

NAMES = ("reward/digit_likelihood", "reward/digit_ink", "digit_judge/accuracy", "kl/epsilon_mse")


def changes(folder: Path, name: str) -> list[float]:
    """Tuned minus base, of each held-out sample."""
    read = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    before, after = (read[model]["per_sample"][name] for model in ("base", "tuned"))
    return [b - a for a, b in zip(before, after, strict=True)]


def main() -> None:
    soups: dict[tuple[float, ...], list[Path]] = {}
    for folder in map(Path, sys.argv[1:]):
        facts = json.loads((folder / "soup.json").read_text(encoding="utf-8"))
        soups.setdefault(tuple(facts["weights"]), []).append(folder)
    lines = [["weights", "seeds", *NAMES], ["---"] * (2 + len(NAMES))]
    for weights, folders in sorted(soups.items(), reverse=True):
        cells = [cell([changes(folder, name) for folder in folders]) for name in NAMES]
        lines.append([", ".join(map(str, weights)), str(len(folders)), *cells])
    for cells in lines:
        print(f"| {' | '.join(cells)} |")


def cell(table: list[list[float]]) -> str:
    """'+0.553 ± 0.010; +0.546, +0.557, +0.555': the change, and that of each seed."""
    seeds = ", ".join(f"{sum(row) / len(row):+.3g}" for row in table)
    return f"{change(mean_interval(table))}; {seeds}"


if __name__ == "__main__":
    main()
