"""The SDE of Flow-GRPO (Liu et al. 2025, 2505.05470): g = a sqrt(s / (1 - s)).

With Euler-Maruyama steps of width D < 0, as in the authors' code:

    x' = x (1 + g^2 / (2 s) D) + v (1 + g^2 (1 - s) / (2 s)) D + g sqrt(-D) noise

which is x + (v + g^2 / (2 s) (x + (1 - s) v)) D + ..., since epsilon = x + (1 - s) v. At s = 1,
where g is infinite, the denominator takes the next noise level.
"""

from __future__ import annotations

from torch import Tensor

from rewardft.recipe.bounds import Count, NotNegative, Positive

from .stochastic_flow import StochasticFlow


class FlowSDE(StochasticFlow):
    """Flow-GRPO's stochastic sampler; the last step draws noise too.

    Args:
        steps: number of steps T >= 1 (paper: 10 in training, 40 in evaluation).
        noise_level: a >= 0 (paper: 0.7); 0 is the ODE.
        shift: timestep shift; None takes the model's own.
    """

    def __init__(
        self, steps: Count = 10, noise_level: NotNegative = 0.7, shift: Positive | None = None
    ) -> None:
        super().__init__(steps, noise_level, shift)

    def step(self, k: int, state: Tensor, x0: Tensor, epsilon: Tensor) -> tuple[Tensor, float]:
        s = self.sigmas[k]
        # At s = 1 the denominator would be 0; sigmas[1] takes its place, as in the authors' code.
        g = self.noise_level * (s / (1 - (self.sigmas[1] if s == 1 else s))) ** 0.5
        return self.langevin(k, state, x0, epsilon, g)
