"""The door for pictures that users give: whole files of a few formats, upright, in 8 bits, without
transparency."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rewardft.errors import DataError
from rewardft.files.paths import read_bytes, reason

if TYPE_CHECKING:
    from PIL import Image

FORMATS = ("PNG", "JPEG", "WEBP", "BMP")  # no others: some are read by running programs
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
LARGEST_PICTURE = 2**28  # bytes of one file


def decoded(data: bytes, where: str, mode: str = "RGB") -> Image.Image:
    """A picture in `mode`, `RGB` or `L`: turned upright as its camera says, laid over white where
    it is transparent. Raises DataError, which opens with `where`, for anything but a whole one."""
    try:
        from PIL import Image, ImageOps, UnidentifiedImageError
    except ImportError as error:
        raise DataError(
            f"{where}: reading images needs the package pillow (pip install pillow)"
        ) from error
    try:
        with warnings.catch_warnings():
            # A few bytes may announce a picture that fills the memory; pillow only warns of it.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                upright = ImageOps.exif_transpose(image)
                return on_white(eight_bits(upright)).convert(mode)
    except UnidentifiedImageError:
        known = ", ".join(FORMATS)
        raise DataError(
            f"{where}: not a readable image (UnidentifiedImageError: expected {known})"
        ) from None
    except Image.DecompressionBombWarning as error:
        raise DataError(f"{where}: refused as too large ({error})") from error
    # Decoders of damaged files raise errors of every kind, also KeyError and struct.error.
    except Exception as error:
        raise DataError(
            f"{where}: not a readable image ({type(error).__name__}: {error})"
        ) from error


def read_inside(root: Path, name: str, where: str) -> bytes:
    """A file below `root`; absolute paths and those that leave the folder are a DataError."""
    try:
        # Resolved before the comparison, so that neither `..` nor a link leads outside.
        path = (root / name).resolve()
        inside = path.is_relative_to(root.resolve())
        if inside:
            return read_bytes(path, LARGEST_PICTURE)
    except DataError as error:
        raise DataError(f"{where}: {name!r:.200} cannot be read ({error})") from None
    except (OSError, ValueError, RuntimeError) as error:
        raise DataError(f"{where}: {name!r:.200} cannot be read ({reason(error)})") from error
    raise DataError(f"{where}: {name!r} lies outside {root}; give paths relative to it")


def eight_bits(image: Image.Image) -> Image.Image:
    """Pillow would clip the 16 bits of a grey picture, and show white."""
    import numpy as np
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
