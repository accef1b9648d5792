"""Rewards of groups of samples."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from rewardft.errors import ComponentError
from rewardft.types import Scores


def complete_rewards(scores: Scores, group: int) -> Tensor:
    """Rewards `(groups, group)`; NaN for a sample that lacks a reward which others of its group
    have."""
    # (rewards, groups, group).
    missing = torch.stack([value.isnan() for value in scores.by_name.values()]).unflatten(
        1, (-1, group)
    )
    # A total without one of the group's rewards would rank as if that reward were 0.
    incomplete = (missing & ~missing.all(2, keepdim=True)).any(0) | missing.all(0)
    return scores.total.unflatten(0, (-1, group)).masked_fill(incomplete, float("nan"))


def group_slices(count: int, size: int, parts: int) -> Iterator[slice]:
    """Samples of `count` groups of `size` in `parts` slices of whole groups, as equal as can be.

    Raises ComponentError for more parts than groups.
    """
    if parts > count:
        raise ComponentError(f"updates: cannot cut {count} groups into {parts} parts")
    for part in range(parts):
        yield slice(part * count // parts * size, (part + 1) * count // parts * size)
