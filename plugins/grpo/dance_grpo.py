"""DanceGRPO (Xue et al. 2025, 2505.07818): GRPO on the sampler `dance_sde`.

Defaults of the authors' code for FLUX: groups of 12 that start from the same noise, mean and
unbiased standard deviation (+ 1e-8) of each group, clip 1e-4, advantages clipped to +-5, training
on a random 0.6 of the steps without the last, no KL, 16 steps with eta 0.3 and shift 3, lr 1e-5.

That code draws the trained steps for each sample separately; here one draw serves an update. It
takes an optimizer step for every 4 of the 12 samples (`updates: 3`); here there is one per batch.
"""

from __future__ import annotations

from typing import Literal

from rewardft.recipe.bounds import Count, Pair, Positive, Share

from .grpo import GRPO, Aggregate


def dance_grpo(
    group_size: Pair = 12,
    std: Literal["global", "group"] = "group",
    clip: Positive = 1e-4,
    advantage_clip: Positive = 5.0,
    aggregate: Aggregate = "reward",
    shared_noise: bool = True,
    updates: Count = 1,
    inner_epochs: Count = 1,
    timestep_fraction: Share = 0.6,
    unbiased: bool = True,
    floor: Positive = 1e-8,
) -> GRPO:
    """DanceGRPO: shared initial noise, a random part of the steps;
    goes with the sampler `dance_sde`."""
    # The family is one algorithm: only its defaults differ.
    return GRPO(
        group_size,
        std=std,
        clip=clip,
        advantage_clip=advantage_clip,
        aggregate=aggregate,
        shared_noise=shared_noise,
        updates=updates,
        inner_epochs=inner_epochs,
        timestep_fraction=timestep_fraction,
        unbiased=unbiased,
        floor=floor,
    )


# Tags are read from what is registered, which here is a function.
dance_grpo.needs = GRPO.needs  # type: ignore[attr-defined]
