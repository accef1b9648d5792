"""CRD, centred reward distillation (2603.14128): regress on the reward, centred within the group.

The policy's own reward for a sample is how much better than old it denoises it, with e = v - v*, v*
the output of a network that knew the sample, and each error divided by its own size:

    r    = -(mean e_theta^2 / sg mean |e_theta| - mean e_old^2 / mean |e_old|)
    R    = clip(A, -5, 5) / 10 + 1/2
    loss = (5 / b) (b (r - sg r_mean) - (R - R_mean))^2
           + b_kl (q + R (1 - q)) mean (v - v_ref)^2,        q = 1e-4 / b_kl

r_mean and R_mean are those of the group. v_ref is the reference with its guidance (4.5 released).
Two copies follow the policy, s <- d s + (1 - d) theta before each step: old with d =
min(0.25 + 0.005 step, 0.999), and the one that draws the samples with d = clip(0.0075 (step - 75),
0, 0.999).

The paper's abstract and Flow-Factory's code (crd.py) were read; no official code was. Defaults of
the latter: b 1, b_kl 0.1, 10 noise-free steps without guidance, 20 timesteps, groups of 24 of 48
prompts, 2 updates, lr 3e-4, LoRA rank 32. There the centring runs over a micro-batch gathered from
all processes, which need not be one group; here it is the group's. Its softmax-weighted centring is
left out, as its pool of negatives is always empty. One update per batch here.

A first pass without autograd gives r of whole groups. Cost per sample, T steps: T forwards, then
per noising 2 forwards without autograd (policy, old), 1 forward and backward, and 1 of ref if b_kl
is not 0 (twice as large if it is guided).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from rewardft_plugins.nft.groups import complete_rewards
from rewardft_plugins.nft.options import Count, Deviation, Group, Positive, Weight
from rewardft_plugins.nft.virtual_steps import (
    Noised,
    add_noise,
    mean_square,
    output_of,
    relative_error,
    target_of,
)
from rewardft_plugins.nft.weight_sets import followed
from torch import Tensor

from rewardft import Context
from rewardft.algorithms.advantages import group_advantages
from rewardft.errors import ComponentError
from rewardft.policy.snapshots import Snapshot, swapped_in
from rewardft.types import Batch, Loss, Plan, micro_slices

LEAST_PULL = 1e-4  # b_kl q


@dataclass(frozen=True)
class CRD:
    """Regress the policy's own reward on the given one, within groups.

    Args:
        group_size: samples per prompt, >= 2.
        beta: b, > 0: the policy's own reward is fitted to R / b, so a smaller b steps further.
        timesteps: how many noisings each sample is learned at, per optimizer step.
        kl_weight: b_kl, 0 or at least 1e-4.
        reference_guided: v_ref is the reference with the model's guidance; else without.
        advantage_clip: advantages are clipped to this.
        std: the deviation of all rewards of the batch (`global`) or of each group (`group`).
    """

    group_size: Group = 24
    beta: Positive = 1.0
    timesteps: Count = 4
    kl_weight: Weight = 0.1
    reference_guided: bool = True
    advantage_clip: Positive = 5.0
    std: Deviation = "global"

    needs = frozenset({"denoiser"})
    needs_reference = True

    def __post_init__(self) -> None:
        if self.kl_weight != 0 and self.kl_weight < LEAST_PULL:
            raise ComponentError(
                f"expected kl_weight 0 or at least {LEAST_PULL}, got {self.kl_weight}"
            )

    def losses(self, ctx: Context, batch: Batch) -> Iterator[Loss]:
        old = followed(ctx, "crd/old", min(0.25 + 0.005 * ctx.step, 0.999))
        sampler = followed(ctx, "crd/sampler", min(max(0.0075 * (ctx.step - 75), 0.0), 0.999))
        samples = batch.repeat(self.group_size)
        with swapped_in(ctx.adapter, sampler):
            rollout = ctx.rollout(samples, Plan(stop=ctx.sampler.steps))
        # (groups, group).
        rewards = complete_rewards(ctx.score(rollout, samples), self.group_size)
        goal, kept = self.goals(ctx, rewards)
        total = len(samples) * self.timesteps
        slices = list(micro_slices(len(samples), ctx.micro_batch))
        for n in range(self.timesteps):
            # Centring needs r of the whole group, which a micro-batch may cut, hence two passes.
            wanted = self.first_pass(ctx, samples, rollout.x0, goal, kept, old, n)
            # The same stream as in the first pass: the same timesteps and noise.
            for rows in slices:
                at = add_noise(ctx, samples.select(rows), rollout.x0[rows], f"crd{n}")
                loss = self.loss(ctx, at, goal[rows], wanted[rows], kept[rows])
                closes = n == self.timesteps - 1 and rows == slices[-1]
                yield Loss(loss.sum() / total, step=closes)

    def goals(self, ctx: Context, rewards: Tensor) -> tuple[Tensor, Tensor]:
        """R `(b,)` in [0, 1], and which samples take part."""
        advantage, kept = group_advantages(ctx, rewards.flatten(), self.group_size, self.std)
        limit = self.advantage_clip
        return advantage.clamp(-limit, limit) / (2 * limit) + 0.5, kept

    @torch.no_grad()
    def first_pass(
        self,
        ctx: Context,
        samples: Batch,
        x0: Tensor,
        goal: Tensor,
        kept: Tensor,
        old: Snapshot,
        n: int,
    ) -> Tensor:
        """The policy's error of each sample at which its loss is 0, `(b,)`."""
        # before: old's relative error. own: r without its group mean. (b,) each.
        before, own = torch.zeros(2, len(samples), dtype=x0.dtype, device=x0.device)
        for rows in micro_slices(len(samples), ctx.micro_batch):
            at = add_noise(ctx, samples.select(rows), x0[rows], f"crd{n}")
            target = target_of(ctx, at)
            with swapped_in(ctx.adapter, old):
                before[rows] = relative_error(output_of(ctx, at) - target)
            own[rows] = before[rows] - relative_error(output_of(ctx, at) - target)
        # Solves b (r - r_mean) = R - R_mean for the policy's error, with r = before - error.
        pull = (goal - self.group_mean(goal, kept)) / self.beta
        return before - self.group_mean(own, kept) - pull

    def group_mean(self, values: Tensor, kept: Tensor) -> Tensor:
        """`(b,)`: the mean of each sample's group over the samples that take part."""
        # clamp(1): a group of which nobody takes part has mean 0, and no loss.
        part = kept.view(-1, self.group_size)
        total = torch.where(part, values.view(-1, self.group_size), 0.0).sum(1)
        return (total / part.sum(1).clamp(min=1)).repeat_interleave(self.group_size)

    def loss(self, ctx: Context, at: Noised, goal: Tensor, wanted: Tensor, kept: Tensor) -> Tensor:
        """`(b,)`. With e the policy's error, b (r - r_mean) - (R - R_mean) = b (wanted - e)."""
        output = output_of(ctx, at)
        gap = wanted - relative_error(output - target_of(ctx, at))
        loss = torch.where(kept, 5 * self.beta * gap.square(), 0.0)
        ctx.record("loss", loss)
        if self.kl_weight == 0:
            return loss
        with torch.no_grad(), ctx.adapter.disabled():
            reference = output_of(ctx, at, guided=self.reference_guided)
        # The weight runs from q for R = 0 to 1 for R = 1: good samples are held closest.
        distance, least = mean_square(output - reference), LEAST_PULL / self.kl_weight
        ctx.record("distance/reference", distance)
        return loss + self.kl_weight * (least + goal * (1 - least)) * distance

    def calls(self, steps: int, _rng: object, _reference: bool) -> tuple[int, int]:
        """(forwards, backwards) per prompt."""
        # The policy twice and old once for each noising, and the reference where it has a weight.
        each = 3 + (self.kl_weight > 0)
        return self.group_size * (steps + each * self.timesteps), self.group_size * self.timesteps
