"""Pairs of a better and a worse image, from folders, a JSONL file or a parquet file.

    folder    winner/NAME.png and loser/NAME.png with the same NAME (any image suffix); optional
              NAME.txt beside the winner holds the prompt
    .jsonl    one object per line; an image is a path relative to the file, or {"base64": "..."}
    .parquet  one row per pair; an image is a path, encoded bytes, or a struct with `bytes` and
              `path` (needs pyarrow)

Other fields of a line or row that are text or numbers become columns of the batch, such as `prompt`
or `label`. What cannot be read is a DataError that names the file and the line: nothing is skipped,
and no image comes from outside the folder.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from rewardft_plugins.dpo.pictures import load_image

from rewardft.errors import DataError
from rewardft.files.lines import json_lines
from rewardft.files.paths import read_text
from rewardft.files.pictures import SUFFIXES
from rewardft.recipe.bounds import Count
from rewardft.testing.tiny import TinyBlobs

Record = dict[str, Any]


class PreferencePairs:
    """Items: id, winner and loser `(3, size, size)` in [0, 1], and the source's other fields.

    Args:
        path: a folder, a `.jsonl` or a `.parquet` file.
        size: images are scaled so that the shorter side has `size` pixels, and cropped to the
            middle square.
        winner, loser: names of the fields (or sub-folders) with the images.
        preference: a field with numbers: 1 the winner is as named, 0 the two change places, 0.5
            neither was preferred and the pair is left out. For Pick-a-Pic: winner jpg_0, loser
            jpg_1, preference label_0.
        limit: use the first `limit` pairs only.
    """

    provides = frozenset({"pairs"})

    def __init__(
        self,
        path: Path,
        size: Count = 512,
        winner: str = "winner",
        loser: str = "loser",
        preference: str | None = None,
        limit: Count | None = None,
    ) -> None:
        if size < 1 or (limit is not None and limit < 1):
            raise DataError(
                f"preference_pairs: size and limit must be at least 1, got {size} and {limit}"
            )
        self.path, self.size, self.sides = Path(path), size, (winner, loser)
        self.root = self.path if self.path.is_dir() else self.path.parent
        records = ordered(read_records(self.path, winner, loser), self.path, self.sides, preference)
        # Read and checked at once, pictures excepted: a bad line shows before training, not in it.
        self.records = check_ids([r for r in records if r is not None][:limit], self.path)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        record = self.records[index]
        where = f"{self.path}, pair {record['id']!r}"
        images = {
            name: load_image(record[side], self.root, self.size, f"{where}, {side!r}")
            for name, side in zip(("winner", "loser"), self.sides)
        }
        rest = {
            k: v
            # Lists and objects have no obvious way into a batch.
            for k, v in record.items()
            if k not in self.sides and isinstance(v, (str, int, float))
        }
        return {**rest, **images}


class ToyPairs(TinyBlobs):
    """The tiny model's blobs in pairs: the winner brightened, the loser darkened; also id, label
    and group.

    Args:
        size: number of pairs.
        split: train or val.
    """

    provides = frozenset({"pairs"})

    def __init__(self, size: Count = 64, split: Literal["train", "val"] = "train") -> None:
        super().__init__(size, split)

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        item = dict(super().__getitem__(index))
        image = item.pop("image")
        return {**item, "winner": 0.6 + 0.4 * image, "loser": 0.4 * image}


# -- records ---------------------------------------------------------------------------------------


def read_records(path: Path, winner: str, loser: str) -> Iterator[Record]:
    """Every pair of the source, its images not yet decoded."""
    if path.is_dir():
        return read_folder(path, winner, loser)
    if not path.is_file():
        raise DataError(
            f"{path}: no such file or folder; expected a folder, a .jsonl or a .parquet file of "
            "pairs"
        )
    # By its ending alone: guessing a format from the content would guess wrong in silence.
    if path.suffix == ".jsonl":
        return read_jsonl(path)
    if path.suffix == ".parquet":
        return read_parquet(path)
    raise DataError(
        f"{path}: expected a folder, a .jsonl or a .parquet file of pairs, got the suffix "
        f"{path.suffix!r}"
    )


def read_folder(path: Path, winner: str, loser: str) -> Iterator[Record]:
    sides = {side: images_in(path / side) for side in (winner, loser)}
    # By name and in both directions: a pair with one picture is no pair.
    alone = sorted(sides[winner].keys() ^ sides[loser].keys())
    if alone:
        raise DataError(
            f"{path}: every image needs its counterpart of the same name in {winner}/ and "
            f"{loser}/; {len(alone)} have none, the first is {alone[0]!r}"
        )
    for name in sorted(sides[winner]):
        record: Record = {
            "id": name,
            **{side: str(images[name].relative_to(path)) for side, images in sides.items()},
        }
        prompt = sides[winner][name].with_suffix(".txt")
        if prompt.is_file():
            record["prompt"] = read_text(prompt).strip()
        yield record


def images_in(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise DataError(
            f"{folder}: no such folder; a folder of pairs has one sub-folder for each side"
        )
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in SUFFIXES:
            continue
        if path.stem in found:
            raise DataError(
                f"{folder}: {found[path.stem].name} and {path.name} belong to one pair; give each "
                "picture a name of its own"
            )
        found[path.stem] = path
    return found


def read_jsonl(path: Path) -> Iterator[Record]:
    for number, record in json_lines(path, "an object with two images"):
        # The record's own id, where it has one, replaces the line's number.
        yield {"id": str(number), **record}


def read_parquet(path: Path) -> Iterator[Record]:
    """The whole file is held in memory, images encoded; large sets are better given as paths."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise DataError(
            f"{path}: reading parquet needs the package pyarrow (pip install pyarrow)"
        ) from error
    try:
        rows = pyarrow.parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a readable parquet file ({error})") from error
    for number, row in enumerate(rows):
        yield {"id": str(number), **row}


def ordered(
    records: Iterator[Record], path: Path, sides: tuple[str, str], preference: str | None
) -> Iterator[Record | None]:
    """Records with the better image under the winner's name; None for pairs without a
    preference."""
    for record in records:
        missing = [
            name for name in (*sides, preference) if name is not None and record.get(name) is None
        ]
        if missing:
            raise DataError(
                f"{path}, pair {record['id']!r}: the field {missing[0]!r} is missing; it has "
                f"{', '.join(record)}"
            )
        # Without a preference column the winner is as it is named.
        yield record if preference is None else arrange(record, path, sides, preference)


def arrange(record: Record, path: Path, sides: tuple[str, str], preference: str) -> Record | None:
    value, (winner, loser) = record[preference], sides
    # A rating or a probability would otherwise be taken for a vote.
    if value not in (0, 0.5, 1):
        raise DataError(
            f"{path}, pair {record['id']!r}: {preference!r} must be 0, 0.5 or 1, got {value!r}"
        )
    if value == 0.5:
        return None
    return record if value == 1 else {**record, winner: record[loser], loser: record[winner]}


def check_ids(records: list[Record], path: Path) -> list[Record]:
    """Ids are the key of a pair's noise: text, and unique."""
    seen: set[str] = set()
    for record in records:
        record["id"] = str(record["id"])
        # Two pairs under one id would be noised alike.
        if record["id"] in seen:
            raise DataError(f"{path}: two pairs have the id {record['id']!r}; ids must be unique")
        seen.add(record["id"])
    if not records:
        raise DataError(f"{path}: there are no pairs in it")
    return records
