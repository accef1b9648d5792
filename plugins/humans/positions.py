"""Places in a picture whose width and height run from -1 to 1, x to the right, y down."""

from __future__ import annotations

import torch
from torch import Tensor


def pixel_centres(size: int, like: Tensor) -> Tensor:
    """Coordinates `(size,)` of the pixel centres along one side,
    in the type and on the device of `like`."""
    # Pixel i covers [i, i + 1] of `size`, so its centre is at i + 1/2.
    return (torch.arange(size, dtype=like.dtype, device=like.device) + 0.5) * (2.0 / size) - 1.0


def expected_position(logits: Tensor) -> Tensor:
    """Mean position under a softmax over the pixels: `(..., h, w)` -> `(..., 2)`, x first."""
    height, width = logits.shape[-2:]
    probability = logits.flatten(-2).softmax(-1).unflatten(-1, (height, width))
    # x needs the columns' sums alone, y the rows': no grid of coordinates is built.
    x = (probability.sum(-2) * pixel_centres(width, logits)).sum(-1)
    y = (probability.sum(-1) * pixel_centres(height, logits)).sum(-1)
    return torch.stack([x, y], dim=-1)
