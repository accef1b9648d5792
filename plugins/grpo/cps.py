"""Coefficients-Preserving Sampling (Wang & Yu 2025, 2509.05952), also known as Flow-CPS.

    x' = (1 - s') x0 + sqrt(s'^2 - g^2) epsilon + g noise,   g = s' sin(eta pi / 2)

Part of the predicted noise is replaced by fresh noise, as in DDIM, so that the total noise is that
of level s' at every step, however few the steps; the last step is deterministic. The authors' code
leaves the constants out of the log-probability (no division by 2 g^2); here it is that of the
Gaussian, so that ratios are ratios of densities.
"""

from __future__ import annotations

import math

from torch import Tensor

from rewardft.errors import ComponentError
from rewardft.recipe.bounds import Count, Fraction, Positive

from .stochastic_flow import StochasticFlow


class CPS(StochasticFlow):
    """Flow-CPS.

    Args:
        steps: number of steps T >= 1.
        noise_level: eta in [0, 1]; 0 is the ODE, 1 draws all noise anew.
        shift: timestep shift; None takes the model's own.
    """

    def __init__(
        self, steps: Count = 10, noise_level: Fraction = 0.8, shift: Positive | None = None
    ) -> None:
        # Beyond 1 the angle passes a right angle, and more noise would mean less.
        if noise_level > 1:
            raise ComponentError(f"cps: expected noise_level within [0, 1], got {noise_level}")
        super().__init__(steps, noise_level, shift)

    def step(self, k: int, state: Tensor, x0: Tensor, epsilon: Tensor) -> tuple[Tensor, float]:
        after = self.sigmas[k + 1]
        # g; at the last step s' = 0, so the step is deterministic and has no density.
        std = after * math.sin(self.noise_level * math.pi / 2)
        return (1 - after) * x0 + math.sqrt(max(after**2 - std**2, 0.0)) * epsilon, std
