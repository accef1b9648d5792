"""A reward as a recipe lists it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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


def only_one(rewards: Sequence[WeightedReward]) -> WeightedReward | None:
    """The reward that alone has a weight, if there is one."""
    weighted = [reward for reward in rewards if reward.weight != 0]
    return weighted[0] if len(weighted) == 1 else None
