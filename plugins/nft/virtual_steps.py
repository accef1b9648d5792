"""Virtual steps: finished samples, noised to a timestep of the training range and denoised there.

No step of a sampler is visited, so any sampler will do and clean samples are all that is kept.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from rewardft import Context
from rewardft.algorithms.denoising import forward_process
from rewardft.errors import ComponentError
from rewardft.samplers.prediction import target_output
from rewardft.types import Batch

LEAST_SIZE = 1e-5  # of an error that is divided by


@dataclass(frozen=True)
class Noised:
    """Samples x0 at one timestep each: x = alpha x0 + sigma epsilon."""

    x0: Tensor
    epsilon: Tensor
    x: Tensor
    t: Tensor
    alpha: Tensor
    sigma: Tensor
    cond: Any


def add_noise(
    ctx: Context, batch: Batch, x0: Tensor, stream: str, part: tuple[float, float] = (0.0, 1.0)
) -> Noised:
    """The forward process at one uniform training timestep per sample.

    Samples of one id share timestep and noise, see `sharing`. part: the part of the training range
    that timesteps are drawn from, from 0 (no noise) to 1.
    """
    draws = ctx.noise(batch)
    # Keyed by id and stream, so that a second pass finds the same timestep and noise.
    level = part[0] + (part[1] - part[0]) * draws.uniform(f"{stream}/timestep")
    t, alpha, sigma = forward_process(ctx.policy.scheduler, level, x0)
    epsilon = draws.draw(f"{stream}/noise", x0.shape[1:])
    return Noised(x0, epsilon, alpha * x0 + sigma * epsilon, t, alpha, sigma, ctx.encode(batch))


def sharing(batch: Batch, group: int) -> Batch:
    """The batch with one id for each `group` samples in a row."""
    ids = tuple(batch.ids[i // group * group] for i in range(len(batch)))
    return replace(batch, ids=ids)


def stratum(reach: tuple[float, float], n: int, count: int) -> tuple[float, float]:
    """The n-th of `count` equal parts of `reach`."""
    low, width = reach[0], (reach[1] - reach[0]) / count
    return low + n * width, low + (n + 1) * width


def check_reach(reach: tuple[float, float]) -> None:
    if not 0 <= reach[0] < reach[1] <= 1:
        raise ComponentError(f"expected t_range as 0 <= low < high <= 1, got {list(reach)}")


# -- the network's output --------------------------------------------------------------------------


def output_of(ctx: Context, at: Noised, guided: bool = False) -> Tensor:
    """The network's output under the weights in place, in the caller's gradient mode."""
    # Adapter dropout where a gradient is taken, and nowhere else: old, reference and average are
    # compared as they are.
    ctx.adapter.train_mode(torch.is_grad_enabled())
    try:
        with nullcontext() if guided else ctx.policy.unguided():
            return ctx.policy.denoise(at.x, at.t, at.cond).to(at.x.dtype)
    finally:
        ctx.adapter.train_mode(False)


def prediction_type(ctx: Context) -> str:
    return getattr(ctx.policy.scheduler.config, "prediction_type", "flow_prediction")


def target_of(ctx: Context, at: Noised) -> Tensor:
    """The output that a network with knowledge of x0 would give: velocity, noise or sample."""
    return target_output(prediction_type(ctx), at.x0, at.epsilon, at.alpha, at.sigma)


def output_error(ctx: Context, at: Noised) -> Tensor:
    """m `(b,)`: the mean squared error of the network's own output, its pre-training loss."""
    return mean_square(output_of(ctx, at) - target_of(ctx, at))


def estimate(ctx: Context, at: Noised) -> Tensor:
    """x0_hat under the weights in place, without guidance, in the caller's gradient mode."""
    output, kind = output_of(ctx, at), prediction_type(ctx)
    # Each inverts x = alpha x0 + sigma epsilon; `check_signal` excludes alpha = 0 with epsilon.
    if kind == "epsilon":
        return (at.x - at.sigma * output) / at.alpha
    if kind == "v_prediction":
        return at.alpha * at.x - at.sigma * output
    return at.x - at.sigma * output if kind == "flow_prediction" else output


def check_signal(scheduler: Any, algorithm: str) -> None:
    """Raises ComponentError for noise prediction on a schedule that ends in pure noise: x0_hat
    would be infinite there."""
    alphas: Any = getattr(scheduler, "alphas_cumprod", None)
    noise = alphas is not None and scheduler.config.prediction_type == "epsilon"
    if noise and float(alphas.min()) == 0.0:
        raise ComponentError(
            f"{algorithm}: the model predicts noise on a schedule that ends without signal (alpha "
            "= 0, `rescale_betas_zero_snr`), where the noise says nothing about the sample. Use a "
            "network that predicts v, or a schedule that keeps some signal."
        )


def mean_square(value: Tensor) -> Tensor:
    """`(b,)`: mean over the dimensions of a sample."""
    return value.square().flatten(1).mean(1)


def relative_error(residual: Tensor) -> Tensor:
    """mean e^2 / sg mean |e| of each sample, `(b,)`."""
    # A constant scale: its own gradient would undo a part of the error's.
    size = residual.detach().abs().flatten(1).mean(1).clamp(min=LEAST_SIZE)
    return mean_square(residual) / size
