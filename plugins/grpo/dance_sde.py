"""The SDE of DanceGRPO (Xue et al. 2025, 2505.07818): constant diffusion g = eta.

    x' = x + (v - eta^2 / 2 * score) D + eta sqrt(-D) noise

with score = -(x - (1 - s) x0) / s^2 = -epsilon / s.
"""

from __future__ import annotations

from torch import Tensor

from rewardft.recipe.bounds import Count, NotNegative, Positive

from .stochastic_flow import StochasticFlow


class DanceSDE(StochasticFlow):
    """DanceGRPO's stochastic sampler. The last step ends in the estimate of x0, without noise and
    density, as the authors' code decodes it.

    Args:
        steps: number of steps T >= 1 (authors' code: 16).
        noise_level: eta >= 0 (authors' code: 0.3); 0 is the ODE.
        shift: timestep shift; None takes the model's own (authors' code for FLUX: 3).
        noisy_end: draw noise in the last step too.
    """

    def __init__(
        self,
        steps: Count = 16,
        noise_level: NotNegative = 0.3,
        shift: Positive | None = None,
        noisy_end: bool = False,
    ) -> None:
        super().__init__(steps, noise_level, shift)
        self.noisy_end = noisy_end

    def step(self, k: int, state: Tensor, x0: Tensor, epsilon: Tensor) -> tuple[Tensor, float]:
        if k == self.steps - 1 and not self.noisy_end:
            # Langevin would take the mean past the estimate, to x0 - eta^2 / 2 * epsilon.
            return x0, 0.0
        return self.langevin(k, state, x0, epsilon, self.noise_level)
