"""The pose head: from one hidden state to a Gaussian over poses (Pose-RFT, 2508.07804, section
3.2)."""

from __future__ import annotations

import torch
from rewardft_plugins.posert.rotations import SIZE
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, LowRankMultivariateNormal, Normal

from rewardft.errors import ComponentError

LEAST, MOST = -5.0, 1.0  # logarithms of the deviation of a coordinate
FIRST = -1.5  # of an untrained head


class PoseHead(nn.Module):
    """Hidden states `(b, h)` -> mean `(b, 132)`, deviation `(b, 132)` and factor `(b, 132, r)` of
    the covariance F F^T + diag(deviation^2); r = 0: diagonal."""

    def __init__(self, hidden: int, width: int, rank: int) -> None:
        super().__init__()
        if width < 1 or rank < 0:
            raise ComponentError(f"expected width >= 1 and rank >= 0, got {width} and {rank}")
        self.rank = rank
        self.enter = nn.Linear(hidden, width)
        self.middle = nn.Linear(width, width)
        self.mean = nn.Linear(width, SIZE)
        self.spread = nn.Linear(width, SIZE * (1 + rank))
        # Starts at the rest pose, with nearly equal deviations, whatever the hidden state.
        rest = torch.eye(3)[:, :2].T.flatten().repeat(SIZE // 6)
        with torch.no_grad():
            self.mean.weight.mul_(0.1)
            self.spread.weight.mul_(0.1)
            self.mean.bias.copy_(rest)
            self.spread.bias.zero_()[:SIZE] = FIRST

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = nn.functional.silu(self.enter(hidden))
        x = x + nn.functional.silu(self.middle(x))
        spread = self.spread(x)
        # Clamped, as a deviation that goes to 0 makes the density, and its gradient, infinite.
        deviation = spread[:, :SIZE].clamp(LEAST, MOST).exp()
        return self.mean(x), deviation, spread[:, SIZE:].unflatten(1, (SIZE, self.rank))


def density(mean: Tensor, deviation: Tensor, factor: Tensor) -> Distribution:
    """The Gaussian over `(b, 132)` with the head's parameters."""
    if factor.shape[-1] == 0:
        return Independent(Normal(mean, deviation, validate_args=False), 1, validate_args=False)
    return LowRankMultivariateNormal(mean, factor, deviation.square(), validate_args=False)


def draw(mean: Tensor, deviation: Tensor, factor: Tensor, noise: Tensor) -> Tensor:
    """A sample `(b, 132)` from standard normal `noise` `(b, 132 + r)`."""
    # (b, 132) for each coordinate, (b, r) shared through the factor.
    own, shared = noise[:, :SIZE], noise[:, SIZE:]
    return mean + deviation * own + (factor @ shared[..., None])[..., 0]
