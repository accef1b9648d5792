"""Tools for plugin authors: conformance checks, a tiny CPU model and a recipe runner.

`rewardft.testing.tiny` holds the model; importing this package imports torch.
"""

from rewardft.testing.recipes import run_recipe
from rewardft.testing.rewards import RewardReport, check_reward, make_rollout

__all__ = ["RewardReport", "check_reward", "make_rollout", "run_recipe"]
