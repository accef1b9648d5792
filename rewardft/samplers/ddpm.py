"""Ancestral sampling from the DDPM posterior (Ho et al. 2020, 2006.11239),
on any subsequence of timesteps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from rewardft.recipe.bounds import Count, Positive
from rewardft.samplers.prediction import check_prediction_type, to_x0_and_epsilon
from rewardft.samplers.schedule import VariancePreserving
from rewardft.samplers.steps import gaussian_step, replay_step, roll_out

if TYPE_CHECKING:
    from rewardft.noise import Noise
    from rewardft.types import Plan, Rollout, Transition


class DDPM:
    """DDPM sampler with the posterior variance ("fixed small").

    Args:
        steps: number of sampling steps T >= 1.
        clip: clamp the x0 estimate to [-clip, clip] at every step.
        spacing: timestep spacing; None takes the model's own.
    """

    provides = frozenset({"differentiable_sampler", "renoise", "stochastic", "log_prob"})
    needs = frozenset({"denoiser"})
    refuses = frozenset({"sigmas"})

    def __init__(
        self, steps: Count = 50, clip: Positive | None = None, spacing: str | None = None
    ) -> None:
        self.steps, self.clip, self.spacing = steps, clip, spacing

    def setup(self, model: Any) -> None:
        self.schedule = VariancePreserving(model.scheduler, self.steps, self.spacing)
        self.kind = check_prediction_type(model.scheduler.config.prediction_type)
        self.schedule.check_prediction(self.kind)
        self.timesteps = self.schedule.timesteps

    def rollout(self, model: Any, cond: Any, plan: Plan, noise: Noise) -> Rollout:
        return roll_out(self, model, cond, plan, noise)

    def replay(self, model: Any, rollout: Rollout, k: int, *, input_gradient: bool) -> Transition:
        return replay_step(self, model, rollout, k, input_gradient)

    def transition(
        self, k: int, state: Tensor, output: Tensor, noise: Noise, taken: Tensor | None = None
    ) -> Transition:
        a, a_next = self.schedule.alphas[k], self.schedule.alphas[k + 1]
        x0, epsilon = to_x0_and_epsilon(self.kind, state, output, a**0.5, (1 - a) ** 0.5)
        if self.clip is not None:
            x0 = x0.clamp(-self.clip, self.clip)
        beta = 1 - a / a_next  # of the step from the next timestep to this one
        # Equation 7.
        mean = (a_next**0.5 * beta * x0 + (a / a_next) ** 0.5 * (1 - a_next) * state) / (1 - a)
        # Equation 7, the posterior variance beta-tilde, not beta itself.
        std = ((1 - a_next) / (1 - a) * beta) ** 0.5
        return gaussian_step(k, state, output, mean, std, x0, epsilon, noise, taken)

    def renoise(self, x0: Tensor, k: int, noise: Tensor) -> Tensor:
        return self.schedule.add_noise(x0, k, noise)
