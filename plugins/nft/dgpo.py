"""DGPO, direct group preference optimization (Luo et al. 2025, 2510.08425): good against bad.

With m the pre-training loss of a sample at a timestep and a noise, which a group shares:

    S    = b_d mean over the group of A_i (m_i - m_i^ref)
    w    = sg sigmoid(S)
    loss = mean of w A_i m_i + b mean (v - v_ref)^2

The gradient of w A m is, up to b_d, that of -log sigmoid(-S): Diffusion-DPO between the good and
the bad part of a group, each sample by its advantage. It needs sum A = 0 within a group. As in
PPO, a sample that has moved far enough is let go: with rho = exp(m_old - m), m is a constant where
A > 0 and rho > 1 + c, or A < 0 and rho < 1 - c. old is an average of the policy with decay
min(0.001 step, 0.3), which also draws the samples after the first 200 steps.

Defaults of the released configuration: groups of 24, 10 noise-free steps with guidance for samples
and none for m, 4 timesteps among the 7 noisiest, b_d 100 (10 for PickScore), b 0.02, c 0.05, the
deviation of the whole batch, lr 3e-4; its README says b 1e-3 and c 1e-3. There all groups share
their timesteps; here each draws its own from a part of the training range, t_range, one from each
of as many equal parts. Noise is drawn anew for each timestep, as in the code and unlike
Flow-Factory.

A first pass without autograd measures m of whole groups; the second one learns, a micro-batch at a
time. Cost per sample, T steps: T forwards, then per noising 3 forwards without autograd (policy,
ref, old) and 1 forward and backward, and 1 forward of ref again if b is not 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from rewardft_plugins.nft.groups import complete_rewards
from rewardft_plugins.nft.options import (
    Count,
    CountOrZero,
    Deviation,
    Group,
    Positive,
    Weight,
)
from rewardft_plugins.nft.virtual_steps import (
    Noised,
    add_noise,
    check_reach,
    mean_square,
    output_of,
    sharing,
    stratum,
    target_of,
)
from rewardft_plugins.nft.weight_sets import followed
from torch import Tensor

from rewardft import Context
from rewardft.algorithms.advantages import group_advantages
from rewardft.policy.snapshots import Snapshot, swapped_in
from rewardft.types import Batch, Loss, Plan, Rollout, micro_slices


@dataclass(frozen=True)
class DGPO:
    """Preferences between the good and the bad samples of a group.

    Args:
        group_size: samples per prompt, >= 2.
        timesteps: how many noisings each group is learned at, one from each part of `t_range`.
        t_range: part of the training range, from 0 (no noise) to 1.
        beta: b_d, > 0: the larger, the sooner a group that is well separated stops learning.
        clip: c, > 0.
        reference_weight: b, >= 0.
        advantage_clip: advantages are clipped to this and centred again.
        old_samples_after: optimizer steps after which old draws the samples; null: never.
        std: the deviation of all rewards of the batch (`global`) or of each group (`group`).
    """

    group_size: Group = 24
    timesteps: Count = 4
    t_range: tuple[float, float] = (0.3, 1.0)
    beta: Positive = 100.0
    clip: Positive = 0.05
    reference_weight: Weight = 0.02
    advantage_clip: Positive = 5.0
    old_samples_after: CountOrZero | None = 200
    std: Deviation = "global"

    needs = frozenset({"denoiser"})
    needs_reference = True

    def __post_init__(self) -> None:
        check_reach(self.t_range)

    def losses(self, ctx: Context, batch: Batch) -> Iterator[Loss]:
        old = followed(ctx, "dgpo/old", min(0.001 * ctx.step, 0.3))
        samples = batch.repeat(self.group_size)
        rollout = self.roll_out(ctx, samples, old)
        rewards = complete_rewards(ctx.score(rollout, samples), self.group_size)
        advantage = self.advantages(ctx, rewards)
        # A group shares timestep and noise: its losses are compared with each other.
        shared, total = sharing(samples, self.group_size), len(samples) * self.timesteps
        slices = list(micro_slices(len(samples), ctx.micro_batch))
        for n in range(self.timesteps):
            # w needs m of the whole group, which a micro-batch may cut, hence two passes.
            weight, free = self.first_pass(ctx, shared, rollout.x0, advantage, old, n)
            for rows in slices:
                at = self.noised(ctx, shared.select(rows), rollout.x0[rows], n)
                loss = self.loss(ctx, at, weight[rows] * advantage[rows], free[rows])
                closes = n == self.timesteps - 1 and rows == slices[-1]
                yield Loss(loss.sum() / total, step=closes)

    def roll_out(self, ctx: Context, samples: Batch, old: Snapshot) -> Rollout:
        plan, after = Plan(stop=ctx.sampler.steps), self.old_samples_after
        if after is None or ctx.step < after:
            return ctx.rollout(samples, plan)
        with swapped_in(ctx.adapter, old):
            return ctx.rollout(samples, plan)

    def advantages(self, ctx: Context, rewards: Tensor) -> Tensor:
        """A `(b,)`, with sum 0 in each group; 0 for samples that take no part."""
        advantage, kept = group_advantages(ctx, rewards.flatten(), self.group_size, self.std)
        advantage = advantage.clamp(-self.advantage_clip, self.advantage_clip)
        groups, part = advantage.view(-1, self.group_size), kept.view(-1, self.group_size)
        # Clipping may shift the sum; with sum A = 0 what all members share cancels in S.
        mean = groups.sum(1, keepdim=True) / part.sum(1, keepdim=True).clamp(min=1)
        return torch.where(part, groups - mean, 0.0).flatten()

    def noised(self, ctx: Context, shared: Batch, x0: Tensor, n: int) -> Noised:
        return add_noise(ctx, shared, x0, f"dgpo{n}", stratum(self.t_range, n, self.timesteps))

    @torch.no_grad()
    def first_pass(
        self, ctx: Context, shared: Batch, x0: Tensor, advantage: Tensor, old: Snapshot, n: int
    ) -> tuple[Tensor, Tensor]:
        """w of each sample's group `(b,)`, and whether the sample has not moved too far `(b,)`."""
        m, before, reference = (torch.zeros_like(advantage) for _ in range(3))
        for rows in micro_slices(len(shared), ctx.micro_batch):
            at = self.noised(ctx, shared.select(rows), x0[rows], n)
            target = target_of(ctx, at)
            m[rows] = mean_square(output_of(ctx, at) - target)
            with swapped_in(ctx.adapter, old):
                before[rows] = mean_square(output_of(ctx, at) - target)
            with ctx.adapter.disabled():
                reference[rows] = mean_square(output_of(ctx, at) - target)
        # S, (groups,): negative once the good are denoised better than by the reference, the bad
        # worse.
        margin = self.beta * (advantage * (m - reference)).view(-1, self.group_size).mean(1)
        ratio = (before - m).exp()
        # rho > 1 + c: a good sample is already denoised that much better than by old.
        good, bad = advantage > 0, advantage < 0
        moved = (good & (ratio > 1 + self.clip)) | (bad & (ratio < 1 - self.clip))
        ctx.record("margin", margin)
        ctx.record("clipped", moved.float())
        return torch.sigmoid(margin).repeat_interleave(self.group_size), ~moved

    def loss(self, ctx: Context, at: Noised, weight: Tensor, free: Tensor) -> Tensor:
        """`(b,)`. weight: w A. free: whether m has a gradient."""
        output = output_of(ctx, at)
        m = mean_square(output - target_of(ctx, at))
        # A constant in place of m: the loss keeps its value, the sample gives no gradient.
        loss = weight * torch.where(free, m, m.detach())
        ctx.record("loss", loss)
        if self.reference_weight == 0:
            return loss
        with torch.no_grad(), ctx.adapter.disabled():
            distance_to = output_of(ctx, at)
        distance = mean_square(output - distance_to)
        ctx.record("distance/reference", distance)
        return loss + self.reference_weight * distance

    def calls(self, steps: int, _rng: object, _reference: bool) -> tuple[int, int]:
        """(forwards, backwards) per prompt."""
        each = 4 + (self.reference_weight > 0)
        return self.group_size * (steps + each * self.timesteps), self.group_size * self.timesteps
