"""The table of benchmarks/results/algorithms_fair.md, from a report of `compare_mini --match`.

    rewardft compare compare_mini --match divergence=0.02 --set evaluate.every=8 --out runs/fair
    python benchmarks/matched_table.py runs/fair/report.csv

One table for each base model, best first at equal divergence; variants of which a run does not get
so far come last. Then what `compare_mini` alone would say: the change at the end of the budget, its
place among the others, and the divergence there.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from algorithms_table import REWARD, Row, by_variant, change

JUDGE, KL = "digit_judge/accuracy", "kl/epsilon_mse"
COLUMNS = [
    "algorithm",
    "change at equal divergence",
    "against the best other",
    "judge there: accuracy, points",
    "change at the end",
    "place at the end",
    "KL at the end",
]
Values = Mapping[str, Row]


def matched(values: Values, name: str) -> Row | None:
    """A value at equal divergence; None where it is not reached."""
    row = next((row for key, row in values.items() if key.startswith(f"{name} at kl/")), None)
    return row if row and row["versus_base"] else None


def line(values: Values, place: int) -> list[str]:
    """Cells of one variant."""
    end, same = values[REWARD], matched(values, REWARD)
    rival = same["best"].removeprefix("digits_") if same else ""
    return [
        f"`{end['variant'].removeprefix('digits_')}`",
        change(same) if same else "not reached",
        f"{change(same, 'versus_best')} ({rival})" if rival else "-",
        change(matched(values, JUDGE), factor=100, digits=0),
        change(end),
        str(place),
        f"{float(values[KL]['after']):.3f}",
    ]


def order(values: Values) -> float:
    """By the change at equal divergence; last where there is none."""
    same = matched(values, REWARD)
    return -float(same["versus_base"]) if same else float("inf")


def main() -> None:
    found = [values for values in by_variant(Path(sys.argv[1])).values() if REWARD in values]
    # The same base has the same mean before training, on the same samples and noise.
    for base in sorted({values[REWARD]["before"] for values in found}):
        own = [values for values in found if values[REWARD]["before"] == base]
        own.sort(key=lambda values: -float(values[REWARD]["versus_base"]))
        placed = sorted(enumerate(own, 1), key=lambda pair: order(pair[1]))
        print(f"\nBase: {float(base):.3f}\n")
        rows = [line(values, place) for place, values in placed]
        for cells in [COLUMNS, ["---"] * len(COLUMNS), *rows]:
            print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
