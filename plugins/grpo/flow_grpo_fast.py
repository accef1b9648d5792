"""Flow-GRPO-Fast: Flow-GRPO (2505.05470) that draws noise and learns in a short window of steps.

Three neighbouring steps, drawn for every batch among the first half of the chain, draw noise; the
others are the ODE. The sampler is `cps`, whose log-probability the released code takes without the
factor 1 / (2 std^2), so that its clip range is that of

    log rho = mean((x' - mean_old)^2) - mean((x' - mean)^2)

Defaults of the released code: window 3 within the first 5 of 10 steps, `cps` at 0.8, no guidance,
clip 1e-5, no KL, the deviation of the whole batch (+ 1e-4), groups of 24 of 48 prompts, lr 3e-4.
There the window is drawn for every call of the sampler, so that one group may mix windows; here a
batch has one. The README of that code forks a group from one ODE prefix; the code no longer does,
and neither does this one.

Denoiser calls per sample: T forwards to roll out, a forward and a backward for each step of the
window.
"""

from __future__ import annotations

from typing import Any, Literal

from rewardft.errors import ComponentError
from rewardft.recipe.bounds import Count, Pair, Positive

from .grpo import GRPO
from .mix_grpo import MixGRPO
from .step_ratio import PlainDistance


class FlowGRPOFast(MixGRPO):
    """Flow-GRPO in a random window near the start.

    Args:
        window: number of steps that draw noise and learn.
        reach: the window lies within the first `reach` steps.
        group_size, std, clip, advantage_clip, updates, inner_epochs: as in `grpo`.
    """

    needs = MixGRPO.needs

    def __init__(
        self,
        window: Count = 3,
        reach: Count = 5,
        group_size: Pair = 24,
        std: Literal["global", "group"] = "global",
        clip: Positive = 1e-5,
        advantage_clip: Positive = 5.0,
        updates: Count = 1,
        inner_epochs: Count = 1,
    ) -> None:
        if window > reach:
            raise ComponentError(f"expected window <= reach, got {window} and {reach}")
        # `reach` bounds the window, so no further steps need freezing.
        super().__init__(window, strategy="random", frozen_last=0)
        self.reach = reach
        # In place of the ratio of densities, whose clip range would be another one.
        self.grpo = PlainDistanceGRPO(
            group_size,
            std=std,
            clip=clip,
            advantage_clip=advantage_clip,
            updates=updates,
            inner_epochs=inner_epochs,
        )


class PlainDistanceGRPO(GRPO):
    """Within the window: the ratio of plain squared distances."""

    def __init__(self, group_size: Pair, *, clip: Positive, **rest: Any) -> None:
        super().__init__(group_size, clip=clip, **rest)
        self.surrogate = PlainDistance(clip)
