"""The steps of a sampler, read from the model's diffusers scheduler."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from rewardft.errors import ComponentError, did_you_mean

SPACINGS = ("leading", "trailing", "linspace")
NextLevel = Literal["grid", "stride"]
MOST_STEPS = 100_000  # of a flow


class VariancePreserving:
    """Timesteps and cumulative alphas of a chain of `steps` steps.

    timesteps: T integers, noisiest first.
    alphas: T + 1 numbers, the cumulative alpha (bar) at each timestep and the one behind the last
        step.
    next_level: a step from timestep t leads to the next timestep of the chain (`grid`, as the
        papers have it), or to t - N // T with N training steps (`stride`, as diffusers' DDIM
        scheduler does whatever the spacing). They are the same for `leading`, and for `trailing`
        where T divides N.
    """

    def __init__(
        self, scheduler: Any, steps: int, spacing: str | None, next_level: NextLevel = "grid"
    ) -> None:
        from diffusers import DDIMScheduler

        config = getattr(scheduler, "config", None)
        if config is None or not hasattr(scheduler, "alphas_cumprod"):
            raise ComponentError(
                "expected a model whose `scheduler` is a diffusers scheduler with "
                f"`alphas_cumprod`, got {type(scheduler).__name__}. Flow-matching models go with "
                "the samplers `flow_euler` and `ddim`."
            )
        if spacing is not None and spacing not in SPACINGS:
            raise ComponentError(
                f"spacing {spacing!r} is unknown.{did_you_mean(spacing, SPACINGS)}"
            )
        if not 1 <= steps <= config.num_train_timesteps:
            raise ComponentError(
                f"steps must be between 1 and the model's {config.num_train_timesteps} training "
                f"steps, got {steps}"
            )
        refuse(config, "thresholding", "clips x0 at a quantile of each sample")
        overrides = {} if spacing is None else {"timestep_spacing": spacing}
        # From the model's configuration: schedulers with betas share their timesteps.
        grid = DDIMScheduler.from_config(config, **overrides)
        grid.set_timesteps(steps)
        self.timesteps: list[int] = [
            # `leading` with an offset may point behind the last training step.
            min(int(t), config.num_train_timesteps - 1)
            for t in grid.timesteps
        ]
        # Coefficients of a step are computed in float64, whatever the dtype of the states.
        cumulative = scheduler.alphas_cumprod.double()
        # 1, or that of timestep 0 with `set_alpha_to_one: false`, as the model was trained.
        final = float(grid.final_alpha_cumprod)
        self.alphas = [float(cumulative[t]) for t in self.timesteps] + [final]
        self.strided: list[float] | None = None
        if next_level == "stride":
            stride = config.num_train_timesteps // steps
            self.strided = [
                # Before the start of the schedule there is only the clean sample.
                float(cumulative[t - stride]) if t >= stride else final
                for t in self.timesteps
            ]

    def level(self, k: int) -> tuple[float, float]:
        """(alpha, sigma) of x_k = alpha * x0 + sigma * epsilon."""
        return self.alphas[k] ** 0.5, (1 - self.alphas[k]) ** 0.5

    def after(self, k: int) -> tuple[float, float]:
        """(alpha, sigma) of the state that step k leads to."""
        if self.strided is None:
            return self.level(k + 1)
        return self.strided[k] ** 0.5, (1 - self.strided[k]) ** 0.5

    def check_prediction(self, kind: str) -> None:
        """Raises ComponentError where the network's output says nothing of the sample."""
        if kind == "epsilon" and self.alphas[0] == 0.0:
            raise ComponentError(
                f"the chain begins at timestep {self.timesteps[0]}, where the model's schedule has "
                "no signal left (alpha = 0, `rescale_betas_zero_snr`). A network that predicts the "
                "noise says nothing about the sample there. Take another `spacing`, such as "
                "`leading`, or a network that predicts v."
            )

    def add_noise(self, x0: Tensor, k: int, noise: Tensor) -> Tensor:
        """q(x_k | x0): the state that enters step k."""
        alpha, sigma = self.level(k)
        return alpha * x0 + sigma * noise


class FlowMatching:
    """Timesteps and noise levels of a flow-matching chain of `steps` steps, shifted as the model's
    scheduler says.

    timesteps: T numbers, noisiest first.
    sigmas: T + 1 noise levels, the last is 0.
    shift: replaces the scheduler's own, also one that depends on the resolution.
    """

    def __init__(self, scheduler: Any, steps: int, shift: float | None = None) -> None:
        # Any number makes sense to a flow, but a list of billions would fill the memory.
        if not 1 <= steps <= MOST_STEPS:
            raise ComponentError(f"steps must be between 1 and {MOST_STEPS:,}, got {steps}")
        refuse(scheduler.config, "invert_sigmas", "counts noise levels from data to noise")
        refuse(scheduler.config, "stochastic_sampling", "draws all noise anew at every step")
        # Both at once: with dynamic shifting on, diffusers ignores `shift`.
        overrides = {} if shift is None else {"shift": shift, "use_dynamic_shifting": False}
        # The scheduler's own class: a model family may have one that knows its resolution.
        grid = type(scheduler).from_config(scheduler.config, **overrides)
        grid.set_timesteps(steps)
        self.timesteps = [float(t) for t in grid.timesteps]
        self.sigmas = [float(s) for s in grid.sigmas.double()]

    def level(self, k: int) -> tuple[float, float]:
        """(1 - s, s) of x_k = (1 - s) * x0 + s * epsilon."""
        return 1 - self.sigmas[k], self.sigmas[k]

    def after(self, k: int) -> tuple[float, float]:
        """(1 - s, s) of the state that step k leads to."""
        return self.level(k + 1)

    def add_noise(self, x0: Tensor, k: int, noise: Tensor) -> Tensor:
        """q(x_k | x0): the state that enters step k."""
        alpha, sigma = self.level(k)
        return alpha * x0 + sigma * noise


def is_flow_matching(scheduler: Any) -> bool:
    """Whether a model's scheduler is diffusers' flow-matching one (or derives from it)."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    return isinstance(scheduler, FlowMatchEulerDiscreteScheduler)


def refuse(config: Any, key: str, what: str) -> None:
    """Raises ComponentError for a switch of a scheduler that these samplers would ignore."""
    # Sampling without it would be another model's distribution, and look like a bad one.
    if config.get(key):
        raise ComponentError(
            f"the model's scheduler has `{key}: true`: it {what}, and the samplers here do not. "
            f"Set `{key}` to false in its scheduler_config.json to sample without."
        )
