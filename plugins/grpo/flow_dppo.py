"""Flow-DPPO (2606.11025): steps are dropped by their divergence from the old policy.

    KL   = mean((mean - mean_old)^2) / (2 s^2)          exact for Gaussian steps, per dimension
    drop   where KL >= tau and the ratio moves on: rho > 1 with A > 0, or rho < 1 with A < 0
    loss = 0 where dropped, else -A rho

The first update of a batch has KL = 0 and is REINFORCE, so the mask matters from the second on.
Defaults of the released code: tau 1e-5 (KL averaged over dimensions), groups of 16 of 48 prompts,
the deviation of the whole batch, two updates, 10 steps of `flow_sde` at 0.7 without guidance of
which 3 of the first half draw noise, no KL to the reference, lr 3e-4, LoRA rank 32 and alpha 64.
Here all steps learn unless `timestep_fraction` says otherwise.

Cost per sample: as Flow-GRPO. The old means come from the outputs that the rollout kept, so that no
step is called twice for them.
"""

from __future__ import annotations

from typing import Literal

from rewardft.errors import ComponentError
from rewardft.recipe.bounds import Count, CountOrZero, Pair, Positive, Share

from .grpo import GRPO
from .step_ratio import DivergenceMask


class FlowDPPO(GRPO):
    """REINFORCE on old samples, without the steps that have diverged.

    Args:
        threshold: tau, > 0.
        group_size, std, advantage_clip, updates, inner_epochs, timestep_fraction, skip_last: as
            in `grpo`.
    """

    needs = GRPO.needs

    def __init__(
        self,
        group_size: Pair = 16,
        std: Literal["global", "group"] = "global",
        threshold: Positive = 1e-5,
        advantage_clip: Positive = 5.0,
        updates: Count = 2,
        inner_epochs: Count = 1,
        timestep_fraction: Share = 1.0,
        skip_last: CountOrZero = 1,
    ) -> None:
        if threshold <= 0:
            raise ComponentError(f"expected threshold > 0, got {threshold}")
        super().__init__(
            group_size,
            std=std,
            advantage_clip=advantage_clip,
            updates=updates,
            inner_epochs=inner_epochs,
            timestep_fraction=timestep_fraction,
            skip_last=skip_last,
        )
        # In place of the clip: what is dropped is decided by the divergence alone.
        self.surrogate = DivergenceMask(threshold)
