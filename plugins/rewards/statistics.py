"""Rewards that are statistics of the pixels: no weights, differentiable, `(b,)`."""

from __future__ import annotations

import torch
from torch import Tensor

from rewardft.types import Batch, Rollout

from .images import pixels_of

LUMA = (0.299, 0.587, 0.114)  # Rec. ITU-R BT.601: weights of R, G, B


def mean_brightness(rollout: Rollout, batch: Batch, *, target: float | None = None) -> Tensor:
    """Mean luma of the image in [0, 1]; with a `target`, minus the squared distance to it, in [-1,
    0].

    Args:
        target: the brightness that is wanted; null: the brighter, the better.
    """
    red, green, blue = pixels_of(rollout, "mean_brightness").unbind(1)
    luma = LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue
    mean = luma.flatten(1).mean(1)
    return mean if target is None else -((mean - target) ** 2)


def colourfulness(rollout: Rollout, batch: Batch) -> Tensor:
    """Hasler and Süsstrunk's M3 on pixels of 0 to 255: 0 for grey, about 59 'quite', above 109
    'extremely' colourful.

    M = sqrt(var(rg) + var(yb)) + 0.3 sqrt(mean(rg)^2 + mean(yb)^2), rg = R - G, yb = (R + G) / 2 -
    B ("Measuring colourfulness in natural images", 2003).
    """
    red, green, blue = (255 * pixels_of(rollout, "colourfulness")).flatten(2).unbind(1)
    # The opponent channels of the paper, in units of 0 to 255.
    opponents = torch.stack([red - green, (red + green) / 2 - blue], dim=1)  # (b, 2, pixels)
    means = opponents.mean(2)
    # A norm and not the root of a sum: its gradient is 0 at a grey picture, the root's is NaN.
    spread = (
        torch.linalg.vector_norm((opponents - means[:, :, None]).flatten(1), dim=1)
        / opponents.shape[2] ** 0.5
    )
    return spread + 0.3 * torch.linalg.vector_norm(means, dim=1)


def symmetry(rollout: Rollout, batch: Batch) -> Tensor:
    """Minus the mean absolute difference of the image and its mirror image, in [-1, 0]; 0 is
    symmetric.

    The test of global structure in DRTune (Wu et al. 2024, 2405.00760): it is decided early in
    sampling, so a method that trains late steps alone cannot raise it.
    """
    pixels = pixels_of(rollout, "symmetry")
    return -(pixels - pixels.flip(-1)).abs().flatten(1).mean(1)


for _reward, _range in (
    (mean_brightness, (-1.0, 1.0)),
    (colourfulness, (0.0, 255.0)),
    (symmetry, (-1.0, 0.0)),
):
    _reward.space, _reward.range = "pixels", _range  # type: ignore[attr-defined]
