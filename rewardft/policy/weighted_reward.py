"""A reward as a recipe lists it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from rewardft.types import Batch, Rollout


@dataclass(frozen=True)
class WeightedReward:
    """A reward with its name in the logs, its weight in the total and what to do when it fails."""

    name: str
    reward: Callable[[Rollout, Batch], Tensor]
    weight: float = 1.0
    on_error: str = "stop"
