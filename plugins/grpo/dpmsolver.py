"""DPM-Solver++(2M), midpoint form (Lu et al. 2022, 2211.01095, algorithm 2): a fast deterministic
sampler.

With x = alpha x0 + sigma epsilon, lambda = log(alpha / sigma), h = lambda' - lambda and the x0
estimates of this step and the one before,

    D  = x0 + h / (2 h_before) (x0 - x0_before)
    x' = sigma'/sigma x + (alpha' - alpha sigma'/sigma) D

where alpha' - alpha sigma'/sigma = -alpha' (e^-h - 1). The first step, and a step from or to an
infinite lambda, is of first order. It serves variance-preserving models (betas) and flow-matching
models (alpha = 1 - s, sigma = s).

The step before is part of the state, so this is not a `differentiable_sampler`; it suits evaluation
and the algorithms that learn from finished samples. It draws no noise and has no log-probabilities.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rewardft.errors import ComponentError
from rewardft.recipe.bounds import Count, Positive
from rewardft.samplers.flow import FlowEuler
from rewardft.samplers.prediction import check_prediction_type, to_x0_and_epsilon
from rewardft.samplers.schedule import VariancePreserving
from rewardft.samplers.steps import call_network, keep_step
from rewardft.types import Rollout, Transition

if TYPE_CHECKING:
    from rewardft.noise import Noise
    from rewardft.types import Plan

# Key in `Rollout.info`: by kept step, the x0 estimate of the step before it.
ESTIMATES = "dpmsolver/x0_before"


class DPMSolver:
    """Second-order multistep sampler.

    Args:
        steps: number of steps T >= 1.
        spacing: timestep spacing of a model with betas; None takes the model's own.
        shift: timestep shift of a flow-matching model; None takes the model's own.
    """

    provides = frozenset({"renoise"})
    needs = frozenset({"denoiser"})

    def __init__(
        self, steps: Count = 20, spacing: str | None = None, shift: Positive | None = None
    ) -> None:
        if steps < 1:
            raise ComponentError(f"dpmsolver++: expected steps >= 1, got {steps}")
        self.steps, self.spacing, self.shift = steps, spacing, shift

    def setup(self, model: Any) -> None:
        if hasattr(model.scheduler, "alphas_cumprod"):
            schedule = VariancePreserving(model.scheduler, self.steps, self.spacing)
            self.kind = check_prediction_type(model.scheduler.config.prediction_type)
            # Refuses noise prediction where a level has no signal to divide by.
            schedule.check_prediction(self.kind)
            self.timesteps: list[int] | list[float] = schedule.timesteps
            self.alphas, self.sigmas = (
                # The schedule's alphas are alpha-bar, the squares of the alpha above.
                [a**0.5 for a in schedule.alphas],
                [(1 - a) ** 0.5 for a in schedule.alphas],
            )
        else:
            grid = FlowEuler(self.steps, self.shift)
            grid.setup(model)
            self.kind, self.timesteps = "flow", grid.timesteps
            self.alphas, self.sigmas = [1 - s for s in grid.sigmas], grid.sigmas

    def rollout(self, model: Any, cond: Any, plan: Plan, noise: Noise) -> Rollout:
        rollout = Rollout(
            cond=cond, noise=noise, plan=plan, decoder=model.decode, info={ESTIMATES: {}}
        )
        with torch.no_grad():
            # Keyed by sample, so that any way of cutting the batch gives the same states.
            state = noise.draw("initial", model.sample_shape(cond))
            # No x0 yet, which makes the first step one of first order.
            last = Transition(state=state, next=state)
            for k in range(plan.stop):
                before = last.x0
                last = self.step(
                    k, last.next, call_network(self, model, k, last.next, cond), before
                )
                if k in plan.keep:
                    keep_step(rollout, k, last)
                    rollout.info[ESTIMATES][k] = before
        # The chain stops before a step that the algorithm runs itself, with its graph.
        if plan.stop in plan.keep:
            rollout.states[plan.stop], rollout.info[ESTIMATES][plan.stop] = last.next, last.x0
        else:
            rollout.x0 = last.x0 if plan.estimate else last.next
        return rollout

    def replay(self, model: Any, rollout: Rollout, k: int, *, input_gradient: bool) -> Transition:
        state = rollout.states[k].detach()
        if input_gradient and torch.is_grad_enabled():
            state = state.requires_grad_(True)
        # The estimate of the step before is a constant here: its share of the gradient is lost.
        return self.step(
            k, state, call_network(self, model, k, state, rollout.cond), rollout.info[ESTIMATES][k]
        )

    def step(self, k: int, state: Tensor, output: Tensor, before: Tensor | None) -> Transition:
        """Step k from a state, the network's output and the x0 estimate of the step before
        (None: first order)."""
        alpha, sigma, alpha_next, sigma_next = *self.level(k), *self.level(k + 1)
        if self.kind == "flow":
            x0, epsilon = state - sigma * output, state + (1 - sigma) * output
        else:
            x0, epsilon = to_x0_and_epsilon(self.kind, state, output, alpha, sigma)
        # x0, epsilon, data and after have the shape of the state, (b, ...).
        slope = 0.0 if before is None else self.slope(k)
        data = x0 if before is None or slope == 0.0 else x0 + slope * (x0 - before)
        ratio = sigma_next / sigma
        after = ratio * state + (alpha_next - alpha * ratio) * data
        zero = torch.zeros((), dtype=state.dtype, device=state.device)
        return Transition(
            state, next=after, output=output, mean=after, std=zero, x0=x0, epsilon=epsilon
        )

    def level(self, k: int) -> tuple[float, float]:
        return self.alphas[k], self.sigmas[k]

    def slope(self, k: int) -> float:
        """h / (2 h_before); 0 where a lambda is infinite."""
        levels = [self.level(i) for i in (k - 1, k, k + 1)]
        if any(alpha == 0 or sigma == 0 for alpha, sigma in levels):
            # A clean end (sigma 0) or pure noise (alpha 0) has no finite lambda.
            return 0.0
        first, here, after = (math.log(alpha / sigma) for alpha, sigma in levels)
        return (after - here) / (2 * (here - first))

    def renoise(self, x0: Tensor, k: int, noise: Tensor) -> Tensor:
        return self.alphas[k] * x0 + self.sigmas[k] * noise
