"""Muon (Jordan et al. 2024): momentum whose matrix is made orthogonal before it is applied.

PyTorch's own `torch.optim.Muon` takes matrices alone; most weights here are kernels of
convolutions, read as matrices `(out, in * height * width)`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # the quintic's coefficients, from the same source


def orthogonalise(matrix: Tensor) -> Tensor:
    """Nearly the nearest orthogonal matrix: singular values end within 0.6 to 1.3.

    In bfloat16, by Newton-Schulz iterations.
    """
    a, b, c = NEWTON_SCHULZ
    x = matrix.bfloat16()
    # The iteration converges for singular values up to 1, which the Frobenius norm bounds.
    x = x / (x.norm() + 1e-7)
    tall = x.shape[0] > x.shape[1]
    # X X^T is the smaller product of a wide matrix.
    x = x.T if tall else x
    for _ in range(5):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return (x.T if tall else x).to(matrix.dtype)


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, made orthogonal, for weights of two or more dimensions."""

    def __init__(
        self,
        weights: Iterable[nn.Parameter],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.01,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__(weights, defaults)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update of every weight that has a gradient."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._update(weight, group)

    def _update(self, weight: nn.Parameter, group: dict[str, Any]) -> None:
        state = self.state[weight]
        if not state:
            state["momentum"] = torch.zeros_like(weight)
        gradient: Tensor = weight.grad  # type: ignore[assignment]
        average = state["momentum"].lerp_(gradient, 1 - group["momentum"])
        # Nesterov: the gradient itself has a share in the step.
        ahead = gradient.lerp(average, group["momentum"])
        update = orthogonalise(ahead.flatten(1)).view_as(weight)
        # Orthogonal updates of tall matrices have a smaller root mean square; this evens it out.
        scale = max(1.0, weight.shape[0] / weight[0].numel()) ** 0.5
        weight.mul_(1 - group["lr"] * group["weight_decay"])
        weight.add_(update, alpha=-group["lr"] * scale)
