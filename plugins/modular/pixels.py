"""What decoding leaves, as rewards see it."""

from __future__ import annotations

from torch import Tensor


def to_unit_range(images: Tensor) -> Tensor:
    """[-1, 1] -> [0, 1], clamped with the gradient of the identity: lost pixels can come back."""
    pixels = images / 2 + 0.5
    return pixels + (pixels.clamp(0, 1) - pixels).detach()


def on_white(pixels: Tensor) -> Tensor:
    """Four channels as a viewer shows them: RGB over white. Others stay as they are."""
    if pixels.shape[-3] != 4:
        return pixels
    colour, opacity = pixels[..., :3, :, :], pixels[..., 3:, :, :]
    return colour * opacity + (1 - opacity)
