"""Tools for plugin authors: conformance checks, a tiny CPU model and a recipe runner.

`rewardft.testing.tiny` holds the model. With pytest, the fixture `run_recipe` is there without an
import. Importing this package imports no torch, because pytest does so when it starts; its names
are loaded when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

# Names and where they live: torch is imported with the first of them that is used.
_LAZY = {
    "Finished": "rewardft.testing.recipes",
    "RecipeRunner": "rewardft.testing.recipes",
    "RewardReport": "rewardft.testing.rewards",
    "check_algorithm": "rewardft.testing.conformance",
    "check_cut": "rewardft.testing.runs",
    "check_dataset": "rewardft.testing.conformance",
    "check_model": "rewardft.testing.conformance",
    "check_reward": "rewardft.testing.rewards",
    "check_resume": "rewardft.testing.runs",
    "check_same_run": "rewardft.testing.runs",
    "check_sampler": "rewardft.testing.samplers",
    "make_rollout": "rewardft.testing.rewards",
    "run_recipe": "rewardft.testing.recipes",
}

__all__ = [
    "Finished",
    "RecipeRunner",
    "RewardReport",
    "check_algorithm",
    "check_cut",
    "check_dataset",
    "check_model",
    "check_resume",
    "check_reward",
    "check_same_run",
    "check_sampler",
    "make_rollout",
    "run_recipe",
]

if TYPE_CHECKING:
    from rewardft.testing.conformance import (
        check_algorithm,
        check_dataset,
        check_model,
    )
    from rewardft.testing.recipes import Finished, RecipeRunner, run_recipe
    from rewardft.testing.rewards import RewardReport, check_reward, make_rollout
    from rewardft.testing.runs import check_cut, check_resume, check_same_run
    from rewardft.testing.samplers import check_sampler


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'rewardft.testing' has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)
