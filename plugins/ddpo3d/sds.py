"""SDS: score distillation sampling (DreamFusion, Poole et al. 2022, 2209.14988).

A picture x = g(theta) of a scene is noised, and a frozen diffusion model guesses the noise:

    x_t = alpha_t x + sigma_t epsilon
    grad L_SDS = E_{t, epsilon}[ w(t) (epsilon_hat(x_t; y, t) - epsilon) dx/dtheta ]   (equation 3)

The network's own Jacobian is left out. x is what the prior denoises: pixels, or latents of the
picture, in which case the encoder is differentiated too. Its guidance is the prior's option.

Cost per item: 1 forward.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from rewardft_plugins.ddpo3d.noised import (
    Level,
    as_prior,
    draw_fraction,
    level_at,
    predict,
    rendered,
    time_range,
    visit,
)
from torch import Tensor

from rewardft import Batch, Context, Loss
from rewardft.recipe.bounds import CountOrZero
from rewardft.types import Rollout, micro_slices

Weighting = Literal["variance", "one", "x0"]


class SDS:
    """Score distillation; uses no reward.

    Args:
        t_range: which noise levels are drawn, evenly, as two fractions of the prior's timesteps.
        t_end, anneal_steps: the range after so many steps, which the first one moves to evenly;
            null and 0: it stays.
        weighting: w(t), see `weight`.
    """

    needs = frozenset({"renders"})

    def __init__(
        self,
        t_range: Sequence[float] = (0.02, 0.98),
        t_end: Sequence[float] | None = None,
        anneal_steps: CountOrZero = 0,
        weighting: Weighting = "variance",
    ) -> None:
        self.times = time_range(t_range, t_end, anneal_steps, "sds")
        self.weighting: Weighting = weighting

    def calls(self, steps: int, rng: random.Random, reference: bool) -> tuple[int, int]:
        """Per item of a batch."""
        return 1, 0

    def losses(self, ctx: Context, batch: Batch) -> Iterator[Loss]:
        rollout = visit(ctx, batch)
        parts = list(micro_slices(len(batch), ctx.micro_batch))
        for rows in parts:
            loss = self.loss(ctx, rollout.select(rows), batch.select(rows))
            ctx.record("loss", loss)
            yield Loss(loss.sum() / len(batch), step=rows == parts[-1])

    def loss(self, ctx: Context, rollout: Rollout, batch: Batch) -> Tensor:
        """`(b,)`, of pictures without autograd."""
        clean = as_prior(ctx, rollout.x0)
        level = level_at(ctx, draw_fraction(ctx, batch, self.times), clean)
        noise = ctx.noise(batch).draw("noising", clean.shape[1:])
        with torch.no_grad():
            _, guess = predict(ctx, level.add_noise(clean, noise), level, rollout.cond)
        return distillation(rendered(ctx, rollout), level, guess - noise, self.weighting)


def distillation(clean: Tensor, level: Level, error: Tensor, weighting: Weighting) -> Tensor:
    """`(b,)`: a number whose slope in the pictures `clean` is w(t) (epsilon_hat - epsilon), the
    `error`."""
    # Equation 3. The value itself means nothing.
    slope = (weight(level, weighting) * error).detach()
    return (slope * clean).flatten(1).sum(1)


def weight(level: Level, weighting: Weighting) -> Tensor:
    """w(t) `(b, 1, ...)`: `variance`, sigma^2 (DreamFusion); `one`; `x0`, sigma / alpha, with which
    the slope is x - x0_hat."""
    if weighting == "variance":
        return level.sigma.square()
    return torch.ones_like(level.sigma) if weighting == "one" else level.sigma / level.alpha
