"""DDPO3D: policy gradients on scenes (RL Dreams, 2312.04806), as far as it is
known.

The paper's equations are not public. Its figure shows a picture of the scene, SDS with a frozen
diffusion model, one more denoising step of the same model as policy, and a reward. Here:

    x_t = alpha x(theta) + sigma epsilon                       the noised picture x of the scene
    a ~ pi(a | x_t) = N(mu(x_t), std^2 I)                      one stochastic DDIM step to t' < t
    mu = alpha' x0_hat + sqrt(sigma'^2 - std^2) epsilon_hat    (2010.02502, equation 12)
    std = sigma' / sigma sqrt(sigma^2 - (alpha / alpha' sigma')^2)      (equation 16, eta = 1)
    r = R(x0_hat(a, t'))                                       the reward of the denoised action
    grad J = E[ A grad_theta log pi(a | x_t(theta)) ]          (1)
    loss = sds_weight L_SDS - policy_weight / G sum_g A_g log pi(a_g | x_t(theta))         (2)

with G actions for each picture, and A the rewards of a group less its mean, over the deviation of
the batch. (1) is the gradient of E_a[R] at a fixed epsilon, up to a positive factor: the scene
decides where the step starts, and R is a black box. With `jacobian: false` epsilon_hat is held
fixed in mu, as in SDS.

`reward_of: render` is the figure read literally: the reward of the scene's picture, against its
running mean. That reward does not depend on the action, so A leaves the expectation in (1), and
E[grad log pi] = 0: it teaches nothing, in expectation.

Cost per item: 1 + G forwards, and 1 forward and 1 backward more with `jacobian`.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from rewardft_plugins.ddpo3d.noised import (
    Level,
    as_prior,
    draw_fraction,
    judged,
    level_at,
    predict,
    rendered,
    time_range,
    visit,
)
from rewardft_plugins.ddpo3d.sds import Weighting, distillation
from torch import Tensor

from rewardft import Batch, Context, Loss
from rewardft.algorithms.advantages import group_advantages
from rewardft.errors import ComponentError
from rewardft.recipe.bounds import CountOrZero, Inside, NotNegative, Pair, Positive
from rewardft.types import Rollout, micro_slices

MEAN = "ddpo3d/mean reward"  # in the algorithm's memory
KEPT = 0.9  # of the running mean at each step


@dataclass(frozen=True)
class Steps:
    """Denoising steps of b pictures, and G actions of each.

    level, after: before and after the step. noise, guess: epsilon and epsilon_hat, like a picture.
    std `(b, 1, ...)`; drawn `(b, G, ...)`.
    """

    level: Level
    after: Level
    noise: Tensor
    guess: Tensor
    std: Tensor
    drawn: Tensor


class DDPO3D:
    """SDS, and the policy gradient of a denoising step with a reward that needs no gradient.

    Args:
        group_size: G >= 2 actions for each picture.
        policy_weight, sds_weight: of the two terms, >= 0.
        reward_of: the denoised `action`, or the `render` (the published figure read literally).
        jacobian: differentiate the network, too.
        stride: t' = stride t, in (0, 1).
        advantage_clip: advantages are clamped to [-advantage_clip, advantage_clip].
        std: deviation that advantages are divided by: of the `global` batch, or of the own `group`.
        t_range, t_end, anneal_steps, weighting: see `SDS`.
    """

    needs = frozenset({"renders"})

    def __init__(
        self,
        group_size: Pair = 6,
        policy_weight: NotNegative = 1.0,
        sds_weight: NotNegative = 1.0,
        reward_of: Literal["action", "render"] = "action",
        jacobian: bool = True,
        stride: Inside = 0.5,
        advantage_clip: Positive = 5.0,
        std: Literal["global", "group"] = "global",
        t_range: Sequence[float] = (0.05, 0.98),
        t_end: Sequence[float] | None = None,
        anneal_steps: CountOrZero = 0,
        weighting: Weighting = "variance",
    ) -> None:
        if group_size < 2 or min(policy_weight, sds_weight) < 0 or advantage_clip <= 0:
            raise ComponentError(
                "expected group_size >= 2, policy_weight and sds_weight >= 0 and advantage_clip > "
                f"0, got group_size={group_size}, policy_weight={policy_weight}, "
                f"sds_weight={sds_weight}, advantage_clip={advantage_clip}"
            )
        if not 0 < stride < 1:
            raise ComponentError(f"expected stride in (0, 1), got {stride}")
        self.group_size, self.reward_of, self.jacobian = group_size, reward_of, jacobian
        self.policy_weight, self.sds_weight, self.stride = policy_weight, sds_weight, stride
        self.advantage_clip, self.std = advantage_clip, std
        self.times = time_range(t_range, t_end, anneal_steps, "ddpo3d")
        self.weighting: Weighting = weighting

    def calls(self, steps: int, rng: random.Random, reference: bool) -> tuple[int, int]:
        """Per item of a batch."""
        scored = self.group_size if self.reward_of == "action" else 0
        return 1 + scored + self.jacobian, int(self.jacobian)

    def losses(self, ctx: Context, batch: Batch) -> Iterator[Loss]:
        rollout = visit(ctx, batch)
        parts = list(micro_slices(len(batch), ctx.micro_batch))
        # First all actions: advantages compare those of the whole batch.
        pieces = [(rollout.select(rows), batch.select(rows)) for rows in parts]
        taken = [self.act(ctx, *piece) for piece in pieces]
        if self.reward_of == "action":
            rewards = [self.reward(ctx, *piece, own) for piece, own in zip(pieces, taken)]
            advantage = self.advantages(ctx, torch.cat(rewards))
        else:
            advantage = self.literal_advantages(ctx, ctx.score(rollout, batch).rewards)
        for rows, (piece, _), steps in zip(parts, pieces, taken):
            loss = self.loss(ctx, piece, steps, advantage[rows])
            ctx.record("loss", loss)
            yield Loss(loss.sum() / len(batch), step=rows == parts[-1])

    @torch.no_grad()
    def act(self, ctx: Context, rollout: Rollout, batch: Batch) -> Steps:
        """One step of each picture, and G draws of where it leads."""
        clean = as_prior(ctx, rollout.x0)
        fraction = draw_fraction(ctx, batch, self.times)
        level = level_at(ctx, fraction, clean)
        after = level_at(ctx, self.stride * fraction, clean)
        noise = ctx.noise(batch).draw("noising", clean.shape[1:])
        state = level.add_noise(clean, noise)
        x0, guess = predict(ctx, state, level, rollout.cond)
        std = deviation(level, after)
        fresh = ctx.noise(batch.repeat(self.group_size)).draw("action", clean.shape[1:])
        drawn = mean(x0, guess, after, std)[:, None] + std[:, None] * fresh.unflatten(
            0, (-1, self.group_size)
        )
        return Steps(level, after, noise, guess, std, drawn)

    @torch.no_grad()
    def reward(self, ctx: Context, rollout: Rollout, batch: Batch, steps: Steps) -> Tensor:
        """R of the denoised actions, `(b, G)`; NaN where no reward applies."""
        samples = batch.repeat(self.group_size)
        cond: Any = ctx.encode(samples)
        level = steps.after.repeat(self.group_size)
        x0, _ = predict(ctx, steps.drawn.flatten(0, 1), level, cond)
        return judged(ctx, samples, cond, x0).unflatten(0, (-1, self.group_size))

    def advantages(self, ctx: Context, rewards: Tensor) -> Tensor:
        """`(b, G)`: 0 for an action to which no reward applies."""
        own, _ = group_advantages(ctx, rewards.flatten(), self.group_size, self.std)
        return own.clamp(-self.advantage_clip, self.advantage_clip).view_as(rewards)

    def literal_advantages(self, ctx: Context, rewards: Tensor) -> Tensor:
        """`(b, G)`: one for all actions of a picture, its reward less the running mean, this batch
        included."""
        everyone = ctx.gather(rewards)
        now = everyone.nanmean()
        if not bool(now.isfinite()):
            # A batch without rewards says nothing: what was known is kept.
            return torch.zeros_like(rewards)[:, None].expand(-1, self.group_size)
        before = ctx.memory.get(MEAN, now)
        mean = KEPT * before + (1 - KEPT) * now
        ctx.memory[MEAN] = mean
        spread = everyone[~everyone.isnan()].std(unbiased=False)
        own = ((rewards - mean) / (spread + 1e-4)).nan_to_num(0.0)
        own = own.clamp(-self.advantage_clip, self.advantage_clip)
        return own[:, None].expand(-1, self.group_size)

    def loss(self, ctx: Context, rollout: Rollout, steps: Steps, advantage: Tensor) -> Tensor:
        """`(b,)`: equation 2."""
        clean = rendered(ctx, rollout)
        log_prob = self.log_prob(ctx, clean, steps, rollout.cond)
        policy = -(advantage * log_prob).mean(1)
        sds = distillation(clean, steps.level, steps.guess - steps.noise, self.weighting)
        ctx.record("loss/policy", policy)
        return self.sds_weight * sds + self.policy_weight * policy

    def log_prob(self, ctx: Context, clean: Tensor, steps: Steps, cond: Any) -> Tensor:
        """log pi `(b, G)` of the actions at pictures `clean`, less what does not depend on them."""
        state = steps.level.add_noise(clean, steps.noise)
        if self.jacobian:
            x0, guess = predict(ctx, state, steps.level, cond)
        else:
            guess = steps.guess
            x0 = (state - steps.level.sigma * guess) / steps.level.alpha
        own = mean(x0, guess, steps.after, steps.std)[:, None]
        squares = (steps.drawn - own).square() / (2 * steps.std[:, None].square())
        return -squares.flatten(2).sum(2)


def deviation(level: Level, after: Level) -> Tensor:
    """std `(b, 1, ...)` of the step from one level to the next (2010.02502, equation 16, eta 1).

    Raises ComponentError for a step that leads nowhere.
    """
    fresh = level.sigma.square() - (level.alpha / after.alpha * after.sigma).square()
    std = after.sigma / level.sigma * fresh.clamp(min=0).sqrt()
    if not bool((std > 0).all()):
        raise ComponentError(
            "ddpo3d: a step from a timestep to `stride` times that draws nothing. Take a lower "
            "`stride`, or a `t_range` that begins later."
        )
    return std


def mean(x0: Tensor, guess: Tensor, after: Level, std: Tensor) -> Tensor:
    """mu (2010.02502, equation 12)."""
    return after.alpha * x0 + (after.sigma.square() - std.square()).clamp(min=0).sqrt() * guess
