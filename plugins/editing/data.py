"""`edits`: a table of pictures with instructions."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import blake2b
from os.path import normpath, pardir, sep
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import torch
from annotated_types import Ge
from torch import Tensor

from rewardft.errors import DataError
from rewardft.files.json_text import parse
from rewardft.files.lines import text_lines
from rewardft.files.paths import read_bytes
from rewardft.files.pictures import LARGEST_PICTURE, decoded

if TYPE_CHECKING:
    from PIL import Image

TEXTS = ("source", "target")  # optional columns: what the picture shows, before and after


class Edits:
    """Pictures and what to do with them.

    The file has one JSON object per line: `image` (a path relative to its folder, and inside it),
    `prompt` (the instruction), and where they are known `mask` (a picture; white may change),
    `source` and `target` (captions before and after) and `group`. Every line needs the same keys.

    Columns: `image` `(3, height, width)` in [0, 1], `prompt`, and `mask` `(1, height, width)`, 1
    where the edit may change something. Pictures are turned upright as their cameras say, laid over
    white where they are transparent, scaled to cover the size and cut in the middle.

    Args:
        path: the file, `.jsonl`.
        height, width: of the pictures.
        split: `train` or `val`.
        held_out: how many pictures make up `val`, chosen by a hash of their paths.
        limit: only the first `limit` rows of the split.

    Raises DataError, with file and line, for what is missing or unreadable, for a line whose keys
    differ from the first line's, and for a mask of another shape than its picture.
    """

    def __init__(
        self,
        path: Path,
        height: Annotated[int, Ge(1)] = 512,
        width: Annotated[int, Ge(1)] = 512,
        split: Literal["train", "val"] = "train",
        held_out: Annotated[int, Ge(0)] = 0,
        limit: Annotated[int, Ge(1)] | None = None,
    ) -> None:
        self.size = (height, width)
        self.file = Path(path)
        rows = list(read(self.file))
        # By picture, not by row: one picture with two instructions must not be on both sides.
        chosen = held_out_pictures([row["image"] for row in rows], held_out)
        rows = [row for row in rows if (row["image"] in chosen) == (split == "val")]
        if not rows:
            hint = "set `held_out` for a `val`"
            raise DataError(f"{self.file}: the split {split!r} is empty; {hint}")
        self.rows = rows[:limit]
        for row in self.rows:
            self.check_files(row)

    def check_files(self, row: dict[str, str]) -> None:
        """A picture that is missing is found at the start, not in the middle of a run."""
        for name in filter(row.__contains__, ("image", "mask")):
            # A table may come from somebody else: it shows what lies beside it, and nothing else.
            if Path(row[name]).is_absolute() or normpath(row[name]).split(sep)[0] == pardir:
                raise DataError(
                    f"{self.file}:{row['id']}: {row[name]!r} leads out of the folder of the table; "
                    "pictures lie beside it or in folders below"
                )
            try:
                there = (self.file.parent / row[name]).is_file()
            except (OSError, ValueError):
                there = False
            if not there:
                raise DataError(f"{self.file}:{row['id']}: there is no picture {row[name]!r}")

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = self.rows[index]
        item: dict[str, Any] = {
            name: value for name, value in row.items() if name not in ("image", "mask")
        }
        # Opened only now: a table of thousands of pictures is read in a moment.
        image = self.picture(row["image"], "RGB", row["id"])
        item["image"] = self.pixels(image)
        if "mask" in row:
            mask = self.picture(row["mask"], "L", row["id"])
            if shape_differs(image.size, mask.size):
                raise DataError(
                    f"{self.file}:{row['id']}: the mask has {mask.width} x {mask.height} pixels "
                    f"and the picture {image.width} x {image.height}: they must have one shape"
                )
            item["mask"] = self.pixels(mask)
        return item

    def picture(self, name: str, mode: str, line: str) -> Image.Image:
        where = f"{self.file}:{line}: {name!r}"
        try:
            data = read_bytes(self.file.parent / name, LARGEST_PICTURE)
        except DataError as error:
            raise DataError(f"{where} cannot be read ({error})") from None
        return decoded(data, where, mode)

    def pixels(self, image: Image.Image) -> Tensor:
        """`(channels, height, width)` in [0, 1]."""
        from PIL import Image, ImageOps

        height, width = self.size
        # Bicubic for masks too: their soft edges stay within [0, 1] once they are bytes.
        fitted = ImageOps.fit(image, (width, height), Image.Resampling.BICUBIC)
        pixels = torch.from_numpy(np.array(fitted, dtype=np.float32) / 255)
        return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)


def shape_differs(one: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether two sizes are not one shape at two scales, up to a pixel of rounding."""
    (width, height), (other_width, other_height) = one, other
    return abs(width * other_height - other_width * height) > max(*one, *other)


def read(file: Path) -> Iterator[dict[str, str]]:
    """The rows with their line numbers as `id`; DataError for a line unlike the first."""
    keys: set[str] | None = None
    for number, line in text_lines(file):
        row = parsed(line, f"{file}:{number}")
        # The first line decides which columns there are.
        keys = keys or set(row)
        # Columns of a batch have a value for every sample.
        if set(row) != keys:
            raise DataError(
                f"{file}:{number}: expected the keys of the first line "
                f"({', '.join(sorted(keys))}), got {', '.join(sorted(row))}"
            )
        yield row | {"id": str(number)}


def parsed(line: str, where: str) -> dict[str, str]:
    """One JSON object of texts with `image` and `prompt`."""
    try:
        row = parse(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: expected a JSON object on one line ({error})") from error
    known = {"image", "prompt", "mask", "group", *TEXTS}
    # A misspelt optional key would otherwise be a column that nothing reads.
    if not isinstance(row, dict) or not {"image", "prompt"} <= set(row) <= known:
        raise DataError(
            f"{where}: expected an object with `image`, `prompt` and maybe `mask`, `source`, "
            "`target`, `group`; got "
            f"{', '.join(map(str, row)) if isinstance(row, dict) else type(row).__name__}"
        )
    for name, value in row.items():
        check_text(value, f"{where}: ", name)
    return row


def check_text(value: Any, where: str, name: str) -> None:
    if not isinstance(value, str):
        raise DataError(f"{where}expected {name!r} to be text, got {type(value).__name__}")
    if not value.strip():
        raise DataError(f"{where}{name!r} is empty")


def held_out_pictures(pictures: list[str], count: int) -> set[str]:
    """Paths whose rows are `val`; all rows of a picture are on one side."""
    # Ordered by a hash, `val` is a random part that does not depend on the order of the file.
    names = sorted(set(pictures), key=lambda name: blake2b(name.encode()).digest())
    if count >= len(names) and count:
        raise DataError(f"held_out {count} leaves nothing of {len(names)} pictures to train on")
    return set(names[:count])
