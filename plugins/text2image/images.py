"""`image_folder`: pictures with captions, to learn from directly or to edit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from rewardft.errors import DataError
from rewardft.files.json_text import is_whole
from rewardft.files.paths import read_text
from rewardft.files.pictures import SUFFIXES, decoded, read_inside
from rewardft.recipe.bounds import Count, CountOrZero

from .data import check_prompt, check_weight
from .records import Rows, check_columns, check_free, read_rows
from .splits import check_counts, choose_split

TABLES = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
NAME = "file_name"


class ImageFolder:
    """Pictures in a folder, with what a table beside them says of each.

    The table is `metadata.jsonl`, `.csv` or `.parquet`, as in the `imagefolder` layout of the
    `datasets` library: a row for each picture, with its path in the column `file_name`, relative to
    the folder. Pictures without a row are left out. Without a table, all pictures of the folder
    itself are taken, and the caption of NAME.png is the text in NAME.txt.

    Items: id (the path), image `(3, height, width)` in [0, 1], prompt, and the requested columns.
    Pictures are turned upright as their cameras say, laid over white where they are transparent,
    scaled to cover the size and cut in the middle.

    Args:
        path: the folder.
        height, width: of the pictures.
        column: of the table, with the captions; null: there are none, and no `prompt`.
        columns: others that models or rewards read, such as `label` or `group`.
        split: `train` or `val`.
        held_out: how many pictures make up `val`, chosen by a hash of their paths.
        limit: only the first `limit` pictures of the split.
        weight: the column of sampling weights >= 0, as in `prompts`.

    Raises DataError, with file and line, for a row that is wrong or whose picture is missing.
    """

    provides = frozenset({"training_targets"})

    def __init__(
        self,
        path: Path,
        height: Count = 512,
        width: Count = 512,
        column: str | None = "text",
        columns: list[str] | None = None,
        split: Literal["train", "val"] = "train",
        held_out: CountOrZero = 0,
        limit: Count | None = None,
        weight: str | None = None,
    ) -> None:
        check_counts("image_folder", held_out, limit)
        own = {"id": NAME, "image": None} | ({} if column is None else {"prompt": column})
        check_free("image_folder", columns or [], own)
        self.root, self.size = Path(path).expanduser(), (height, width)
        items = list(self.read(column, columns or [], weight))
        if not items:
            raise DataError(f"{self.root}: there are no pictures in it ({', '.join(SUFFIXES)})")
        check_names(items, self.root)
        self.items = choose_split(items, "id", split, held_out, self.root, "pictures")[:limit]
        self.sampling_weights = None if weight is None else [item[weight] for item in self.items]

    def read(
        self, column: str | None, columns: list[str], weight: str | None
    ) -> Iterator[dict[str, Any]]:
        """The rows, checked; pictures are opened when they are asked for."""
        named = [NAME, *(name for name in (column, weight) if name is not None)]
        wanted = list(dict.fromkeys([*named, *columns]))
        for where, row in self.rows(wanted, column):
            check_columns(where, wanted, list(row))
            name = check_prompt(where, NAME, row[NAME])
            check_there(self.root, name, where)
            item = {"id": name, **{key: row[key] for key in columns}}
            if column is not None:
                item["prompt"] = check_prompt(where, column, row[column])
            if weight is not None:
                item[weight] = check_weight(where, weight, row[weight])
            yield item

    def rows(self, wanted: list[str], column: str | None) -> Rows:
        """From the table, or from the folder where it has none."""
        if not self.root.is_dir():
            raise DataError(f"{self.root}: no such folder; expected one with pictures")
        tables = [name for name in TABLES if (self.root / name).is_file()]
        if len(tables) > 1:
            raise DataError(f"{self.root}: expected one table, got {' and '.join(tables)}")
        if tables:
            return read_rows(self.root / tables[0], wanted, "train")
        return plain_rows(self.root, column)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        item = self.items[index]
        where = f"{self.root}, picture {item['id']!r}"
        picture = decoded(read_inside(self.root, item["id"], where), where)
        return {**item, "image": to_pixels(picture, *self.size)}


def plain_rows(root: Path, column: str | None) -> Rows:
    """Every picture of a folder, with the text file beside it."""
    for path in sorted(root.iterdir()):
        if path.suffix.lower() not in SUFFIXES:
            continue
        row = {NAME: path.name}
        caption = path.with_suffix(".txt")
        if column is not None:
            if not caption.is_file():
                raise DataError(
                    f"{path}: there is no caption {caption.name} beside it and no "
                    f"{TABLES[0]} in the folder; with `column: null` none is needed"
                )
            row[column] = read_text(caption)
        yield str(path), row


def check_there(root: Path, name: str, where: str) -> None:
    """A picture that is missing is found at the start, not in the middle of a run."""
    try:
        there = (root / name).is_file()
    except (OSError, ValueError):
        there = False
    if not there:
        raise DataError(f"{where}: there is no picture {name!r}")


def check_names(items: list[dict[str, Any]], root: Path) -> None:
    """Paths are the samples' ids, by which their noise is drawn."""
    seen: set[str] = set()
    for item in items:
        # Of another encoding than UTF-8, as old archives have them.
        if not is_whole(item["id"]):
            raise DataError(
                f"{root}: the name of the picture {item['id']!r} is not UTF-8; rename it"
            )
        if item["id"] in seen:
            raise DataError(f"{root}: two rows are of the picture {item['id']!r}")
        seen.add(item["id"])


def to_pixels(picture: Any, height: int, width: int) -> Tensor:
    """`(3, height, width)` in [0, 1]."""
    from PIL import Image, ImageOps

    fitted = ImageOps.fit(picture, (width, height), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(fitted, dtype=np.float32) / 255).permute(2, 0, 1)
