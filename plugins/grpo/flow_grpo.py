"""Flow-GRPO (Liu et al. 2025, 2505.05470): GRPO on the sampler `flow_sde`.

Defaults of the authors' code: groups of 24, group mean, biased standard deviation of the whole
batch (+ 1e-4), clip 1e-4 on log-probabilities averaged over dimensions, advantages clipped to +-5,
2 updates per batch, 10 steps in training and 40 in evaluation, noise level 0.7, guidance 4.5, LoRA
rank 32 and alpha 64, lr 3e-4. It trains the first int(0.99 T) steps, which is all but the last for
T <= 100 (`skip_last`), and takes an optimizer step for each of them; here an update takes all steps
at once.

The KL weight beta there (0.04 for GenEval and OCR, 0.01 for PickScore) goes with mean((mean -
mean_ref)^2) / (2 g^2). `{use: kl, form: gaussian}` divides by 2 g^2 |D|, the variance of a step of
width D, which makes it the divergence of the densities. For the same strength set `weight: beta *
|D|`; for 10 equal steps that is a tenth of beta.
"""

from __future__ import annotations

from typing import Literal

from rewardft.recipe.bounds import Count, CountOrZero, Pair, Positive, Share

from .grpo import GRPO, Aggregate


def flow_grpo(
    group_size: Pair = 24,
    std: Literal["global", "group"] = "global",
    clip: Positive = 1e-4,
    advantage_clip: Positive = 5.0,
    aggregate: Aggregate = "reward",
    updates: Count = 2,
    inner_epochs: Count = 1,
    timestep_fraction: Share = 1.0,
    skip_last: CountOrZero = 1,
) -> GRPO:
    """Flow-GRPO: batch-wide standard deviation, two updates per batch;
    goes with the sampler `flow_sde`."""
    # The family is one algorithm: only its defaults differ.
    return GRPO(
        group_size,
        std=std,
        clip=clip,
        advantage_clip=advantage_clip,
        aggregate=aggregate,
        updates=updates,
        inner_epochs=inner_epochs,
        timestep_fraction=timestep_fraction,
        skip_last=skip_last,
    )


# Tags are read from what is registered, which here is a function.
flow_grpo.needs = GRPO.needs  # type: ignore[attr-defined]
