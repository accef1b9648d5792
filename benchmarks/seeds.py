"""What benchmarks over seeds share: one run's evaluations, and how several runs are pooled.

The interval of the mean over seeds is over samples: each sample's difference is averaged over the
seeds first, so it answers whether the recipe helps on new samples. The seeds' own means stand
beside it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rewardft.evaluation.evaluate import Evaluation, compare, pair_up

Pair = tuple[Evaluation, Evaluation]


def run_once(recipe: Path, folder: Path, overrides: list[str]) -> Pair:
    """Base and tuned evaluation of one run; a run that is already there is not repeated."""
    from rewardft.runs.open import run_recipe_file

    if not (folder / "summary.json").exists():
        run_recipe_file(recipe, folder, overrides)
    return evaluations(folder)


def evaluations(folder: Path) -> Pair:
    """Those before and after the training of a finished run."""
    tables = [
        json.loads(path.read_text())
        for path in sorted((folder / "evaluations").glob("step-*.json"))
    ]
    return Evaluation.from_json(tables[0]), Evaluation.from_json(tables[-1])


def pool(pairs: list[Pair], overall: bool = True) -> list[dict[str, Any]]:
    """One row per value and group: means,
    difference over all seeds with its 95 % half-width, and each seed's own.

    overall: rows for all samples together as well.
    """
    base = pairs[0][0]
    each = [{row.name: row for row in compare(*pair)} for pair in pairs]
    rows = []
    for name in base.per_sample:
        for prefix, chosen in base.rows().items():
            if not (prefix or overall):
                continue
            before = [base.per_sample[name][i] for i in chosen]
            after = [
                sum(tuned.per_sample[name][i] for _, tuned in pairs) / len(pairs) for i in chosen
            ]
            row = pair_up(prefix + name, list(zip(before, after)))
            rows.append({**vars(row), "seeds": [seed[row.name].difference for seed in each]})
    return rows
