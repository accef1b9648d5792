"""The main claim: drpose_mini over several seeds,
before and after on the same held-out samples and noise.

    python benchmarks/drpose_mini.py --data data/drpose_mini --out runs/drpose_seeds --seeds 0 1 2

Writes OUT/results.json and prints a Markdown table; `seeds.py` says what the intervals mean. A run
that is already there is not repeated.
"""

from __future__ import annotations

import argparse
import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from seeds import Pair, pool, run_once


def run_seed(seed: int, data: Path, out: Path, overrides: list[str]) -> Pair:
    """Base and tuned evaluation of one seed."""
    recipe = Path(str(files("rewardft_recipes") / "drpose_mini.yaml"))
    return run_once(recipe, out / f"seed{seed}", [f"seed={seed}", f"data.root={data}", *overrides])


def markdown(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| held-out samples | n | before | after | difference (95 %) | each seed |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        seeds = ", ".join(f"{d:+.3g}" for d in row["seeds"])
        difference = f"{row['difference']:+.3g} ± {row['half_width']:.2g}"
        means = f"{row['count']} | {row['before']:.4g} | {row['after']:.4g}"
        lines.append(f"| {row['name']} | {means} | {difference} | {seeds} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("data/drpose_mini"))
    parser.add_argument("--out", type=Path, default=Path("runs/drpose_seeds"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    options = parser.parse_args()
    pairs = [run_seed(seed, options.data, options.out, options.overrides) for seed in options.seeds]
    rows = pool(pairs, overall=False)
    (options.out / "results.json").write_text(json.dumps(rows, indent=2))
    print(markdown(rows))


if __name__ == "__main__":
    main()
