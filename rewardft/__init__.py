"""rewardft: reward fine-tuning of generative models.

Importing this package imports no torch; public names are loaded when they are first used. Plugin
authors find here what they need; with `rewardft.samplers`, `rewardft.algorithms` and
`rewardft.testing` it is the public face.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from typing import TYPE_CHECKING, Any

from rewardft.contracts.hookspecs import hookimpl
from rewardft.errors import (
    CheckpointError,
    ComponentError,
    DataError,
    PluginError,
    RecipeError,
    RewardError,
    RewardftError,
)

# For type checkers and editors; at run time `__getattr__` does the same.
if TYPE_CHECKING:
    from rewardft.comparisons.api import compare
    from rewardft.contracts.alarm import Alarm
    from rewardft.contracts.protocols import (
        Algorithm,
        Dataset,
        DiffusionModel,
        Metric,
        Model,
        Regularizer,
        Reward,
        Sampler,
    )
    from rewardft.contracts.records import ComparisonRecord, RunRecord, Section
    from rewardft.contracts.run import Run
    from rewardft.evaluation.evaluate import Paired
    from rewardft.noise import Noise
    from rewardft.policy.context import Context
    from rewardft.recipe.recipe import Recipe, load_recipe
    from rewardft.runs.api import (
        FinishedRun,
        evaluate,
        evaluate_strengths,
        export,
        load_run,
        run,
        sample,
    )
    from rewardft.runs.soup import Soup, soup
    from rewardft.types import Batch, Loss, Plan, Rollout, Scores, Transition

__version__: str

# Lazy, because `rewardft --help` and pytest import this package.
_HOMES = {
    "rewardft.comparisons.api": "compare",
    "rewardft.contracts.alarm": "Alarm",
    "rewardft.contracts.protocols": (
        "Algorithm Dataset DiffusionModel Metric Model Regularizer Reward Sampler"
    ),
    "rewardft.contracts.records": "ComparisonRecord RunRecord Section",
    "rewardft.contracts.run": "Run",
    "rewardft.evaluation.evaluate": "Paired",
    "rewardft.noise": "Noise",
    "rewardft.policy.context": "Context",
    "rewardft.recipe.recipe": "Recipe load_recipe",
    "rewardft.runs.soup": "Soup soup",
    "rewardft.runs.api": "FinishedRun evaluate evaluate_strengths export load_run run sample",
    "rewardft.types": "Batch Loss Plan Rollout Scores Transition",
}
_LAZY = {name: module for module, names in _HOMES.items() for name in names.split()}

__all__ = [
    "Alarm",
    "Algorithm",
    "Batch",
    "CheckpointError",
    "ComparisonRecord",
    "ComponentError",
    "Context",
    "DataError",
    "Dataset",
    "DiffusionModel",
    "FinishedRun",
    "Loss",
    "Metric",
    "Model",
    "Noise",
    "Paired",
    "Plan",
    "PluginError",
    "Recipe",
    "RecipeError",
    "Regularizer",
    "Reward",
    "RewardError",
    "RewardftError",
    "Rollout",
    "Run",
    "RunRecord",
    "Sampler",
    "Scores",
    "Section",
    "Soup",
    "Transition",
    "__version__",
    "compare",
    "evaluate",
    "evaluate_strengths",
    "export",
    "hookimpl",
    "load_recipe",
    "load_run",
    "run",
    "sample",
    "soup",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":  # it stands in pyproject.toml alone
        return importlib.metadata.version("rewardft")
    if name not in _LAZY:
        raise AttributeError(f"module 'rewardft' has no attribute {name!r}")
    # Not stored: `import_module` finds the module in `sys.modules` the next time.
    return getattr(importlib.import_module(_LAZY[name]), name)
