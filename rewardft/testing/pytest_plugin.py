"""The pytest plugin that comes with rewardft: the fixture `run_recipe`, in every test without an
import.

pytest loads this module when it starts, through the entry point in the group `pytest11`; it imports
nothing heavy.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from rewardft.testing.recipes import RecipeRunner


@pytest.fixture
def run_recipe(request: pytest.FixtureRequest, tmp_path: Path) -> RecipeRunner:
    """Run a recipe into `tmp_path`: `run = run_recipe("mine.yaml", "train.steps=2")`; see
    `RecipeRunner.__call__`."""
    # Relative paths start at the test's file, wherever pytest was called from.
    return RecipeRunner(tmp_path, request.path.parent)
