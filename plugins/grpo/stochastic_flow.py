"""What the stochastic flow-matching samplers share: the grid of noise levels, and a window outside
which they are ODEs.

Notation: s from 1 (noise) to 0 (data), x_s = (1 - s) x0 + s epsilon, v = epsilon - x0 the network's
output, D = s' - s < 0 the step. The score is -epsilon / s, so every SDE

    x' = x + (v - g^2 score / 2) D + g sqrt(-D) noise

keeps the marginals of the ODE x' = x + v D in the limit of small steps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from rewardft.errors import ComponentError
from rewardft.samplers.flow import FlowEuler
from rewardft.samplers.steps import gaussian_step, replay_step, roll_out

if TYPE_CHECKING:
    from rewardft.noise import Noise
    from rewardft.types import Plan, Rollout, Transition


class StochasticFlow:
    """A chain of steps N(mean, std^2 I) on the grid of `flow_euler`; a sampler adds `step`.

    window: the steps that draw noise; the others are Euler steps of the ODE, without a density.
        None: all steps. An algorithm may set it before a rollout, and leaves it at None.
    """

    provides = frozenset({"differentiable_sampler", "renoise"})
    needs = frozenset({"denoiser"})
    refuses = frozenset({"betas"})

    def __init__(self, steps: int, noise_level: float, shift: float | None) -> None:
        if steps < 1 or noise_level < 0:
            raise ComponentError(
                f"expected steps >= 1 and noise_level >= 0, got {steps} and {noise_level}"
            )
        self.steps, self.noise_level = steps, noise_level
        self.ode = FlowEuler(steps, shift)
        self.window: frozenset[int] | None = None

    @staticmethod
    def tags(noise_level: float = 1.0, **_: Any) -> frozenset[str]:
        return (
            # Without noise there is no density, and nothing for a window to switch off.
            frozenset({"stochastic", "log_prob", "sde_window"}) if noise_level > 0 else frozenset()
        )

    def setup(self, model: Any) -> None:
        self.ode.setup(model)
        self.timesteps, self.sigmas = self.ode.timesteps, self.ode.sigmas

    def rollout(self, model: Any, cond: Any, plan: Plan, noise: Noise) -> Rollout:
        return roll_out(self, model, cond, plan, noise)

    def replay(self, model: Any, rollout: Rollout, k: int, *, input_gradient: bool) -> Transition:
        return replay_step(self, model, rollout, k, input_gradient)

    def transition(
        self, k: int, state: Tensor, output: Tensor, noise: Noise, taken: Tensor | None = None
    ) -> Transition:
        # The estimates of x0 and epsilon are the ODE's; only mean and deviation of the next state
        # differ.
        euler = self.ode.transition(k, state, output, noise)
        if self.noise_level == 0 or (self.window is not None and k not in self.window):
            return euler
        assert euler.x0 is not None and euler.epsilon is not None
        mean, std = self.step(k, state, euler.x0, euler.epsilon)
        return gaussian_step(k, state, output, mean, std, euler.x0, euler.epsilon, noise, taken)

    def step(self, k: int, state: Tensor, x0: Tensor, epsilon: Tensor) -> tuple[Tensor, float]:
        """Mean and standard deviation of the next state, from the network's estimates of the clean
        sample and the noise."""
        raise NotImplementedError

    def renoise(self, x0: Tensor, k: int, noise: Tensor) -> Tensor:
        return self.ode.renoise(x0, k, noise)

    def langevin(
        self, k: int, state: Tensor, x0: Tensor, epsilon: Tensor, g: float
    ) -> tuple[Tensor, float]:
        """An Euler-Maruyama step of the SDE with diffusion g:
        x' = x + (v - g^2 score / 2) D + g sqrt(-D) noise."""
        s, delta = self.sigmas[k], self.sigmas[k + 1] - self.sigmas[k]
        # grad log p_s(x) = -epsilon / s for x_s = (1 - s) x0 + s epsilon.
        score = -epsilon / s
        # v = epsilon - x0; delta < 0, as s falls.
        return state + (epsilon - x0 - 0.5 * g**2 * score) * delta, g * (-delta) ** 0.5
