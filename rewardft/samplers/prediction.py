"""Prediction types: what a network's raw output means.

With x = alpha * x0 + sigma * epsilon (variance preserving) the types are epsilon, v (= alpha *
epsilon - sigma * x0; Salimans & Ho 2022, 2202.00512) and sample (= x0). With x = (1 - s) * x0 + s *
epsilon the type is flow (epsilon - x0).
"""

from __future__ import annotations

from torch import Tensor

from rewardft.errors import ComponentError, did_you_mean

PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")


def check_prediction_type(name: str) -> str:
    """Return `name` when the variance-preserving samplers know it;
    raises ComponentError otherwise."""
    if name not in PREDICTION_TYPES:
        raise ComponentError(
            f"prediction type {name!r} is not one of "
            f"{', '.join(PREDICTION_TYPES)}.{did_you_mean(name, PREDICTION_TYPES)} It is read from "
            "the model's scheduler configuration."
        )
    return name


def to_x0_and_epsilon(
    kind: str, x: Tensor, output: Tensor, alpha: float, sigma: float
) -> tuple[Tensor, Tensor]:
    """Split a raw output into (x0, epsilon), both shaped as x."""
    if kind == "epsilon":
        return (x - sigma * output) / alpha, output
    if kind == "v_prediction":
        return alpha * x - sigma * output, alpha * output + sigma * x
    if kind == "flow_prediction":
        return x - sigma * output, x + alpha * output
    # The network predicts x0.
    return output, (x - alpha * output) / sigma


def target_output(kind: str, x0: Tensor, epsilon: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """The output that a perfect network would give: the regression target of supervised
    training."""
    if kind == "epsilon":
        return epsilon
    if kind == "v_prediction":
        return alpha * epsilon - sigma * x0
    if kind == "flow_prediction":
        return epsilon - x0
    return x0
