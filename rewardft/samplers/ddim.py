"""DDIM (Song et al. 2021, 2010.02502), any eta; for models with betas and for flow matching.

The paper's step keeps the marginals x_k = alpha * x0 + sigma * epsilon for any pair (alpha, sigma),
not only for alpha^2 + sigma^2 = 1. With the pair (1 - s, s) of flow matching, eta = 0 is the Euler
step of the ODE, and eta = 1 the posterior of the Markov chain with these marginals, as it is DDPM's
otherwise. One sampler thus fits every model with a diffusers scheduler, with or without noise.

A step leads to the next timestep of the chain, as in the paper. That of diffusers' DDIM scheduler
leads to t - N // T instead (N training steps), which differs with `linspace` spacing, and with
`trailing` where T does not divide N: published samples were made with it. `next_level: stride`
takes those steps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from rewardft.errors import ComponentError
from rewardft.recipe.bounds import Count, NotNegative, Positive
from rewardft.samplers.prediction import check_prediction_type, to_x0_and_epsilon
from rewardft.samplers.schedule import FlowMatching, NextLevel, VariancePreserving, is_flow_matching
from rewardft.samplers.steps import gaussian_step, replay_step, roll_out

if TYPE_CHECKING:
    from rewardft.noise import Noise
    from rewardft.types import Plan, Rollout, Transition


class DDIM:
    """DDIM sampler; eta = 0 is deterministic, eta = 1 has DDPM's variance.

    Args:
        steps: number of sampling steps T >= 1.
        eta: noise scale >= 0 (equation 16 of the paper).
        clip: clamp the x0 estimate to [-clip, clip] at every step (latent models do not).
        spacing: timestep spacing of a model with betas; None takes the model's own.
        next_level: where a step of a model with betas leads: to the next timestep of the `grid`, or
            by diffusers' `stride`.
    """

    provides = frozenset({"differentiable_sampler", "renoise"})
    needs = frozenset({"denoiser"})

    def __init__(
        self,
        steps: Count = 50,
        eta: NotNegative = 0.0,
        clip: Positive | None = None,
        spacing: str | None = None,
        next_level: NextLevel = "grid",
    ) -> None:
        if steps < 1 or eta < 0:
            raise ComponentError(
                f"ddim: expected steps >= 1 and eta >= 0, got steps={steps}, eta={eta}"
            )
        self.steps, self.eta, self.clip, self.spacing = steps, eta, clip, spacing
        self.next_level = next_level

    @staticmethod
    def tags(eta: float = 0.0, **_: Any) -> frozenset[str]:
        # Asked before anything is built: an algorithm that needs densities is refused here.
        return frozenset({"stochastic", "log_prob"}) if eta > 0 else frozenset()

    def setup(self, model: Any) -> None:
        self.schedule: FlowMatching | VariancePreserving
        if is_flow_matching(model.scheduler):
            if self.spacing is not None or self.next_level != "grid":
                raise ComponentError(
                    "ddim: flow-matching models have no timestep spacing; leave `spacing` and "
                    "`next_level` out"
                )
            # The scheduler's own shift is kept: published samples were made with it.
            self.kind, self.schedule = "flow_prediction", FlowMatching(model.scheduler, self.steps)
        else:
            schedule = VariancePreserving(
                model.scheduler, self.steps, self.spacing, self.next_level
            )
            self.kind = check_prediction_type(model.scheduler.config.prediction_type)
            schedule.check_prediction(self.kind)
            self.schedule = schedule
        self.timesteps = self.schedule.timesteps

    def rollout(self, model: Any, cond: Any, plan: Plan, noise: Noise) -> Rollout:
        return roll_out(self, model, cond, plan, noise)

    def replay(self, model: Any, rollout: Rollout, k: int, *, input_gradient: bool) -> Transition:
        return replay_step(self, model, rollout, k, input_gradient)

    def transition(
        self, k: int, state: Tensor, output: Tensor, noise: Noise, taken: Tensor | None = None
    ) -> Transition:
        (alpha, sigma), (alpha_next, sigma_next) = (
            self.schedule.level(k),
            self.schedule.after(k),
        )
        x0, epsilon = to_x0_and_epsilon(self.kind, state, output, alpha, sigma)
        # The noise estimate is not clamped with it: it stays the network's own.
        if self.clip is not None:
            x0 = x0.clamp(-self.clip, self.clip)
        # Variance of x_k given x_{k+1}; 1 - a / a' with betas.
        fresh = sigma**2 - (alpha / alpha_next * sigma_next) ** 2
        # Equation 16. Rounding may take `fresh` below 0 where two levels are nearly equal.
        std = self.eta * sigma_next / sigma * max(fresh, 0.0) ** 0.5
        mean = alpha_next * x0 + max(sigma_next**2 - std**2, 0.0) ** 0.5 * epsilon  # equation 12
        return gaussian_step(k, state, output, mean, std, x0, epsilon, noise, taken)

    def renoise(self, x0: Tensor, k: int, noise: Tensor) -> Tensor:
        return self.schedule.add_noise(x0, k, noise)
