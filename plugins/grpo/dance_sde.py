"""The SDE of DanceGRPO (Xue et al. 2025, 2505.07818): constant diffusion g = eta.

x' = x + (v - eta^2 / 2 * score) D + eta sqrt(-D) noise,   score = -(x - (1 - s) x0) / s^2 =
-epsilon / s
"""

from __future__ import annotations

from torch import Tensor

from .stochastic_flow import StochasticFlow


class DanceSDE(StochasticFlow):
    """DanceGRPO's stochastic sampler; the last step draws noise too.

    Args:
        steps: number of steps T >= 1 (authors' code: 16).
        noise_level: eta >= 0 (authors' code: 0.3); 0 is the ODE.
        shift: timestep shift; None takes the model's own (authors' code for FLUX: 3).
    """

    def __init__(
        self, steps: int = 16, noise_level: float = 0.3, shift: float | None = None
    ) -> None:
        super().__init__(steps, noise_level, shift)

    def step(self, k: int, state: Tensor, x0: Tensor, epsilon: Tensor) -> tuple[Tensor, float]:
        return self.langevin(k, state, x0, epsilon, self.noise_level)
