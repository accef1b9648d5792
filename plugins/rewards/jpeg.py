"""Rewards on the size of an image as a JPEG file: the exact one, and a differentiable estimate of
it.

The exact ones are those of DDPO (Black et al. 2023, 2305.13301): kilobytes (1000 bytes) at quality
95.
"""

from __future__ import annotations

import io
from typing import Annotated

import torch
from annotated_types import Ge, Le
from torch import Tensor

from rewardft.errors import ComponentError
from rewardft.types import Batch, Rollout

from .images import pixels_of, to_bytes
from .soft_jpeg import soft_bits

QUALITY = 95
Quality = Annotated[int, Ge(1), Le(100)]


def kilobytes(image: Tensor, quality: int) -> float:
    """Size of a JPEG file of `image` `(3, h, w)` in [0, 1], in units of 1000 bytes."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(to_bytes(image)).save(buffer, format="JPEG", quality=quality)
    return buffer.tell() / 1000


def jpeg_incompressibility(rollout: Rollout, batch: Batch, *, quality: Quality = QUALITY) -> Tensor:
    """Size of the image as a JPEG file, in kilobytes: more detail is better. Not differentiable.

    Args:
        quality: 1 to 100, as in JPEG.
    """
    pixels = pixels_of(rollout, "jpeg_incompressibility")
    return torch.tensor([kilobytes(image, quality) for image in pixels], device=pixels.device)


def jpeg_compressibility(rollout: Rollout, batch: Batch, *, quality: Quality = QUALITY) -> Tensor:
    """Minus the size of the image as a JPEG file, in kilobytes: smoother is better. Not
    differentiable.

    Args:
        quality: 1 to 100, as in JPEG.
    """
    pixels = pixels_of(rollout, "jpeg_compressibility")
    return -torch.tensor([kilobytes(image, quality) for image in pixels], device=pixels.device)


class SoftJpeg:
    """Minus an estimate of the JPEG file's size in kilobytes, with a gradient. `incompressible`
    flips the sign.

    The colour transform, the 4:2:0 subsampling, the cosine transform and the quantisation are
    JPEG's; rounding is smooth, and the size is that of the quantised coefficients in bits, the sum
    of log2(1 + |q|). It is meant to rank images as the real size does, not to equal it.

    Args:
        quality: 1 to 100, as in JPEG.
        incompressible: reward size instead of smallness.
    """

    provides = frozenset({"reward_gradient"})
    space, range = "pixels", (-float("inf"), float("inf"))

    def __init__(self, quality: Quality = QUALITY, incompressible: bool = False) -> None:
        if not 1 <= quality <= 100:
            raise ComponentError(
                f"jpeg_differentiable: quality must be from 1 to 100, got {quality}"
            )
        self.quality, self.sign = quality, 1.0 if incompressible else -1.0

    def __call__(self, rollout: Rollout, batch: Batch) -> Tensor:
        pixels = pixels_of(rollout, "jpeg_differentiable")
        with torch.autocast(pixels.device.type, enabled=False):
            # 8000 bits are a kilobyte of 1000 bytes.
            return self.sign * soft_bits(pixels, self.quality) / 8000


for _reward, _range in (
    (jpeg_incompressibility, (0.0, float("inf"))),
    (jpeg_compressibility, (-float("inf"), 0.0)),
):
    _reward.space, _reward.range = "pixels", _range  # type: ignore[attr-defined]
    # A function counts as differentiable unless it says otherwise.
    _reward.differentiable = False  # type: ignore[attr-defined]
