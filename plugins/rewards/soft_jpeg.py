"""JPEG's lossy half as differentiable arithmetic, and a size estimate from its coefficients.

After ITU-T T.81: BT.601 colour transform, chroma at half resolution, 8x8 cosine transform, division
by the tables of annex K scaled to a quality as the Independent JPEG Group's library does. Rounding
is x - sin(2 pi x) / (2 pi): equal to rounding at every integer and half-integer, and smooth
between, in the spirit of the cubic one of Shin & Song 2017 ("JPEG-resistant adversarial images"),
but without its jumps.
"""

from __future__ import annotations

import functools
import math

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 8
LUMINANCE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
CHROMINANCE = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *(((99,) * 8,) * 4),
)
TO_YCBCR = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))


def soft_bits(pixels: Tensor, quality: int) -> Tensor:
    """Estimated bits of the coefficients of images `(b, 3, h, w)` in [0, 1]: `(b,)`."""
    matrix = torch.tensor(TO_YCBCR, device=pixels.device, dtype=pixels.dtype)
    # Y, Cb, Cr in levels of 0 to 255, as the tables are meant for.
    planes = torch.einsum("dc,bchw->bdhw", matrix, 255 * pixels)
    # JPEG's level shift. Chroma is around 0 here, as the matrix adds no 128.
    luma, chroma = planes[:, :1] - 128, planes[:, 1:]
    # 4:2:0, as the library subsamples by default.
    halved = F.avg_pool2d(fill_up(chroma, 2), 2)
    return plane_bits(luma, LUMINANCE, quality) + plane_bits(halved, CHROMINANCE, quality)


def plane_bits(planes: Tensor, table: tuple[tuple[int, ...], ...], quality: int) -> Tensor:
    """Bits of colour planes `(b, c, h, w)`; a block's mean counts by its difference to the block on
    its left."""
    # (8, 8), larger for higher frequencies, which the eye sees less.
    steps = torch.tensor(
        quantisation_steps(table, quality), device=planes.device, dtype=planes.dtype
    )
    # (b, c, rows, columns, 8, 8).
    coefficients = soft_round(block_cosines(fill_up(planes, BLOCK)) / steps)
    means = coefficients[..., 0, 0]
    # JPEG codes the difference of a block's mean to the block before; a row's first counts whole.
    differences = torch.diff(means, dim=-1, prepend=torch.zeros_like(means[..., :1]))
    details = coefficients.flatten(-2)[..., 1:]
    return bits(differences).flatten(1).sum(1) + bits(details).flatten(1).sum(1)


def bits(value: Tensor) -> Tensor:
    # About the length of |q| as a binary number, which is what JPEG spends on a coefficient.
    return torch.log2(1 + value.abs())


def soft_round(x: Tensor) -> Tensor:
    """Smooth rounding: fixed at integers, where its slope is 0."""
    return x - torch.sin(2 * math.pi * x) / (2 * math.pi)


def fill_up(planes: Tensor, multiple: int) -> Tensor:
    """Repeat the last row and column until height and width are multiples of `multiple`."""
    height, width = planes.shape[-2:]
    return F.pad(planes, (0, -width % multiple, 0, -height % multiple), mode="replicate")


def block_cosines(planes: Tensor) -> Tensor:
    """Orthonormal cosine transform of each 8x8 block: `(b, c, h, w)` -> `(b, c, h / 8, w / 8, 8,
    8)`."""
    blocks = planes.unflatten(-1, (-1, BLOCK)).unflatten(-3, (-1, BLOCK)).transpose(-3, -2)
    basis = torch.tensor(cosine_basis(), device=planes.device, dtype=planes.dtype)
    return basis @ blocks @ basis.T


@functools.lru_cache(maxsize=1)
def cosine_basis() -> list[list[float]]:
    """Row u is the u-th basis function of the type-II cosine transform of length 8."""
    scale = [math.sqrt((1 if u == 0 else 2) / BLOCK) for u in range(BLOCK)]
    return [
        [scale[u] * math.cos((2 * x + 1) * u * math.pi / (2 * BLOCK)) for x in range(BLOCK)]
        for u in range(BLOCK)
    ]


def quantisation_steps(table: tuple[tuple[int, ...], ...], quality: int) -> list[list[float]]:
    """The table at a quality of 1 to 100: times 50 / quality below 50, times 2 - quality / 50
    above, in 1 .. 255."""
    # Whole percents and half up, as the library computes in integers.
    percent = 5000 // quality if quality < 50 else 200 - 2 * quality
    return [
        [float(min(max((entry * percent + 50) // 100, 1), 255)) for entry in row] for row in table
    ]
