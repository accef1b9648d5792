"""Samples that are pictures, as files. Nothing else in the core looks at what a sample is."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from rewardft.errors import ComponentError
from rewardft.files.atomic import make_folder, replacing
from rewardft.files.paths import file_name
from rewardft.types import Rollout

LEAST_SIDE = 128  # small pictures are enlarged to this in grids
WIDE = 1024  # unless they, which may be rows of views, would be wider than this
MOST_SIDE = 512  # and large ones made smaller in tiles
LARGEST_SHEET = 2**26  # pixels in all: Pillow warns of, or refuses, what has a third more
GAP, LINE = 4, 14  # pixels between pictures, and of a line of text


def as_pictures(decoded: Any) -> Tensor | None:
    """Decoded samples as pictures `(n, c, h, w)` in [0, 1], c = 1 or 3; None for other samples.

    Multi-view samples `(n, v, c, h, w)` become one row of views each. NaN is black.
    """
    if (
        not isinstance(decoded, Tensor)
        or decoded.ndim not in (4, 5)
        or decoded.shape[-3] not in (1, 3)
    ):
        return None
    # float32 before anything else: numpy has no bfloat16.
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
    make_folder(folder)
    paths = [folder / f"{prefix}{file_name(id_)}.png" for id_ in ids]
    for path, picture in zip(paths, pictures):
        save_png(path, picture)
    return paths


def save_grid(columns: Mapping[str, Any], labels: Sequence[str], path: Path) -> Path | None:
    """Decoded samples side by side under the names of their columns; None where they are no
    pictures.

    labels: one per sample, written above its row. Samples of which a whole picture would be too
        large to open are made smaller.
    """
    strips = [as_pictures(column) for column in columns.values()]
    if any(strip is None for strip in strips):
        return None
    rows = [
        [enlarge(cell) for cell in cells]
        for cells in zip(*(strip for strip in strips if strip is not None))
    ]
    height, width = rows[0][0].shape[-2:]
    across, down = len(columns), len(rows)
    side = fitting(height, width, lambda h, w: math.prod(size_of_sheet(across, down, h, w)))
    smaller = [[reduce(cell, side) for cell in cells] for cells in rows]
    write_image(path, sheet(list(columns), labels, smaller))
    return path


def sheet(titles: Sequence[str], labels: Sequence[str], rows: Sequence[Sequence[Tensor]]) -> Any:
    """Rows of pictures `(3, h, w)` of one size under the titles of their columns, each row under
    its label.

    Text that is wider than its place is cut off, as pictures must stay where they are.
    """
    pillow, gap, line = import_pillow("Image", "ImageDraw"), GAP, LINE
    height, width = rows[0][0].shape[-2:]
    across, down = width + gap, height + line + gap
    size = size_of_sheet(len(titles), len(rows), height, width)
    image = pillow["Image"].new("RGB", size, "white")
    draw = pillow["ImageDraw"].Draw(image)
    for column, title in enumerate(titles):
        draw.text((column * across, 0), title, fill="black")
    for row, (label, cells) in enumerate(zip(labels, rows)):
        top = line + row * down
        draw.text((0, top), label, fill="black")
        for column, cell in enumerate(cells):
            image.paste(to_image(cell), (column * across, top + line))
    return image


def size_of_sheet(across: int, down: int, height: int, width: int) -> tuple[int, int]:
    """(width, height) of the whole sheet."""
    return across * (width + GAP) - GAP, LINE + down * (height + LINE + GAP)


def save_tiles(samples: Any, labels: Sequence[str], path: Path) -> Path | None:
    """Decoded samples in a block about as wide as it is high, each under its label; None where they
    are no pictures."""
    pictures = as_pictures(samples)
    if pictures is None:
        return None
    cells = [enlarge(picture) for picture in pictures]
    height, width = cells[0].shape[-2:]
    side = fitting(height, width, lambda h, w: math.prod(size_of_tiles(len(cells), h, w)))
    cells = [reduce(cell, min(side, MOST_SIDE)) for cell in cells]
    write_image(path, tiles(labels, cells))
    return path


def tiles(labels: Sequence[str], cells: Sequence[Tensor]) -> Any:
    """Pictures `(3, h, w)` of one size, from left to right and from top to bottom.

    A label that is wider than its picture is cut off.
    """
    pillow, (height, width) = import_pillow("Image", "ImageDraw"), cells[0].shape[-2:]
    across = tiles_across(len(cells), height, width)
    right, down = width + GAP, height + LINE + GAP
    whole = pillow["Image"].new("RGB", size_of_tiles(len(cells), height, width), "white")
    for index, (label, cell) in enumerate(zip(labels, cells)):
        # An image of its own, so that no label runs into the next.
        tile = pillow["Image"].new("RGB", (width, LINE + height), "white")
        pillow["ImageDraw"].Draw(tile).text((0, 0), label, fill="black")
        tile.paste(to_image(cell), (0, LINE))
        whole.paste(tile, (index % across * right, index // across * down))
    return whole


def tiles_across(count: int, height: int, width: int) -> int:
    """How many tiles stand side by side, so that the block is about a square."""
    return min(max(round(math.sqrt(count * height / width)), 1), count)


def size_of_tiles(count: int, height: int, width: int) -> tuple[int, int]:
    """(width, height) of the whole block."""
    across = tiles_across(count, height, width)
    return across * (width + GAP) - GAP, -(-count // across) * (height + LINE + GAP) - GAP


def fitting(height: int, width: int, pixels: Callable[[int, int], int]) -> int:
    """The largest height of the pictures, at most their own, with which the whole has not more than
    LARGEST_SHEET pixels; 1 where none has. pixels: of the whole, by (height, width) of one."""
    heights = range(height, 0, -1)
    return next((h for h in heights if pixels(h, width * h // height) <= LARGEST_SHEET), 1)


def reduce(picture: Tensor, side: int) -> Tensor:
    """`(c, h, w)` -> at most `side` high, in the same proportions."""
    height, width = picture.shape[-2:]
    if height <= side:
        return picture
    size = (side, max(width * side // height, 1))
    return functional.interpolate(picture[None], size, mode="area")[0]


def enlarge(picture: Tensor) -> Tensor:
    """`(c, h, w)` -> three channels, at least LEAST_SIDE high unless wider than WIDE, by whole
    pixels."""
    height, width = picture.shape[-2:]
    # Rounded up, and by whole pixels: an interpolated picture would hide what the model drew.
    factor = max(min(-(-LEAST_SIDE // height), WIDE // width), 1)
    return picture.expand(3, -1, -1).repeat_interleave(factor, -2).repeat_interleave(factor, -1)


def save_png(path: Path, picture: Tensor) -> None:
    """`(c, h, w)` in [0, 1] -> a file, complete or absent."""
    write_image(path, to_image(picture))


def to_image(picture: Tensor) -> Any:
    """`(c, h, w)` in [0, 1] -> a Pillow image of 8 bits."""
    # Rounded: cutting off would darken every picture by half a level.
    array = (picture * 255).round().byte().permute(1, 2, 0).numpy()
    return import_pillow("Image")["Image"].fromarray(
        array[..., 0] if array.shape[-1] == 1 else array
    )


def import_pillow(*names: str) -> dict[str, Any]:
    """Modules of Pillow by name; raises ComponentError when it is not installed."""
    try:
        return {name: importlib.import_module(f"PIL.{name}") for name in names}
    except ImportError as error:
        raise ComponentError(
            "pictures are written by Pillow, which is not installed: pip install pillow"
        ) from error


def write_image(path: Path, image: Any, kind: str = "PNG", **options: Any) -> None:
    """A Pillow image as a file of a kind that Pillow knows, complete or absent."""
    with replacing(path) as temporary:
        # The format by name: the temporary file has no ending that would tell.
        image.save(temporary, format=kind, **options)
