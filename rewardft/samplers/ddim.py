"""DDIM (Song et al. 2021, 2010.02502), any eta."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from rewardft.errors import ComponentError
from rewardft.samplers.prediction import check_prediction_type, to_x0_and_epsilon
from rewardft.samplers.schedule import VariancePreserving
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
        spacing: timestep spacing; None takes the model's own.
    """

    provides = frozenset({"differentiable_sampler", "renoise"})
    needs = frozenset({"denoiser"})

    def __init__(
        self, steps: int = 50, eta: float = 0.0, clip: float | None = None, spacing: str | None = None
    ) -> None:
        if steps < 1 or eta < 0:
            raise ComponentError(f"ddim: expected steps >= 1 and eta >= 0, got steps={steps}, eta={eta}")
        self.steps, self.eta, self.clip, self.spacing = steps, eta, clip, spacing

    @staticmethod
    def tags(eta: float = 0.0, **_: Any) -> frozenset[str]:
        return frozenset({"stochastic", "log_prob"}) if eta > 0 else frozenset()

    def setup(self, model: Any) -> None:
        self.schedule = VariancePreserving(model.scheduler, self.steps, self.spacing)
        self.kind = check_prediction_type(model.scheduler.config.prediction_type)
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
        variance = (1 - a_next) / (1 - a) * (1 - a / a_next)  # equation 16, without eta
        std = self.eta * variance**0.5
        mean = a_next**0.5 * x0 + max(1 - a_next - std**2, 0.0) ** 0.5 * epsilon  # equation 12
        return gaussian_step(k, state, output, mean, std, x0, epsilon, noise, taken)

    def renoise(self, x0: Tensor, k: int, noise: Tensor) -> Tensor:
        return self.schedule.add_noise(x0, k, noise)
