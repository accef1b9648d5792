"""What a reward may return."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rewardft.errors import RewardError
from rewardft.policy.finite import ids_at, is_surely_finite
from rewardft.policy.untouched import check_plain
from rewardft.types import Batch


def check_value(name: str, value: Any, batch: Batch) -> None:
    """Raises RewardError unless the value is `(b,)` of plain numbers and has no inf."""
    # First: `shape` and `isinf` of a nested or sparse tensor raise errors of torch's own.
    if isinstance(value, Tensor):
        check_plain(name, value)
    if not isinstance(value, Tensor) or value.shape != (len(batch),):
        got = (
            f"a tensor of shape {tuple(value.shape)}"
            if isinstance(value, Tensor)
            else type(value).__name__
        )
        raise RewardError(
            f"reward {name!r} must return one number per sample, shape ({len(batch)},); got {got}"
            f"{shape_hint(value, batch)}"
        )
    if is_surely_finite(value):
        return
    bad = torch.isinf(value.detach())
    if bad.any():
        raise RewardError(
            f"reward {name!r} returned inf for the samples {ids_at(batch, bad)}. A reward must be "
            "finite, or NaN where it does not apply; `on_error: skip` beside it in the recipe "
            "leaves such batches out."
        )


def check_device(name: str, value: Tensor, samples: torch.device) -> None:
    """Raises RewardError for values on another kind of device than the samples."""
    if value.device.type != samples.type:
        raise RewardError(
            f"reward {name!r} returned a tensor on {value.device}, and the samples are on "
            f"{samples}. Return value.to(rollout.noise.device)."
        )


def shape_hint(value: Any, batch: Batch) -> str:
    """What usually leads to this shape; '' where nothing does."""
    if not isinstance(value, Tensor):
        return ". Return a tensor of the rollout's device, made from its samples by torch functions"
    if value.ndim == 0:
        return (
            ", as if over the whole batch: reduce all dimensions but the first, such as by "
            "x.flatten(1).mean(1)"
        )
    if value.numel() == len(batch):
        return ". Its surplus dimensions go away with value.flatten()"
    if len(value) == len(batch):
        return ". Reduce its other dimensions, such as by value.flatten(1).mean(1)"
    return ""
