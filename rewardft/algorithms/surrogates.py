"""Surrogate losses: functions whose gradient is the policy gradient.

rho = p(x_{k+1} | x_k) / p_old(x_{k+1} | x_k), A the advantage, as in `policy_gradient`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from rewardft.types import Transition

# (log_prob, old log_prob, advantage) -> loss, all (b,)
Surrogate = Callable[[Tensor, Tensor, Tensor], Tensor]


@runtime_checkable
class StepSurrogate(Protocol):
    """A loss that needs more of a step than its densities, `(b,)`; see `learn`."""

    def of_step(
        self, sampler: Any, k: int, new: Transition, old: Transition, advantage: Tensor
    ) -> Tensor:
        """The loss of step k: as the policy would take it, and as the rollout took it."""


def score_function_loss(log_prob: Tensor, old: Tensor, advantage: Tensor) -> Tensor:
    """-A log p: its gradient is the score-function estimator (REINFORCE).

    Valid for samples of the current policy alone: the ratio is taken to be 1.
    """
    return -advantage * log_prob


def clipped_ratio_loss(log_prob: Tensor, old: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """max(-A rho, -A clip(rho, 1 - clip, 1 + clip)).

    Schulman et al. 2017, 1707.06347, equation 7.
    """
    # The larger loss of the two: clipping may only take away from an improvement.
    ratio = torch.exp(log_prob - old)
    return torch.maximum(-advantage * ratio, -advantage * ratio.clamp(1 - clip, 1 + clip))
