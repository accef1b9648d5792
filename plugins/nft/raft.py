"""RAFT (Dong et al. 2023, 2304.06767), best of n: learn from the best of several samples.

    x0* = the sample of a group with the highest reward
    loss = m(x0*),      m = mean (output - target)^2 at x = alpha x0* + sigma epsilon

m is the pre-training loss of the network, at timesteps drawn uniformly from the training range.
Nothing is compared with a reference or an old policy, which makes it the cheapest baseline;
learning from positives alone, it loses diversity. A group without variance teaches nothing and is
left out. Of equally good samples the first is taken.

A released notebook (LMFlow) takes groups of 10, the best 8 samples across 10 prompts, and 10 rounds
of 80 steps on each, through PNG files and the encoder. Here it is the best of each prompt, so that
hard prompts are not dropped, one round per optimizer step, and the latents as they were sampled.
flow_grpo's `sft` gives the best of each group the same weight, as here.

Cost per prompt, T steps, K samples: K T forwards, then 1 forward and backward per noising.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from rewardft_plugins.nft.groups import complete_rewards
from rewardft_plugins.nft.options import Count, Group
from rewardft_plugins.nft.virtual_steps import add_noise, output_error
from torch import Tensor

from rewardft import Context
from rewardft.types import Batch, Loss, Plan, Scores, micro_slices


@dataclass(frozen=True)
class RAFT:
    """Learn from the best of each group.

    Args:
        group_size: samples per prompt, >= 2.
        timesteps: how many noisings the best sample is learned at, per optimizer step.
    """

    group_size: Group = 10
    timesteps: Count = 1

    needs = frozenset({"denoiser"})

    def losses(self, ctx: Context, batch: Batch) -> Iterator[Loss]:
        samples = batch.repeat(self.group_size)
        rollout = ctx.rollout(samples, Plan(stop=ctx.sampler.steps))
        best, weight = self.best(ctx, ctx.score(rollout, samples))
        # Skipped groups count in the divisor, so micro-batches and processes change nothing.
        x0, total = rollout.x0[best], len(batch) * self.timesteps
        parts = [
            (rows, n)
            for rows in micro_slices(len(batch), ctx.micro_batch)
            for n in range(self.timesteps)
        ]
        for rows, n in parts:
            # Under the prompt's id, not the sample's: which sample won does not change the noise.
            at = add_noise(ctx, batch.select(rows), x0[rows], f"raft{n}")
            loss = weight[rows] * output_error(ctx, at)
            ctx.record("loss", loss)
            yield Loss(loss.sum() / total, step=(rows, n) == parts[-1])

    def best(self, ctx: Context, scores: Scores) -> tuple[Tensor, Tensor]:
        """Rows of the best samples `(groups,)`, and their weights: 0 in a group without variance,
        else 1."""
        rewards = complete_rewards(scores, self.group_size)
        known = ~rewards.isnan()
        # NaN can be neither best nor worst; argmax would take it for the best.
        high = rewards.masked_fill(~known, -torch.inf)
        low = rewards.masked_fill(~known, torch.inf)
        weight = (high.amax(1) > low.amin(1)).to(ctx.dtype)
        ctx.record("groups_without_variance", 1 - weight)
        ctx.record("gain/best", torch.where(weight > 0, high.amax(1) - rewards.nanmean(1), 0.0))
        first = torch.arange(len(rewards), device=rewards.device) * self.group_size
        return first + high.argmax(1), weight

    def calls(self, steps: int, _rng: object, _reference: bool) -> tuple[int, int]:
        """(forwards, backwards) per prompt."""
        return self.group_size * steps + self.timesteps, self.timesteps
