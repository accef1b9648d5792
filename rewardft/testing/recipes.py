"""`run_recipe`: run a recipe in this process and get its metrics; also a pytest fixture of the same name."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Finished:
    """A finished run: its folder, its summary, and one dictionary per optimizer step."""

    folder: Path
    summary: dict[str, Any]
    steps: list[dict[str, float]]

    def column(self, name: str) -> list[float]:
        """One metric over the optimizer steps."""
        return [step[name] for step in self.steps if name in step]


def run_recipe(path: Path | str, out: Path, *overrides: str, resume: bool = False) -> Finished:
    """Run a recipe with `key=value` overrides; raises what the run raises."""
    from rewardft.runs import run_recipe_file

    summary = run_recipe_file(Path(path), Path(out), overrides, resume)
    return Finished(Path(out), summary, read_steps(Path(out)))


def read_steps(folder: Path) -> list[dict[str, float]]:
    """The optimizer steps in a run folder's `metrics.jsonl`, without the evaluation lines."""
    lines: Sequence[str] = (folder / "metrics.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if "gradient_norm" in record]
