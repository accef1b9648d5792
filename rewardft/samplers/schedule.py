"""The steps of a sampler, read from the model's diffusers scheduler."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from rewardft.errors import ComponentError, did_you_mean

SPACINGS = ("leading", "trailing", "linspace")


class VariancePreserving:
    """Timesteps and cumulative alphas of a chain of `steps` steps.

    timesteps: T integers, noisiest first.
    alphas: T + 1 numbers, the cumulative alpha (bar) at each timestep and the one behind the last step.
    """

    def __init__(self, scheduler: Any, steps: int, spacing: str | None) -> None:
        from diffusers import DDIMScheduler

        config = getattr(scheduler, "config", None)
        if config is None or not hasattr(scheduler, "alphas_cumprod"):
            raise ComponentError(
                f"expected a model whose `scheduler` is a diffusers scheduler with `alphas_cumprod`, "
                f"got {type(scheduler).__name__}. Flow-matching models go with the sampler `flow_euler`."
            )
        if spacing is not None and spacing not in SPACINGS:
            raise ComponentError(f"spacing {spacing!r} is unknown.{did_you_mean(spacing, SPACINGS)}")
        if not 1 <= steps <= config.num_train_timesteps:
            raise ComponentError(
                f"steps must be between 1 and the model's {config.num_train_timesteps} training steps, got {steps}"
            )
        overrides = {} if spacing is None else {"timestep_spacing": spacing}
        grid = DDIMScheduler.from_config(config, **overrides)
        grid.set_timesteps(steps)
        self.timesteps: list[int] = [min(int(t), config.num_train_timesteps - 1) for t in grid.timesteps]
        cumulative = scheduler.alphas_cumprod.double()
        self.alphas = [float(cumulative[t]) for t in self.timesteps] + [float(grid.final_alpha_cumprod)]

    def add_noise(self, x0: Tensor, k: int, noise: Tensor) -> Tensor:
        """q(x_k | x0): the state that enters step k."""
        a = self.alphas[k]
        return a**0.5 * x0 + (1 - a) ** 0.5 * noise
