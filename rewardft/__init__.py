"""rewardft: reward fine-tuning of generative models.

Importing this package imports no torch; public names are loaded when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from rewardft.contracts.hookspecs import hookimpl
from rewardft.errors import RewardftError

__version__ = "0.1.0"

_LAZY = {
    "Batch": "rewardft.types",
    "Loss": "rewardft.types",
    "Plan": "rewardft.types",
    "Rollout": "rewardft.types",
    "Scores": "rewardft.types",
    "Transition": "rewardft.types",
    "Context": "rewardft.policy.context",
    "Run": "rewardft.contracts.run",
}

__all__ = [
    "Batch",
    "Context",
    "Loss",
    "Plan",
    "RewardftError",
    "Rollout",
    "Run",
    "Scores",
    "Transition",
    "__version__",
    "hookimpl",
]

if TYPE_CHECKING:
    from rewardft.contracts.run import Run
    from rewardft.policy.context import Context
    from rewardft.types import Batch, Loss, Plan, Rollout, Scores, Transition


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'rewardft' has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)
