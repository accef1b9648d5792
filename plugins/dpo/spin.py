"""SPIN-Diffusion (Yuan et al. 2024, 2402.10210): self-play against the previous policy.

The winner is an image of the data set, the loser a sample of theta_k, the policy of the previous
iteration, on the same condition; theta_k is also the reference. Both go through the Diffusion-DPO
loss (`diffusion_dpo.py`):

    inside = -beta / 2 * [ (l_data - l_sample) of theta - (l_data - l_sample) of theta_k ]
    loss   = -log sigmoid(inside)

After `iteration` optimizer steps theta_k becomes the policy. The first theta_k is the policy at the
start, so the loss is log 2 at the first step of every iteration. The released checkpoints took 500
steps per iteration, three iterations, learning rate 2e-5, 200 steps of warm-up, total batch 2048.
Needs no reward.

The exact form of the loss has not been checked against the released code. The paper's loser follows
the generated trajectory; here it is noised by the forward process with the winner's timestep and
noise, like a DPO pair.

theta_k is a copy of the adapter's tensors in `Context.memory`, so it survives a checkpoint to the
same bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rewardft_plugins.dpo.diffusion_dpo import check_beta, preference_loss
from rewardft_plugins.dpo.noised import (
    Space,
    Visits,
    add_noise,
    clean_samples,
    interleave,
    pair_slices,
    squared_error,
    twice,
)

from rewardft import Context
from rewardft.errors import ComponentError
from rewardft.policy.snapshots import blend, swapped_in, take_snapshot
from rewardft.recipe.bounds import Count, Positive
from rewardft.types import Batch, Loss, Plan


@dataclass(frozen=True)
class Spin:
    """Prefer the data set's images to the samples of the previous iteration's policy.

    Args:
        iteration: optimizer steps per iteration.
        beta: as in `diffusion_dpo`.
        space: as in `diffusion_dpo`.
        column: the column with the data set's images, which the model's `clean(batch)` reads.
    """

    iteration: Count = 500
    beta: Positive = 5000.0
    space: Space = "epsilon"
    column: str = "image"

    needs = frozenset({"denoiser", "training_targets"})

    def __post_init__(self) -> None:
        check_beta(self.beta)
        if self.iteration < 1:
            raise ComponentError(f"iteration must be at least 1 step, got {self.iteration}")

    def losses(self, ctx: Context, batch: Batch) -> Iterator[Loss]:
        opponent = self.opponent(ctx)
        # theta_k draws the losers, so they change only with the iteration.
        with swapped_in(ctx.adapter, opponent):
            # On the same conditions as the data, or the pair would compare two prompts.
            sample = ctx.rollout(batch, Plan(stop=ctx.sampler.steps)).x0
        data = clean_samples(ctx, batch, self.column, self.column)
        parts = list(pair_slices(ctx, len(batch)))
        for rows in parts:
            pairs = interleave(data[rows], sample[rows])
            at = add_noise(ctx, twice(batch.select(rows)), pairs, "spin", Visits(self.space))
            # theta_k is the reference as well, in place of the base model.
            with swapped_in(ctx.adapter, opponent):
                reference = squared_error(ctx, at)
            loss = preference_loss(ctx, at, self.beta, reference=reference)
            yield Loss(loss.sum() / len(batch), step=rows == parts[-1])

    def opponent(self, ctx: Context) -> dict[str, Any]:
        """theta_k's tensors; replaced by the policy's at the first batch of each iteration."""
        memory, number = ctx.memory, ctx.step // self.iteration
        if "spin/opponent" not in memory:
            memory["spin/opponent"], memory["spin/iteration"] = take_snapshot(ctx.adapter), number
        # By number and not on the boundary itself: with `accumulate` several batches share a step.
        if memory["spin/iteration"] != number:
            # decay 0: theta_k becomes the policy at once.
            blend(memory["spin/opponent"], ctx.adapter, decay=0.0)
            memory["spin/iteration"] = number
        opponent: dict[str, Any] = memory["spin/opponent"]
        return opponent
