"""The main claim: drpose_mini over several seeds, before and after on the same held-out samples and noise.

    python benchmarks/drpose_mini.py --data data/drpose_mini --out runs/drpose_seeds --seeds 0 1 2

Writes OUT/results.json and prints a Markdown table. The interval of the mean over seeds is over samples (each sample's
difference is averaged over the seeds first), so it answers: does this recipe help on new samples? The seeds' own means
stand beside it. A run that is already there is not repeated.
"""

from __future__ import annotations

import argparse
import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from rewardft.evaluation import Evaluation, compare, pair_up
from rewardft.runs import run_recipe_file


def run_seed(seed: int, data: Path, out: Path, overrides: list[str]) -> tuple[Evaluation, Evaluation]:
    """Base and tuned evaluation of one seed."""
    folder = out / f"seed{seed}"
    if not (folder / "summary.json").exists():
        recipe = Path(str(files("rewardft_recipes") / "drpose_mini.yaml"))
        run_recipe_file(recipe, folder, [f"seed={seed}", f"data.root={data}", *overrides])
    tables = [json.loads(path.read_text()) for path in sorted((folder / "evaluations").glob("step-*.json"))]
    return Evaluation.from_json(tables[0]), Evaluation.from_json(tables[-1])


def pool(pairs: list[tuple[Evaluation, Evaluation]]) -> list[dict[str, Any]]:
    """One row per value and group: means, difference over all seeds with its 95 % half-width, and each seed's own."""
    base = pairs[0][0]
    each = [{row.name: row for row in compare(*pair)} for pair in pairs]
    rows = []
    for name in base.per_sample:
        for prefix, chosen in base.rows().items():
            if not prefix:
                continue
            before = [base.per_sample[name][i] for i in chosen]
            after = [sum(tuned.per_sample[name][i] for _, tuned in pairs) / len(pairs) for i in chosen]
            row = pair_up(prefix + name, list(zip(before, after)))
            rows.append({**vars(row), "seeds": [seed[row.name].difference for seed in each]})
    return rows


def markdown(rows: list[dict[str, Any]]) -> str:
    lines = ["| held-out samples | n | before | after | difference (95 %) | each seed |", "|---|---|---|---|---|---|"]
    for row in rows:
        seeds = ", ".join(f"{d:+.3g}" for d in row["seeds"])
        difference = f"{row['difference']:+.3g} ± {row['half_width']:.2g}"
        means = f"{row['count']} | {row['before']:.4g} | {row['after']:.4g}"
        lines.append(f"| {row['name']} | {means} | {difference} | {seeds} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data/drpose_mini"))
    parser.add_argument("--out", type=Path, default=Path("runs/drpose_seeds"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    options = parser.parse_args()
    rows = pool([run_seed(seed, options.data, options.out, options.overrides) for seed in options.seeds])
    (options.out / "results.json").write_text(json.dumps(rows, indent=2))
    print(markdown(rows))


if __name__ == "__main__":
    main()
