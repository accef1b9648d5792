"""Euler steps of the probability-flow ODE of a flow-matching model (Lipman et al. 2023,
2210.02747).

Convention of diffusers: x_s = (1 - s) * x0 + s * epsilon, s from 1 to 0; the network predicts
v = epsilon - x0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from rewardft.errors import ComponentError
from rewardft.recipe.bounds import Count, Positive
from rewardft.samplers.schedule import FlowMatching, is_flow_matching
from rewardft.samplers.steps import gaussian_step, replay_step, roll_out

if TYPE_CHECKING:
    from rewardft.noise import Noise
    from rewardft.types import Plan, Rollout, Transition


class FlowEuler:
    """Deterministic flow-matching sampler.

    Args:
        steps: number of Euler steps T >= 1.
        shift: timestep shift; None takes the model's own.
    """

    provides = frozenset({"differentiable_sampler", "renoise"})
    needs = frozenset({"denoiser"})
    refuses = frozenset({"betas"})

    def __init__(self, steps: Count = 28, shift: Positive | None = None) -> None:
        if steps < 1:
            raise ComponentError(f"flow_euler: expected steps >= 1, got {steps}")
        self.steps, self.shift = steps, shift

    def setup(self, model: Any) -> None:
        if not is_flow_matching(model.scheduler):
            raise ComponentError(
                f"flow_euler needs a model whose scheduler is FlowMatchEulerDiscreteScheduler, got "
                f"{type(model.scheduler).__name__}. Models with betas go with `ddim` or `ddpm`."
            )
        schedule = FlowMatching(model.scheduler, self.steps, self.shift)
        self.timesteps, self.sigmas = schedule.timesteps, schedule.sigmas

    def rollout(self, model: Any, cond: Any, plan: Plan, noise: Noise) -> Rollout:
        return roll_out(self, model, cond, plan, noise)

    def replay(self, model: Any, rollout: Rollout, k: int, *, input_gradient: bool) -> Transition:
        return replay_step(self, model, rollout, k, input_gradient)

    def transition(
        self, k: int, state: Tensor, output: Tensor, noise: Noise, taken: Tensor | None = None
    ) -> Transition:
        s, s_next = self.sigmas[k], self.sigmas[k + 1]
        # dx/ds = v, from s down to s_next.
        mean = state + (s_next - s) * output
        # Both follow from x_s and v, as v = epsilon - x0.
        x0, epsilon = state - s * output, state + (1 - s) * output
        # std 0: an ODE draws nothing after its initial noise.
        return gaussian_step(k, state, output, mean, 0.0, x0, epsilon, noise, taken)

    def renoise(self, x0: Tensor, k: int, noise: Tensor) -> Tensor:
        return (1 - self.sigmas[k]) * x0 + self.sigmas[k] * noise
