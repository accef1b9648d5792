"""Samples that are pictures, as files. Nothing else in the core looks at what a sample is."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rewardft.errors import ComponentError
from rewardft.types import Rollout

LEAST_SIDE = 64  # small pictures are enlarged to this in grids


def as_pictures(decoded: Any) -> Tensor | None:
    """Decoded samples as pictures `(n, c, h, w)` in [0, 1], c = 1 or 3; None where they are none.

    Multi-view samples `(n, v, c, h, w)` become one row of views each. NaN is black.
    """
    if not isinstance(decoded, Tensor) or decoded.ndim not in (4, 5) or decoded.shape[-3] not in (1, 3):
        return None
    pictures = decoded.detach().float().cpu().nan_to_num(0.0).clamp(0, 1)
    return pictures if pictures.ndim == 4 else torch.cat(list(pictures.unbind(1)), dim=-1)


def save_pictures(samples: Any, ids: Sequence[str], folder: Path, prefix: str = "") -> list[Path]:
    """One PNG per sample, `PREFIX + ID.png`; an empty list where the samples are no pictures.

    Args:
        samples: a finished rollout, or decoded samples.
        ids: one per sample; characters that file names may lack become `_`.

    Raises ComponentError when Pillow is not installed.
    """
    pictures = as_pictures(samples.decoded if isinstance(samples, Rollout) else samples)
    if pictures is None:
        return []
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{prefix}{file_name(id_)}.png" for id_ in ids]
    for path, picture in zip(paths, pictures):
        save_png(path, picture)
    return paths


def save_grid(columns: Sequence[Any], path: Path) -> Path | None:
    """Decoded samples side by side, a row for each sample, with a white gap; None where they are no pictures."""
    strips = [as_pictures(column) for column in columns]
    if any(strip is None for strip in strips):
        return None
    gap, rows = 4, []
    for cells in zip(*(strip for strip in strips if strip is not None)):
        large = [enlarge(cell) for cell in cells]
        white = torch.ones(3, large[0].shape[1], gap)
        rows.append(torch.cat([part for cell in large for part in (cell, white)][:-1], dim=-1))
        rows.append(torch.ones(3, gap, rows[-1].shape[-1]))
    save_png(path, torch.cat(rows[:-1], dim=-2))
    return path


def enlarge(picture: Tensor) -> Tensor:
    """`(c, h, w)` -> three channels, at least LEAST_SIDE high, by whole pixels."""
    factor = -(-LEAST_SIDE // picture.shape[-2])
    return picture.expand(3, -1, -1).repeat_interleave(factor, -2).repeat_interleave(factor, -1)


def save_png(path: Path, picture: Tensor) -> None:
    """`(c, h, w)` in [0, 1] -> a file, complete or absent."""
    try:
        from PIL import Image
    except ImportError as error:
        raise ComponentError("pictures are written by Pillow, which is not installed: pip install pillow") from error
    array = (picture * 255).round().byte().permute(1, 2, 0).numpy()
    image = Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    image.save(temporary, format="PNG")
    os.replace(temporary, path)


def file_name(id_: str) -> str:
    """An id as a file name; ids that would become the same one keep apart by a hash."""
    plain = re.sub(r"[^\w.-]", "_", id_).lstrip(".")[:80]
    return plain if plain == id_ else f"{plain}-{hashlib.blake2b(id_.encode(), digest_size=3).hexdigest()}"
