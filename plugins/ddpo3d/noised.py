"""Pictures of scenes at a noise level of the prior, and what the prior makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rewardft import Batch, Context
from rewardft.algorithms.denoising import forward_process
from rewardft.errors import ComponentError
from rewardft.samplers.prediction import to_x0_and_epsilon
from rewardft.types import Plan, Rollout


@dataclass(frozen=True)
class TimeRange:
    """Between which noise levels a picture is taken to: fractions of the prior's training steps.

    start, end: the range at the first step and after `steps` of them; straight lines between.
    """

    start: tuple[float, float]
    end: tuple[float, float]
    steps: int

    def at(self, step: int) -> tuple[float, float]:
        """The range of an optimizer step."""
        done = min(step / self.steps, 1.0) if self.steps else 0.0
        low, high = (a + done * (b - a) for a, b in zip(self.start, self.end))
        return low, high


def time_range(
    start: Sequence[float], end: Sequence[float] | None, steps: int, name: str
) -> TimeRange:
    """The options of an algorithm as a range; raises ComponentError for one that is none."""
    last = start if end is None else end
    for low_high in (start, last):
        if len(low_high) != 2 or not 0 < low_high[0] < low_high[1] <= 1:
            raise ComponentError(
                f"{name}: expected t_range and t_end as two fractions, 0 < low < high <= 1, got "
                f"{list(low_high)}"
            )
    if steps < 0 or (end is None) != (steps == 0):
        raise ComponentError(
            f"{name}: t_end and anneal_steps >= 1 go together, got {end} and {steps}"
        )
    return TimeRange((start[0], start[1]), (last[0], last[1]), steps)


@dataclass(frozen=True)
class Level:
    """A noise level of each sample: x_t = alpha x0 + sigma epsilon; t `(b,)`, alpha and sigma
    `(b, 1, ...)`."""

    t: Tensor
    alpha: Tensor
    sigma: Tensor

    def select(self, rows: slice) -> Level:
        return Level(self.t[rows], self.alpha[rows], self.sigma[rows])

    def repeat(self, count: int) -> Level:
        """Each sample's `count` times in a row."""
        own = (self.t, self.alpha, self.sigma)
        return Level(*(value.repeat_interleave(count, 0) for value in own))

    def add_noise(self, x0: Tensor, noise: Tensor) -> Tensor:
        """x_t."""
        return self.alpha * x0 + self.sigma * noise


def level_at(ctx: Context, fraction: Tensor, like: Tensor) -> Level:
    """The noise level at a fraction `(b,)` of the prior's training steps."""
    return Level(*forward_process(ctx.policy.scheduler, fraction, like))


def draw_fraction(ctx: Context, batch: Batch, times: TimeRange) -> Tensor:
    """A fraction `(b,)` of the prior's training steps for each sample."""
    low, high = times.at(ctx.step)
    return low + (high - low) * ctx.noise(batch).uniform("timestep")


def predict(ctx: Context, x: Tensor, level: Level, cond: Any) -> tuple[Tensor, Tensor]:
    """The prior's estimates of x0 and epsilon at states x."""
    scheduler = ctx.policy.scheduler
    # Schedulers of flow matching have no such key: their networks predict epsilon - x0.
    kind = getattr(scheduler.config, "prediction_type", "flow_prediction")
    output = ctx.policy.denoise(x, level.t, cond).to(x.dtype)
    alpha: Any = level.alpha
    sigma: Any = level.sigma
    return to_x0_and_epsilon(kind, x, output, alpha, sigma)


def visit(ctx: Context, batch: Batch) -> Rollout:
    """Pictures of the batch without autograd, whose step can be replayed."""
    ctx.policy.tend(ctx.step, ctx.gather, ctx.forget)
    return ctx.rollout(batch, Plan(stop=1, keep=frozenset({0})))


def rendered(ctx: Context, rollout: Rollout) -> Tensor:
    """The pictures of some samples once more, with autograd, as the prior's samples."""
    latents: Tensor = ctx.policy.to_prior(ctx.replay(rollout, 0).x0)
    return latents.to(ctx.dtype)


def as_prior(ctx: Context, x0: Tensor) -> Tensor:
    """Pictures as the prior's samples, without autograd."""
    with torch.no_grad():
        latents: Tensor = ctx.policy.to_prior(x0)
    return latents.to(ctx.dtype)


def judged(ctx: Context, samples: Batch, cond: Any, latents: Tensor) -> Tensor:
    """Rewards `(n,)` of the prior's samples `(n, ...)` that were made for `samples`; NaN where no
    reward applies."""
    found = Rollout(
        cond,
        ctx.noise(samples),
        Plan(stop=1),
        x0=ctx.policy.from_prior(latents),
        decoder=ctx.policy.decode,
    )
    return ctx.score(found, samples).rewards
