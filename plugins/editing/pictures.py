"""Picture files as rewards and models see them: upright, 8 bits, without transparency."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from PIL import Image


def opened(path: Path, mode: str) -> Image.Image:
    """A whole picture in `mode`, `RGB` or `L`; raises what Pillow raises."""
    from PIL import Image, ImageOps

    with Image.open(path) as image:
        upright = ImageOps.exif_transpose(image)
        return on_white(eight_bits(upright)).convert(mode)


def eight_bits(image: Image.Image) -> Image.Image:
    """Pillow would clip the 16 bits of a grey picture, and show white."""
    from PIL import Image

    if not image.mode.startswith("I"):
        return image
    levels: Any = np.asarray(image, dtype=np.float64) / 257
    return Image.fromarray(levels.round().clip(0, 255).astype(np.uint8))


def on_white(image: Image.Image) -> Image.Image:
    """Pixels that cannot be seen have colours too, which a plain conversion would show."""
    from PIL import Image

    if not image.has_transparency_data:
        return image
    seen = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", seen.size, "white"), seen)


def shape_differs(one: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether two sizes are not one shape at two scales, up to a pixel of rounding."""
    (width, height), (other_width, other_height) = one, other
    return abs(width * other_height - other_width * height) > max(*one, *other)
