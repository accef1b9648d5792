"""`run_recipe`: run a recipe in this process and get its metrics; also a pytest fixture of the same
name.

The fixture is in `rewardft.testing.pytest_plugin`; what it hands to a test is `RecipeRunner`.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rewardft.errors import RewardftError
from rewardft.files.json_text import nan_for_null


@dataclass(frozen=True)
class Finished:
    """A finished run: its folder, its summary, and one dictionary per optimizer step."""

    folder: Path
    summary: dict[str, Any]
    steps: list[dict[str, float]]

    def column(self, name: str) -> list[float]:
        """One metric over the optimizer steps."""
        return [step[name] for step in self.steps if name in step]


def run_recipe(
    path: Path | str,
    out: Path,
    *overrides: str,
    resume: bool = False,
    allow_changed_plugins: bool = False,
) -> Finished:
    """Run a recipe with `key=value` overrides; raises what the run raises."""
    # Here, as pytest imports this module when it starts.
    from rewardft.runs.open import run_recipe_file

    summary = run_recipe_file(Path(path), Path(out), overrides, resume, allow_changed_plugins)
    return Finished(Path(out), summary.to_json(), read_steps(Path(out)))


class RecipeRunner:
    """Runs recipes for one test.

    Args:
        folder: where the run folders go, and the recipes that are given as text.
        beside: what relative paths of recipes are relative to: the folder of the test's file.
    """

    def __init__(self, folder: Path, beside: Path) -> None:
        self.folder, self.beside = folder, beside
        self._calls = 0

    def __call__(
        self,
        recipe: Path | str,
        *overrides: str,
        out: Path | str | None = None,
        resume: bool = False,
    ) -> Finished:
        """Run a recipe and return its folder, summary and steps.

        Args:
            recipe: a path, or the recipe itself: text of more than one line. Plugin files that such
                a text names are relative to `folder`.
            overrides: `key=value`, as after `--set`.
            out: the run folder, relative to `folder`; by default a new one for each call: run,
                run2, ...
            resume: continue the run in `out`.

        Raises:
            RewardftError: the run's own, without the frames of rewardft, which would hide what it
                says.
        """
        __tracebackhide__ = True  # pytest then ends its traceback at the line of the test
        self._calls += 1
        # A run folder is never overwritten, so each call has its own.
        name = f"run{self._calls}" if self._calls > 1 else "run"
        try:
            return run_recipe(
                self._file(recipe, name), self.folder / (out or name), *overrides, resume=resume
            )
        except RewardftError as error:
            # The message says what is wrong; fifty frames of the core above it would not.
            raise error.with_traceback(None) from error.__cause__

    def _file(self, recipe: Path | str, name: str) -> Path:
        # A path is one line; a recipe never is.
        if isinstance(recipe, Path) or "\n" not in recipe:
            return self.beside / recipe
        path = self.folder / f"{name}.yaml"
        path.write_text(textwrap.dedent(recipe), encoding="utf-8")
        return path


def read_steps(folder: Path) -> list[dict[str, float]]:
    """The optimizer steps in a run folder's `metrics.jsonl`, without the evaluation lines; null
    becomes NaN."""
    lines: Sequence[str] = (folder / "metrics.jsonl").read_text().splitlines()
    return [nan_for_null(record) for record in map(json.loads, lines) if "gradient_norm" in record]
