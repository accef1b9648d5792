"""DiffusionOPSD (2608.24646): reward gradients on the estimate of x0, as targets of an NFT loss.

At the state z of the rollout whose noise level is nearest sigma*, v_old estimates the sample as y0.
From there n steps go up the reward and n go down, all by its normalised gradient g / |g|:

    y <- y +- rho |y0| / n * g / |g|,  then back into the ball of radius rho |y0| around y0

which gives y_up and y_down. With y_theta the policy's estimate at z and R in [0, 1] how good the
finished sample is, the policy is trained as in DiffusionNFT, with these targets:

    y_plus = (1 - b) y0 + b y_theta,      y_minus = (1 + b) y0 - b y_theta
    R      = clip(A, -5, 5) / 10 + 1/2
    loss   = 5 (R mean (y_plus - y_up)^2 / c_up + (1 - R) mean (y_minus - y_down)^2 / c_down)

c is the mean |y_plus - y_up|, or |y_minus - y_down|, of the sample without gradient, 1e-5 at least.
Both branches pull y_theta towards y_up - y0, so a group without variance teaches too.

Defaults of the released code for Stable Diffusion 3.5 medium: sigma* 0.278 (0.273 for Z-Image),
rho 0.1, n 2, b 1 (0.1 for mixed rewards), groups of 24 of 48 prompts, 10 steps without guidance,
samples from v_old, which follows as in DiffusionNFT (`slow`), one update, no KL. The loss is not
divided by b, as DiffusionNFT's is. Its ablations (random directions, forward-noised states) and its
certification, which is off, are left out. Only one state of low noise learns, so details change,
and the composition hardly does.

Levels are fractions of the training range of timesteps, which for a flow are its sigmas. Cost per
sample, T steps: T forwards, then 1 forward and backward; 1 evaluation of the reward, and 2 n - 1 of
its gradient, as up and down share the first.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Le
from rewardft_plugins.nft.groups import complete_rewards
from rewardft_plugins.nft.options import Count, Deviation, Group, Positive
from rewardft_plugins.nft.virtual_steps import mean_square, relative_error
from rewardft_plugins.nft.weight_sets import Schedule, followed, nft_decay
from torch import Tensor

from rewardft import Context
from rewardft.algorithms.advantages import group_advantages
from rewardft.policy.snapshots import swapped_in
from rewardft.samplers.steps import taken_step
from rewardft.types import Batch, Loss, Plan, Rollout, micro_slices

Fraction = Annotated[float, Ge(0), Le(1)]
LEAST_NORM = 1e-12  # of a gradient and of a distance


@dataclass(frozen=True)
class OPSD:
    """Learn from estimates of x0 that a reward's gradient has moved.

    Args:
        group_size: samples per prompt, >= 2.
        level: sigma*, the noise level of the state that learns.
        radius: rho, of the ball around y0, as a part of |y0|.
        ascents: n, steps up and steps down.
        beta: b, > 0; smaller steps further.
        advantage_clip: advantages are clipped to this.
        schedule: how slowly v_old follows the policy.
        std: the deviation of all rewards of the batch (`global`) or of each group (`group`).
    """

    group_size: Group = 24
    level: Fraction = 0.278
    radius: Positive = 0.1
    ascents: Count = 2
    beta: Positive = 1.0
    advantage_clip: Positive = 5.0
    schedule: Schedule = "slow"
    std: Deviation = "global"

    needs = frozenset({"differentiable_sampler", "reward_gradient"})

    def losses(self, ctx: Context, batch: Batch) -> Iterator[Loss]:
        old = followed(ctx, "opsd/old", nft_decay(self.schedule, ctx.step))
        samples, k = batch.repeat(self.group_size), self.query(ctx)
        with swapped_in(ctx.adapter, old):
            rollout = ctx.rollout(samples, Plan(stop=ctx.sampler.steps, keep=frozenset({k})))
        rewards = complete_rewards(ctx.score(rollout, samples), self.group_size).flatten()
        goodness = self.goodness(ctx, rewards)
        slices = list(micro_slices(len(samples), ctx.micro_batch))
        for rows in slices:
            part, own = rollout.select(rows), samples.select(rows)
            loss = self.loss(ctx, part, own, k, goodness[rows])
            # A sample without a reward has no direction to go.
            loss = torch.where(rewards[rows].isnan(), 0.0, loss)
            yield Loss(loss.sum() / len(samples), step=rows == slices[-1])

    def query(self, ctx: Context) -> int:
        """The step whose noise level is nearest sigma*."""
        span = ctx.policy.scheduler.config.num_train_timesteps
        distances = [abs(float(t) / span - self.level) for t in ctx.sampler.timesteps]
        return distances.index(min(distances))

    def goodness(self, ctx: Context, rewards: Tensor) -> Tensor:
        """R `(b,)`; 1/2 for a sample that is as good as its group's mean."""
        advantage, _ = group_advantages(ctx, rewards, self.group_size, self.std)
        limit = self.advantage_clip
        return advantage.clamp(-limit, limit) / (2 * limit) + 0.5

    def loss(self, ctx: Context, rollout: Rollout, samples: Batch, k: int, r: Tensor) -> Tensor:
        """`(b,)`."""
        # v_old drew the rollout, so that its estimate is in the output that was kept.
        before = taken_step(ctx.sampler, rollout, k).x0
        assert before is not None
        up, down = self.targets(ctx, rollout, samples, before)
        step = ctx.replay(rollout, k)
        assert step.x0 is not None
        move = self.beta * (step.x0 - before)
        loss = r * relative_error(before + move - up) + (1 - r) * relative_error(
            before - move - down
        )
        loss = self.advantage_clip * loss
        ctx.record("loss", loss)
        ctx.record("distance/old", mean_square(step.x0 - before))
        return loss + ctx.penalty(step, rollout, k)

    def targets(
        self, ctx: Context, rollout: Rollout, samples: Batch, before: Tensor
    ) -> tuple[Tensor, Tensor]:
        """y_up and y_down, like x0."""
        radius = self.radius * norm(before)
        first, found = self.slope(ctx, rollout, samples, before), []
        for sign in (1.0, -1.0):
            # Both ways begin at y0, so its gradient is taken once.
            y, slope = before, first
            for n in range(self.ascents):
                slope = self.slope(ctx, rollout, samples, y) if n else slope
                y = y + sign * radius / self.ascents * slope / (norm(slope) + LEAST_NORM)
                away = y - before
                y = before + away * (radius / (norm(away) + LEAST_NORM)).clamp(max=1.0)
            found.append(y)
        return found[0], found[1]

    def slope(self, ctx: Context, rollout: Rollout, samples: Batch, y: Tensor) -> Tensor:
        """The reward's gradient at y, like y."""
        # An estimate is no finished sample: its reward is not the run's.
        scores = ctx.score(rollout.with_x0(y), samples, gradient=True, record=False)
        assert scores.gradient is not None
        return scores.gradient

    def calls(self, steps: int, _rng: object, reference: bool) -> tuple[int, int]:
        """(forwards, backwards) per prompt."""
        return self.group_size * (steps + 1 + reference), self.group_size


def norm(value: Tensor) -> Tensor:
    """Of each sample, shaped to multiply it."""
    return value.flatten(1).norm(dim=1).view(-1, *[1] * (value.ndim - 1))
