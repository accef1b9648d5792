"""Pictures of preference pairs: from files and bytes that strangers made, to tensors."""

from __future__ import annotations

import base64
import binascii
import io
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rewardft.errors import DataError
from rewardft.files.paths import read_bytes, reason

# What decoders raise.
UNREADABLE = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    MemoryError,
    OverflowError,
)


FORMATS = ("PNG", "JPEG", "WEBP", "BMP")  # no others: some are read by running programs
LARGEST_IMAGE = 2**28  # bytes of one file


def load_image(source: Any, root: Path, size: int, where: str) -> Tensor:
    """Decode to `(3, size, size)` in [0, 1]. Raises DataError for anything but a whole image."""
    try:
        from PIL import Image, ImageOps, UnidentifiedImageError
    except ImportError as error:
        raise DataError(
            f"{where}: reading images needs the package pillow (pip install pillow)"
        ) from error
    data = image_bytes(source, root, where)
    try:
        with warnings.catch_warnings():
            # A few bytes may announce a picture that fills the memory; pillow only warns of it.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                square = ImageOps.fit(image.convert("RGB"), (size, size), Image.Resampling.LANCZOS)
    except UnidentifiedImageError:
        known = ", ".join(FORMATS)
        raise DataError(
            f"{where}: not a readable image (UnidentifiedImageError: expected {known})"
        ) from None
    except (*UNREADABLE, Image.DecompressionBombError) as error:
        raise DataError(
            f"{where}: not a readable image ({type(error).__name__}: {error})"
        ) from error
    except Image.DecompressionBombWarning as error:
        raise DataError(f"{where}: refused as too large ({error})") from error
    # Copied, because pillow's array is read-only and torch tensors are not.
    return torch.from_numpy(np.asarray(square).copy()).permute(2, 0, 1) / 255


def image_bytes(source: Any, root: Path, where: str) -> bytes:
    """Encoded bytes of an image that is given as bytes, a path, or a mapping with `bytes`, `base64`
    or `path`."""
    if isinstance(source, bytes):
        return source
    if isinstance(source, str):
        return read_inside(root, source, where)
    if isinstance(source, Mapping):
        # Parquet files often have both; the bytes need no other file.
        if isinstance(source.get("bytes"), bytes):
            return bytes(source["bytes"])
        if isinstance(source.get("base64"), str):
            return decode_base64(source["base64"], where)
        if isinstance(source.get("path"), str):
            return read_inside(root, source["path"], where)
    raise DataError(
        f"{where}: expected a path, bytes, or an object with bytes, base64 or path; got "
        f"{describe(source)}"
    )


def describe(source: Any) -> str:
    if isinstance(source, Mapping):
        return f"an object with {', '.join(map(str, source)) or 'nothing'}"
    return type(source).__name__


def decode_base64(text: str, where: str) -> bytes:
    try:
        # Without `validate` foreign characters are skipped, and damage would pass as a picture.
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise DataError(f"{where}: not valid base64 ({error})") from error


def read_inside(root: Path, name: str, where: str) -> bytes:
    """A file below `root`; absolute paths and those that leave the folder are refused."""
    try:
        # Resolved before the comparison, so that neither `..` nor a link leads outside.
        path = (root / name).resolve()
        inside = path.is_relative_to(root.resolve())
        if inside:
            return read_bytes(path, LARGEST_IMAGE)
    except DataError as error:
        raise DataError(f"{where}: {name!r:.200} cannot be read ({error})") from None
    except (OSError, ValueError, RuntimeError) as error:
        raise DataError(f"{where}: {name!r:.200} cannot be read ({reason(error)})") from error
    raise DataError(f"{where}: {name!r} lies outside {root}; give paths relative to it")
