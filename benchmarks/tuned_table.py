"""The tables of benchmarks/results/algorithms_tuned.md: `compare_mini` at the recipes' rates beside
a comparison whose learning rates were searched for.

    rewardft compare compare_mini --out runs/compare_mini
    rewardft compare digits_draft ... --tune optimizer.lr=... --tune-budget ... --out runs/tuned
    python benchmarks/tuned_table.py runs/compare_mini runs/tuned

One table for each base model, best first at the searched rates: each algorithm's gain, divergence
and place among these algorithms, before and after; then what the search saw.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from algorithms_table import REWARD, Row, by_variant, change

from rewardft.contracts.records import SearchRecord, load_comparison

KL = "kl/epsilon_mse"
COLUMNS = [
    "algorithm",
    "rate",
    "gain",
    "KL",
    "place",
    "searched rate",
    "gain",
    "KL",
    "place",
    "each seed",
]
Values = Mapping[str, Row]


def rate_of(folder: Path) -> dict[str, str]:
    """The learning rate of each variant."""
    record = load_comparison(folder / "comparison.json")
    rates = {v.name: v.differences.get("optimizer.lr") for v in record.variants}
    return {name: f"{rate:g}" if rate else "?" for name, rate in rates.items()}


def placed(found: Sequence[Values]) -> dict[str, int]:
    """The place of each variant by its gain."""
    best_first = sorted(found, key=lambda values: -float(values[REWARD]["versus_base"]))
    return {values[REWARD]["variant"]: place for place, values in enumerate(best_first, 1)}


def half(values: Values, rate: str, place: int) -> list[str]:
    """The cells of one comparison."""
    return [rate, change(values[REWARD]), f"{float(values[KL]['after']):.2f}", str(place)]


def show(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    for cells in [columns, ["---"] * len(columns), *rows]:
        print(f"| {' | '.join(cells)} |")


def search_rows(searches: Sequence[SearchRecord]) -> list[list[str]]:
    """What was tried: the value of each, the chosen one in bold, and what the search cost."""
    rows = []
    for one in searches:
        cells = [f"{trial.value:.3f}" for trial in one.trials]
        chosen = [trial.name for trial in one.trials].index(one.chosen)
        cells[chosen] = f"**{cells[chosen]}**"
        costs = [f"{one.costs[axis]:,.0f}" for axis in ("calls", "rewards")]
        rows.append([f"`{one.variant.removeprefix('digits_')}`", *cells, *costs])
    return rows


def main() -> None:
    folders = [Path(word) for word in sys.argv[1:3]]
    rates = [rate_of(folder) for folder in folders]
    before, after = (by_variant(folder / "report.csv") for folder in folders)
    for base in sorted({values[REWARD]["before"] for values in after.values()}):
        own = [values for values in after.values() if values[REWARD]["before"] == base]
        names = placed(own)
        old = placed([before[name] for name in names])
        print(f"\nBase: {float(base):.3f}\n")
        show(
            COLUMNS,
            [
                [
                    f"`{name.removeprefix('digits_')}`",
                    *half(before[name], rates[0][name], old[name]),
                    *half(after[name], rates[1][name], place),
                    ", ".join(
                        f"{float(x):+.2f}" for x in after[name][REWARD]["seed_changes"].split()
                    ),
                ]
                for name, place in names.items()
            ],
        )
    searches = load_comparison(folders[1] / "comparison.json").searches
    print("\nThe search\n")
    show(
        ["algorithm", *(t.name for t in searches[0].trials), "calls", "rewards"],
        search_rows(searches),
    )


if __name__ == "__main__":
    main()
