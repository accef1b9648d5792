"""Several rewards and their gradients: how far they agree, and two ways to add them up."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from rewardft.policy.weighted_reward import WeightedReward

Combine = Literal["sum", "conflict", "normalised"]


def slope_of_each(
    rewards: Sequence[WeightedReward], by_name: Mapping[str, Tensor], x0: Tensor
) -> dict[str, Tensor]:
    """d(weight * r_i)/d(x0_i) of each reward that reaches the samples, like x0.

    One backward pass through the reward and the decoder for each. The graph is kept.
    """
    found = {}
    for reward in rewards:
        values = by_name[reward.name]
        if reward.weight == 0 or not values.requires_grad:
            continue
        total = (reward.weight * torch.where(values.isnan(), 0.0, values)).sum()
        # Samples do not mix, so the gradient of the sum holds each sample's own.
        (slope,) = torch.autograd.grad(total, x0, retain_graph=True, allow_unused=True)
        if slope is not None:
            found[reward.name] = slope
    return found


def combined(
    rewards: Sequence[WeightedReward], slopes: Mapping[str, Tensor], how: Combine
) -> Tensor:
    """The gradient that is followed: the sum, or the sum of |weight| times each sample's gradient
    at length 1, so that no reward's scale decides."""
    terms = [
        abs(reward.weight) * unit(slopes[reward.name])
        if how == "normalised"
        else slopes[reward.name]
        for reward in rewards
        if reward.name in slopes
    ]
    return torch.stack(terms).sum(0)


def unit(slope: Tensor) -> Tensor:
    """Each sample's gradient at length 1; 0 where it is 0."""
    length = lengths(slope).view(-1, *[1] * (slope.ndim - 1))
    # Divided only where there is a length: a NaN must stay one.
    return torch.where(length == 0, 0.0, slope / length)


def agreement(slopes: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """(name in the logs, `(b,)`): the length of each reward's weighted gradient, and the cosine of
    each pair, in [-1, 1]; NaN where one of the two is 0. Below 0 the two are in conflict."""
    for name, slope in slopes.items():
        yield f"reward_gradient/{name}", lengths(slope)
    for one, other in itertools.combinations(slopes, 2):
        inner = (slopes[one] * slopes[other]).flatten(1).sum(1)
        yield (
            f"gradient_cosine/{one}/{other}",
            inner / (lengths(slopes[one]) * lengths(slopes[other])),
        )


def lengths(slope: Tensor) -> Tensor:
    """Euclidean norm of each sample's gradient, `(b,)`."""
    return slope.flatten(1).norm(dim=1)
