"""Options that the plugin's algorithms share: a recipe is checked against these ranges."""

from __future__ import annotations

from typing import Literal

from rewardft.recipe.bounds import Count, CountOrZero, NotNegative, Pair, Positive

__all__ = ["Count", "CountOrZero", "Deviation", "Group", "Positive", "Weight"]

Group = Pair  # samples per prompt
Weight = NotNegative  # 0 leaves the term out
# Whose rewards give the deviation: those of all samples of the batch, or of each group.
Deviation = Literal["global", "group"]
