"""Bicubic resizing with antialiasing as pillow does it, as two matrix products: differentiable, on
any device."""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor

PRECISION_BITS = 22  # of pillow's weights for 8-bit pictures
SUPPORT = 2.0  # of the cubic kernel, in units of the coarser grid


def resize(
    images: Tensor, height: int, width: int, quantise: bool = False, clip: bool = True
) -> Tensor:
    """Resize `(b, c, h, w)` in [0, 1] to `(b, c, height, width)`; columns first, then rows.

    quantise: values exactly as pillow gives them for 8-bit pictures, which it rounds after each of
    the two passes; the gradient passes straight through the rounding. `images` must then be whole
    steps of 1/255.
    clip: to [0, 1] after each pass, as pillow must and torchvision on tensors does not.
    """
    # Columns before rows, as pillow does: the rounding in between depends on the order.
    images = resize_columns(images, width, quantise, clip)
    return resize_columns(images.mT, height, quantise, clip).mT


def resize_columns(images: Tensor, width: int, quantise: bool, clip: bool) -> Tensor:
    matrix = torch.from_numpy(resize_matrix(images.shape[-1], width))
    smooth = images @ matrix.to(images).T
    if not clip:
        return smooth
    # The cubic kernel has negative weights, so it overshoots at edges.
    smooth = smooth.clamp(0, 1)
    return (
        replace_values(smooth, fixed_point(images.detach(), matrix.to(images.device)))
        if quantise
        else smooth
    )


def fixed_point(images: Tensor, matrix: Tensor) -> Tensor:
    """The product in pillow's integers: weights in steps of 2^-22, bytes in and out. Exact in
    float64."""
    # Halves away from zero, as C code rounds by adding 0.5 and cutting off.
    whole = (matrix * 2**PRECISION_BITS).abs().add(0.5).floor() * matrix.sign()
    # Below 2^53 every product and sum is an integer that float64 holds exactly.
    bytes_in = (255 * images.double()).round()
    return ((bytes_in @ whole.T + 2 ** (PRECISION_BITS - 1)) / 2**PRECISION_BITS).floor().clamp(
        0, 255
    ) / 255


def quantised(images: Tensor) -> Tensor:
    """Images in [0, 1] rounded to 8 bits; the gradient passes straight through."""
    return replace_values(images, (255 * images.detach()).round() / 255)


def replace_values(images: Tensor, values: Tensor) -> Tensor:
    """`values` in the forward pass, the gradient of `images` in the backward pass."""
    return images + (values.to(images.dtype) - images).detach()


@functools.lru_cache(maxsize=32)
def resize_matrix(size: int, new_size: int) -> np.ndarray:
    """Row i holds the weights of the `size` old pixels in new pixel i: `(new_size, size)` float64,
    rows sum to 1.

    The kernel is stretched when shrinking, so that it averages over all pixels that fall into the
    new one.
    """
    scale = size / new_size
    stretch = max(scale, 1.0)
    # Pixels are squares: the middle of pixel i is at i + 1/2.
    centers = (np.arange(new_size) + 0.5) * scale
    # Cut off as pillow does, which decides the pixels at the very edge of the kernel.
    first = np.maximum((centers - SUPPORT * stretch + 0.5).astype(int), 0)[:, None]
    behind = np.minimum((centers + SUPPORT * stretch + 0.5).astype(int), size)[:, None]
    pixels = np.arange(size)[None]
    weights = cubic((pixels + 0.5 - centers[:, None]) / stretch) * (
        (pixels >= first) & (pixels < behind)
    )
    return weights / weights.sum(1, keepdims=True)


def cubic(x: np.ndarray) -> np.ndarray:
    """Keys' cubic convolution kernel with a = -1/2."""
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x**2 + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))
