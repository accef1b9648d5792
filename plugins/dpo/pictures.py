"""Pictures of preference pairs: from files and bytes that strangers made, to tensors."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rewardft.errors import DataError
from rewardft.files.pictures import decoded, read_inside


def load_image(source: Any, root: Path, size: int, where: str) -> Tensor:
    """Decode to `(3, size, size)` in [0, 1]. Raises DataError for anything but a whole image."""
    image = decoded(image_bytes(source, root, where), where)
    # pillow is there: it has decoded the picture.
    from PIL import Image, ImageOps

    square = ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS)
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
