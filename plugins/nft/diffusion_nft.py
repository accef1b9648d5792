"""DiffusionNFT (Zheng et al. 2025, 2509.16117): learn from good and bad samples by supervised
denoising.

With v the velocity that a sample x0 and a noise give at x_t, r in [0, 1] how good the sample is,
and v_old the policy that drew it, the loss is

    L = E[ r ||v_plus - v||^2 + (1 - r) ||v_minus - v||^2 ]
    v_plus = (1 - beta) v_old + beta v_theta,      v_minus = (1 + beta) v_old - beta v_theta
    r = clip(A / (2 A_max) + 1/2, 0, 1),           A = (reward - mean of the group) / deviation

Its minimum in v_theta at an x_t, for any joint distribution of r and v given x_t, is

    v_theta = v_old + (2/beta) E[(r - 1/2) (v - v_old)]

When v_old is the mean velocity of its own samples, E[v - v_old] = 0 and this is the paper's v_old +
(2/beta) Delta with Delta = E[r] (E[v | good] - v_old). In general the -1/2 stays: a sample of
average goodness pulls nowhere.

As in the released code the residuals are those of the estimate of x0, and each branch is divided by
its own mean |x0_hat - x0| without gradient (`adaptive`); the sum is scaled by A_max / beta. x0_hat
is affine in the network's output for every prediction type, so x0_plus = (1 - beta) x0_old + beta
x0_theta is the same interpolation for epsilon, v, flow and sample models. With `adaptive: false`
the residual is that of the velocity, (x0_hat - x0) / sigma_t, which is the flow's velocity error
and, for variance-preserving models, the error of v = alpha epsilon - sigma x0.

`reference_weight` times mean (v_theta - v_ref)^2 is added, v_ref the adapter switched off (its
squared distance in the same velocity). v_old is a copy of the adapter's tensors in
`Context.memory`; before each optimizer step it becomes decay * v_old + (1 - decay) * theta, decay
by `schedule`:

    slow   min(0.001 step, 0.5)                     (type 1 of the released code)
    fast   clip(0.0075 (step - 75), 0, 0.999)       (type 2)

The loss takes the network without guidance, as a prediction of the velocity; a model that samples
with guidance gives samples that are not its own in that sense, and the method was run without any.

Defaults: beta 1 (0.1 for OCR and several rewards), A_max 5, reference_weight 1e-4, groups of 24, no
classifier-free guidance, learning rate 3e-4. The deviation is that of the rewards themselves, not
of their distances from the group means: over the whole batch and all processes (`std: global`, the
released configurations) or over each group (`std: group`), divided by n, plus 1e-4. The adaptive
divisor is at least 1e-5, as released.

Unlike the released code, each sample is noised to timesteps drawn uniformly from the training
range; that code goes through the timesteps of its own 10-step rollout without the last.

Any sampler will do and only clean samples are kept. Cost per sample, T steps: T forwards, then per
noising 1 forward and backward, 1 forward of v_old, and 1 of the reference if it has a weight.
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
    check_signal,
    estimate,
    mean_square,
)
from rewardft_plugins.nft.weight_sets import Schedule, followed, nft_decay
from torch import Tensor

from rewardft import Context
from rewardft.algorithms.advantages import moments
from rewardft.policy.snapshots import Snapshot, swapped_in
from rewardft.types import Batch, Loss, Plan, Scores, micro_slices


@dataclass(frozen=True)
class DiffusionNFT:
    """Learn from the good and the bad samples of groups.

    Args:
        group_size: samples per prompt, >= 2.
        beta: step from v_old to v_plus, > 0; smaller steps further.
        advantage_clip: A_max; advantages are clipped to [-A_max, A_max].
        timesteps: how many noisings each sample is learned at, per optimizer step.
        adaptive: divide each branch by its own mean error of x0; else plain velocity errors.
        reference_weight: of the squared distance to the reference's velocity, >= 0.
        schedule: how slowly v_old follows the policy.
        std: the deviation of all rewards of the batch (`global`) or of each group (`group`).
    """

    group_size: Group = 24
    beta: Positive = 1.0
    advantage_clip: Positive = 5.0
    timesteps: Count = 1
    adaptive: bool = True
    reference_weight: Weight = 1e-4
    schedule: Schedule = "slow"
    std: Deviation = "global"

    needs = frozenset({"denoiser"})
    needs_reference = True

    def losses(self, ctx: Context, batch: Batch) -> Iterator[Loss]:
        check_signal(ctx.policy.scheduler, "diffusion_nft")
        old, samples = self.old_policy(ctx), batch.repeat(self.group_size)
        # Algorithm 1: samples come from v_old, not from the policy that learns.
        with swapped_in(ctx.adapter, old):
            rollout = ctx.rollout(samples, Plan(stop=ctx.sampler.steps))
        goodness = self.goodness(ctx, ctx.score(rollout, samples))
        total = len(samples) * self.timesteps
        parts = [
            (rows, n)
            for rows in micro_slices(len(samples), ctx.micro_batch)
            for n in range(self.timesteps)
        ]
        for rows, n in parts:
            at = add_noise(ctx, samples.select(rows), rollout.x0[rows], f"nft{n}")
            loss = self.loss(ctx, at, goodness[rows], old)
            yield Loss(loss.sum() / total, step=(rows, n) == parts[-1])

    # -- the policy that samples -------------------------------------------------------------------

    def old_policy(self, ctx: Context) -> Snapshot:
        """v_old's tensors, moved towards the policy once per optimizer step."""
        return followed(ctx, "nft/old", nft_decay(self.schedule, ctx.step))

    # -- how good a sample is ----------------------------------------------------------------------

    def goodness(self, ctx: Context, scores: Scores) -> Tensor:
        """r `(b,)` in [0, 1]; 1/2 for a sample that is as good as its group's mean."""
        rewards = complete_rewards(scores, self.group_size)
        # nanmean: a sample without a reward takes no part, and gets r = 1/2 below.
        centred = rewards - rewards.nanmean(1, keepdim=True)
        std = self.deviation(ctx, rewards)
        advantage = (centred / (std + 1e-4)).nan_to_num(0.0).flatten()
        ctx.record("zero_variance", (centred == 0).all(1).float())
        ctx.record("advantage_clipped", (advantage.abs() > self.advantage_clip).float())
        return (advantage / (2 * self.advantage_clip) + 0.5).clamp(0, 1)

    def deviation(self, ctx: Context, rewards: Tensor) -> Tensor:
        """The biased standard deviation of the known rewards: one number, or `(groups, 1)`."""
        if self.std == "group":
            centred = rewards - rewards.nanmean(1, keepdim=True)
            return centred.square().nanmean(1, keepdim=True).sqrt()
        # The deviation of all processes' rewards, as if they were one batch; NaN if none is known.
        return moments(ctx.gather(rewards.flatten())[None])[1].squeeze()

    # -- the loss ----------------------------------------------------------------------------------

    def loss(self, ctx: Context, at: Noised, r: Tensor, old: Snapshot) -> Tensor:
        """`(b,)`."""
        with swapped_in(ctx.adapter, old):
            x0_old = estimate(ctx, at)
        reference = self.reference_estimate(ctx, at)
        # Estimates (b, ...) of the same state under three sets of weights; only this one has a
        # graph.
        x0 = estimate(ctx, at)
        # v_plus and v_minus as estimates of x0, in which they are the same interpolation.
        plus, minus = (x0_old + sign * self.beta * (x0 - x0_old) for sign in (1, -1))
        loss = r * self.branch(plus, at) + (1 - r) * self.branch(minus, at)
        # Takes out what beta and A_max do to the gradient's size, as released.
        loss = loss * self.advantage_clip / self.beta
        ctx.record("loss", loss)
        ctx.record("distance/old", mean_square((x0 - x0_old) / at.sigma))
        if reference is None:
            return loss
        distance = mean_square((x0 - reference) / at.sigma)
        ctx.record("distance/reference", distance)
        return loss + self.reference_weight * distance

    def branch(self, x0_hat: Tensor, at: Noised) -> Tensor:
        """Error of v_plus or v_minus, `(b,)`."""
        residual = x0_hat - at.x0
        if not self.adaptive:
            # The velocity's error. sigma > 0 at every training timestep.
            return mean_square(residual / at.sigma)
        # A constant scale: its own gradient would undo a part of the error's.
        scale = residual.detach().abs().flatten(1).mean(1).clamp(min=1e-5)
        return mean_square(residual) / scale

    def reference_estimate(self, ctx: Context, at: Noised) -> Tensor | None:
        if self.reference_weight == 0:
            return None
        with torch.no_grad(), ctx.adapter.disabled():
            return estimate(ctx, at)
