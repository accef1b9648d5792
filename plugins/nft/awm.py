"""AWM, advantage weighted matching (Xue et al. 2025, 2509.25050): a ratio on the forward process.

With m the pre-training loss of a sample x0 at a timestep and a noise, the log-likelihood of a
policy gradient becomes

    l    = -((m + d)^p - d^p) sigma / p,       d = 1e-10, p = 1/4
    rho  = exp(l_theta - sg l_old)
    loss = max(-A rho, -A clip(rho, 1 - c, 1 + c)) + b mean (v - v_ref)^2 + b_e mean (v - v_ema)^2

on A = clip((r - mean of the group) / (std + 1e-4), -5, 5) / 5, as the released code scales it
(Flow-Factory clips to [-1, 1] and does not divide). theta, old, ref and ema see the same timestep
and noise. While a batch feeds one update, rho is 1 and the gradient is -A grad l. A negative A
raises m without bound; v_ema is the brake, the policy's average with decay min(0.001 step, 0.3).

Defaults of the released code: 14 steps without guidance, groups of 24, the deviation of the whole
batch, 6 stratified timesteps from the first 90 % of its schedule without the noisiest, c 1 (which
never clips), b 1e-3 (3e-3 for OCR), b_e 1, lr 3e-4. Here the strata lie in a part of the training
range, t_range. l_old is taken where a batch feeds several updates, each from whole groups.

Cost per sample, T steps: T forwards, then per noising 1 forward and backward, and 1 forward each
for ref and ema, if they have weights, and for old, if there are several updates.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from rewardft_plugins.nft.groups import complete_rewards, group_slices
from rewardft_plugins.nft.options import Count, Deviation, Group, Positive, Weight
from rewardft_plugins.nft.virtual_steps import (
    Noised,
    add_noise,
    check_reach,
    mean_square,
    output_of,
    stratum,
    target_of,
)
from rewardft_plugins.nft.weight_sets import followed
from torch import Tensor

from rewardft import Context
from rewardft.algorithms.advantages import group_advantages
from rewardft.algorithms.surrogates import clipped_ratio_loss
from rewardft.policy.snapshots import Snapshot, swapped_in
from rewardft.types import Batch, Loss, Plan, Scores, micro_slices

FLOOR = 1e-10  # d


@dataclass(frozen=True)
class AWM:
    """Policy gradients with the pre-training loss in the place of a log-likelihood.

    Args:
        group_size: samples per prompt, >= 2.
        timesteps: how many noisings each sample is learned at, one from each part of `t_range`.
        t_range: part of the training range, from 0 (no noise) to 1.
        power: p, > 0.
        clip: c, the half-width of the clip range of the ratio.
        advantage_clip: advantages are clipped to this and divided by it.
        reference_weight, average_weight: b and b_e, >= 0.
        updates: optimizer steps per batch, each from other groups.
        std: the deviation of all rewards of the batch (`global`) or of each group (`group`).
    """

    group_size: Group = 24
    timesteps: Count = 6
    t_range: tuple[float, float] = (0.1, 0.95)
    power: Positive = 0.25
    clip: Positive = 1.0
    advantage_clip: Positive = 5.0
    reference_weight: Weight = 1e-3
    average_weight: Weight = 1.0
    updates: Count = 1
    std: Deviation = "global"

    needs = frozenset({"denoiser"})
    needs_reference = True

    def __post_init__(self) -> None:
        check_reach(self.t_range)

    def losses(self, ctx: Context, batch: Batch) -> Iterator[Loss]:
        average = followed(ctx, "awm/average", min(0.001 * ctx.step, 0.3))
        samples = batch.repeat(self.group_size)
        rollout = ctx.rollout(samples, Plan(stop=ctx.sampler.steps))
        advantage = self.advantages(ctx, ctx.score(rollout, samples))
        # Whole groups: an advantage means something only beside the rest of its group.
        updates = list(group_slices(len(batch), self.group_size, self.updates))
        # Before the first update, while the weights are still those that drew the samples.
        old = self.old_likelihoods(ctx, samples, rollout.x0)
        for update in updates:
            parts = [
                (slice(update.start + r.start, update.start + r.stop), n)
                for r in micro_slices(update.stop - update.start, ctx.micro_batch)
                for n in range(self.timesteps)
            ]
            for rows, n in parts:
                at = self.noised(ctx, samples.select(rows), rollout.x0[rows], n)
                before = None if old is None else old[rows, n]
                loss = self.loss(ctx, at, advantage[rows], average, before)
                count = (update.stop - update.start) * self.timesteps
                yield Loss(loss.sum() / count, step=(rows, n) == parts[-1])

    def noised(self, ctx: Context, samples: Batch, x0: Tensor, n: int) -> Noised:
        return add_noise(ctx, samples, x0, f"awm{n}", stratum(self.t_range, n, self.timesteps))

    def advantages(self, ctx: Context, scores: Scores) -> Tensor:
        """A `(b,)` in [-1, 1]."""
        rewards = complete_rewards(scores, self.group_size).flatten()
        advantage, _ = group_advantages(ctx, rewards, self.group_size, self.std)
        limit = self.advantage_clip
        # Divided by the limit, as released: b and b_e are sized for advantages within [-1, 1].
        return advantage.clamp(-limit, limit) / limit

    @torch.no_grad()
    def old_likelihoods(self, ctx: Context, samples: Batch, x0: Tensor) -> Tensor | None:
        """l_old `(b, timesteps)`; None where a batch feeds one update."""
        if self.updates == 1:
            return None
        # (b, timesteps), of the weights that drew the samples.
        found = torch.empty(len(samples), self.timesteps, dtype=x0.dtype, device=x0.device)
        for rows in micro_slices(len(samples), ctx.micro_batch):
            for n in range(self.timesteps):
                # The same stream as later in the loss: l_old is of the same timestep and noise.
                at = self.noised(ctx, samples.select(rows), x0[rows], n)
                found[rows, n] = self.likelihood(output_of(ctx, at) - target_of(ctx, at), at)
        return found

    def likelihood(self, residual: Tensor, at: Noised) -> Tensor:
        """l `(b,)`."""
        # d keeps the slope of m^p finite at m = 0; subtracting d^p makes l 0 there.
        m, p = mean_square(residual), self.power
        return -((m + FLOOR) ** p - FLOOR**p) * at.sigma.flatten() / p

    def loss(
        self, ctx: Context, at: Noised, advantage: Tensor, average: Snapshot, old: Tensor | None
    ) -> Tensor:
        """`(b,)`."""
        output = output_of(ctx, at)
        new = self.likelihood(output - target_of(ctx, at), at)
        # One update per batch: the policy is old itself, rho is 1 and passes the gradient on.
        old = new.detach() if old is None else old
        loss = clipped_ratio_loss(new, old, advantage, self.clip)
        ctx.record("ratio", (new - old).exp())
        if self.reference_weight:
            with torch.no_grad(), ctx.adapter.disabled():
                reference = output_of(ctx, at)
            distance = mean_square(output - reference)
            ctx.record("distance/reference", distance)
            loss = loss + self.reference_weight * distance
        # Negative advantages raise m without bound; the distance to the average holds them.
        if self.average_weight:
            with swapped_in(ctx.adapter, average):
                followed_output = output_of(ctx, at)
            distance = mean_square(output - followed_output)
            ctx.record("distance/average", distance)
            loss = loss + self.average_weight * distance
        ctx.record("loss", loss)
        return loss

    def calls(self, steps: int, _rng: object, _reference: bool) -> tuple[int, int]:
        """(forwards, backwards) per prompt."""
        others = bool(self.reference_weight) + bool(self.average_weight) + (self.updates > 1)
        return (
            self.group_size * (steps + self.timesteps * (1 + others)),
            self.group_size * self.timesteps,
        )
