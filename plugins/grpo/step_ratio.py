"""Surrogates that see whole steps, the rollout's and the policy's, and not only their densities.

Notation: mean_old and std of the step that was taken, x' its next state, A the advantage.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rewardft.errors import ComponentError
from rewardft.types import Transition


@dataclass(frozen=True)
class Guard:
    """The clipped loss of GRPO-Guard, see `grpo_guard.py`.

    Args:
        clip: half-width of the clip range, > 0.
        weigh: divide by the width |D| of the step.
    """

    clip: float
    weigh: bool = True

    def of_step(
        self, sampler: Any, k: int, new: Transition, old: Transition, advantage: Tensor
    ) -> Tensor:
        """`(b,)`."""
        # log rho + b = mean((mean - mean_old) * noise) / s. Times s, every step clips alike. The
        # gradient runs through b too: only the sum has this form.
        std, bias = spread(old), squared_distance(new, old) / (2 * spread(old) ** 2)
        assert new.log_prob is not None and old.log_prob is not None
        ratio = torch.exp(std * (new.log_prob - old.log_prob + bias))
        loss = clipped(ratio, advantage, self.clip)
        return loss / step_width(sampler, k) if self.weigh else loss


@dataclass(frozen=True)
class DivergenceMask:
    """The loss of Flow-DPPO, see `flow_dppo.py`. threshold: tau, > 0."""

    threshold: float

    def of_step(
        self, sampler: Any, k: int, new: Transition, old: Transition, advantage: Tensor
    ) -> Tensor:
        """`(b,)`."""
        # Exact for Gaussians of equal deviation. It decides what is dropped; it is not a penalty.
        divergence = squared_distance(new, old).detach() / (2 * spread(old) ** 2)
        assert new.log_prob is not None and old.log_prob is not None
        log_ratio = new.log_prob - old.log_prob
        ratio = log_ratio.detach().exp()
        # A step that has diverged but whose gradient leads back is kept, as PPO's maximum keeps it.
        leaving = ((ratio > 1) & (advantage > 0)) | ((ratio < 1) & (advantage < 0))
        dropped = (divergence >= self.threshold) & leaving
        # Dropped before the exponential: an overflow there would make a NaN of a gradient of 0.
        kept_ratio = torch.where(dropped, 0.0, log_ratio).exp()
        return torch.where(dropped, 0.0, -advantage * kept_ratio)


@dataclass(frozen=True)
class PlainDistance:
    """The clipped ratio of log p = -mean((x' - mean)^2), without the 1 / (2 std^2) of the density.

    clip: half-width of the clip range, > 0.
    """

    clip: float

    def of_step(
        self, sampler: Any, k: int, new: Transition, old: Transition, advantage: Tensor
    ) -> Tensor:
        """`(b,)`."""
        assert new.log_prob is not None and old.log_prob is not None
        # 2 std^2 (log p - log p_old): the constants of the density cancel, the distances remain.
        ratio = torch.exp(2 * spread(old) ** 2 * (new.log_prob - old.log_prob))
        return clipped(ratio, advantage, self.clip)


def clipped(ratio: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """max(-A rho, -A clip(rho, 1 - clip, 1 + clip))."""
    return torch.maximum(-advantage * ratio, -advantage * ratio.clamp(1 - clip, 1 + clip))


def squared_distance(new: Transition, old: Transition) -> Tensor:
    """mean((mean - mean_old)^2) over the dimensions of a sample, `(b,)`."""
    assert new.mean is not None and old.mean is not None
    return (new.mean - old.mean).square().flatten(1).mean(1)


def spread(step: Transition) -> Tensor:
    assert step.std is not None
    return step.std


def step_width(sampler: Any, k: int) -> float:
    """|D| of step k. Raises ComponentError for a sampler without noise levels."""
    # Levels, not timesteps: a shift makes the two differ.
    levels = getattr(sampler, "sigmas", None)
    if levels is None:
        raise ComponentError(
            "grpo_guard divides by the width of a step in noise levels, and this sampler has none. "
            "Use `flow_sde`, or set `weigh` to false."
        )
    # Levels fall along the chain, so this is |D|.
    return float(levels[k] - levels[k + 1])
