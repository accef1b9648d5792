"""GRPO-Guard (2510.22319): ratios that are centred, and steps that weigh alike.

The mean of log rho over samples of the old policy is not 0 but -b, b the divergence of the step,
and its deviation grows as the step's noise s falls. Both are taken out, and the loss is divided
by the width |D| of the step, with which its gradient otherwise shrinks:

    b    = mean((mean - mean_old)^2) / (2 s^2)
    rho^ = exp(s (log p - log p_old + b))          which is exp(mean((mean - mean_old) * noise))
    loss = max(-A rho^, -A clip(rho^, 1 - c, 1 + c)) / |D|

Defaults of the released code: c 2e-6 (4e-6 for PickScore; log rho^ has lost a factor 1 / s, so that
1e-4 would never clip), advantages by the deviation of each group (+ 1e-4), groups of 24, two
updates per batch, lr 1e-4, no KL, 10 steps of `flow_sde`, guidance 4.5. There b is one number for a
whole batch, by a slip in its reduction; here every sample has its own. Another implementation
(Flow-Factory) leaves out 1 / |D|: `weigh: false`.

Cost per sample: as Flow-GRPO.
"""

from __future__ import annotations

from typing import Literal

from rewardft.recipe.bounds import Count, CountOrZero, Pair, Positive, Share

from .grpo import GRPO
from .step_ratio import Guard


class GRPOGuard(GRPO):
    """Centred ratios, and steps that weigh alike; on the sampler `flow_sde`.

    Args:
        weigh: divide the loss by the width of the step.
        group_size, std, clip, advantage_clip, updates, inner_epochs, timestep_fraction,
            skip_last: as in `grpo`.
    """

    # A tag of the flow samplers alone: only their steps have a width |D| in noise levels.
    needs = GRPO.needs | {"sde_window"}

    def __init__(
        self,
        group_size: Pair = 24,
        std: Literal["global", "group"] = "group",
        clip: Positive = 2e-6,
        advantage_clip: Positive = 5.0,
        weigh: bool = True,
        updates: Count = 2,
        inner_epochs: Count = 1,
        timestep_fraction: Share = 1.0,
        skip_last: CountOrZero = 1,
    ) -> None:
        super().__init__(
            group_size,
            std=std,
            clip=clip,
            advantage_clip=advantage_clip,
            updates=updates,
            inner_epochs=inner_epochs,
            timestep_fraction=timestep_fraction,
            skip_last=skip_last,
        )
        # In place of the plain ratio, which is not centred.
        self.surrogate = Guard(clip, weigh)
