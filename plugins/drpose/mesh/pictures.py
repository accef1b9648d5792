"""Six views from picture files: a folder with one file for each view, or a sheet of samples."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rewardft_plugins.drpose.pictures import unmirror
from rewardft_plugins.humans.camera import VIEWS
from torch import Tensor

from rewardft.errors import DataError
from rewardft.files.pictures import FORMATS

# What a file's name may begin with; PSHuman's names are among them.
DOMAINS = {"normals": ("normals", "normal"), "colours": ("colours", "colour", "colors", "color")}
_ALIASES = {"front": ("front", "front_face")}
_ENDINGS = (".png", "_masked.png")


def read_views(where: Path) -> tuple[list[str], Tensor, Tensor]:
    """Names, normals and colours `(n, 6, 3, s, s)` in [0, 1] on white, stored as models make them.

    Args:
        where: a folder with `normals_VIEW.png` and `colours_VIEW.png` for each of the six views, as
            PSHuman names them too (`normals_front_face_masked.png`, `color_back_masked.png`); or a
            sheet as runs write it to `samples/`: rows of six views, normals and colours by turns.
            Back and left are as a viewer sees them. Transparent pixels become white.

    Raises:
        DataError: a view is missing, a file is not a picture, or the sizes do not fit.
    """
    if where.is_dir():
        normals, colours = (_folder(where, names) for names in DOMAINS.values())
        if normals.shape != colours.shape:
            raise DataError(f"{where}: normals and colours differ in size")
        # `unmirror` is its own inverse: from what a viewer sees to what models store.
        return [where.name], unmirror(normals)[None], unmirror(colours)[None]
    return _sheet(where)


def _folder(where: Path, names: tuple[str, ...]) -> Tensor:
    pictures = [_read(_find(where, names, view)) for view in VIEWS]
    sizes = {tuple(picture.shape) for picture in pictures}
    if len(sizes) > 1 or pictures[0].shape[1] != pictures[0].shape[2]:
        shown = ", ".join(f"{s[2]} x {s[1]}" for s in sorted(sizes))
        raise DataError(f"{where}: expected square pictures of one size, got {shown}")
    return torch.stack(pictures)


def _find(where: Path, names: tuple[str, ...], view: str) -> Path:
    # The plugin's own name first, then PSHuman's.
    for name in names:
        for alias in _ALIASES.get(view, (view,)):
            for ending in _ENDINGS:
                path = where / f"{name}_{alias}{ending}"
                if path.is_file():
                    return path
    raise DataError(
        f"{where} has no {names[0]}_{view}.png: expected {names[0]} and colours of the views "
        f"{', '.join(VIEWS)}"
    )


def _sheet(where: Path) -> tuple[list[str], Tensor, Tensor]:
    picture = _read(where)
    height, width = picture.shape[1:]
    side = width // len(VIEWS)
    if width % len(VIEWS) or side == 0 or height % (2 * side):
        raise DataError(
            f"{where}: expected a sheet of six square views side by side, rows of normals and "
            f"colours by turns, got {width} x {height} pixels"
        )
    rows = picture.unflatten(2, (-1, side)).unflatten(1, (-1, 2, side))  # (3, n, 2, s, 6, s)
    normals, colours = rows.permute(2, 1, 4, 0, 3, 5)
    names = [f"{where.stem}-{i + 1}" for i in range(len(normals))]
    return names, unmirror(normals), unmirror(colours)


def _read(path: Path) -> Tensor:
    try:
        # No other formats: some are read by running programs.
        with Image.open(path, formats=FORMATS) as picture:
            rgba = picture.convert("RGBA")
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    # Decoders of damaged files raise errors of every kind.
    except Exception as error:
        raise DataError(f"{path} is not a readable picture: {error}") from error
    # Models and judges know people on white.
    white = Image.new("RGBA", rgba.size, "white")
    shown = np.asarray(Image.alpha_composite(white, rgba).convert("RGB"))
    return torch.from_numpy(shown.astype(np.float32) / 255).permute(2, 0, 1)
