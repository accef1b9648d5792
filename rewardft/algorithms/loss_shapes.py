"""The loss as a function of a reward, and its slope."""

from __future__ import annotations

from typing import Literal, assert_never

import torch
from torch import Tensor

Shape = Literal["negative", "one_minus", "hinge", "absolute"]


def shape_loss(reward: Tensor, shape: Shape, target: float) -> Tensor:
    """The loss of a reward, elementwise: -r, 1 - r, relu(target - r) or |target - r|."""
    if shape == "negative":
        return -reward
    if shape == "one_minus":
        return 1 - reward
    if shape == "hinge":
        return torch.relu(target - reward)
    if shape == "absolute":
        return (target - reward).abs()
    assert_never(shape)


def shape_slope(reward: Tensor, shape: Shape, target: float) -> Tensor:
    """d shape_loss / d reward, elementwise; 0 at the kink of the last two."""
    if shape == "negative" or shape == "one_minus":
        return -torch.ones_like(reward)
    if shape == "hinge":
        return -(reward < target).to(reward)
    if shape == "absolute":
        return torch.sign(reward - target)
    assert_never(shape)
