"""Data sets of conditions: `prompts` and `class_labels`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rewardft.errors import DataError
from rewardft.files.paths import PathOrShipped
from rewardft.noise import keyed_seed
from rewardft.recipe.bounds import Count, CountOrZero

from .records import check_columns, has_splits, read_rows

SHIPPED = "shipped"  # in a recipe, in place of a path
ANIMALS = Path(__file__).parent / "assets" / "animals.txt"


class Prompts:
    """Prompts from a .txt, .jsonl or .parquet file, or from a folder that the `datasets` library
    saved.

    Items: id, prompt, and the requested columns.
    """

    def __init__(
        self,
        path: PathOrShipped,
        column: str = "prompt",
        columns: list[str] | None = None,
        id_column: str | None = None,
        split: str = "train",
        held_out: CountOrZero = 0,
        limit: Count | None = None,
    ) -> None:
        """Read and check every row.

        Args:
            path: one prompt per line (.txt), one object per line (.jsonl), a table (.parquet), or a
                saved folder; "shipped": 65 animals.
            column: the column that holds the prompt.
            columns: others that rewards, algorithms or models read, such as `label` or `group`;
                every row needs them.
            id_column: the column that names the sample; None: its number. Noise is drawn by it.
            split: `train` or `val`; the name of a split where a saved folder has splits of its own.
            held_out: how many different prompts make up `val`; chosen by a hash of the prompt, so
                that they stay the same when rows are moved, and most of them when rows are added.
            limit: only the first `limit` samples of the split.

        Raises:
            DataError: nothing can be read, a column is missing, a prompt is not text or is empty,
                two ids are equal, or the split is empty.
        """
        # A word and not a path, as recipes do not know where the package lies.
        self.path = ANIMALS if path == SHIPPED else Path(path).expanduser()
        if held_out < 0 or (limit is not None and limit < 1):
            raise DataError(
                f"prompts: expected held_out >= 0 and limit >= 1, got {held_out} and {limit}"
            )
        self.items = list(self.read(column, columns or [], id_column, split))
        # Before the split: two equal ids may be on different sides.
        self.check_ids(id_column)
        if not self.items:
            raise DataError(f"{self.path}: there are no prompts in it")
        if not has_splits(self.path):
            self.items = self.choose(split, held_out)
        elif held_out:
            raise DataError(
                f"{self.path} has splits of its own; leave `held_out` out and name one with `split`"
            )
        self.items = self.items[:limit]

    def read(
        self, column: str, columns: list[str], id_column: str | None, split: str
    ) -> Iterator[dict[str, Any]]:
        """The rows of the file, checked."""
        wanted = [column, *columns, *([] if id_column is None else [id_column])]
        for number, (where, row) in enumerate(read_rows(self.path, wanted, split)):
            check_columns(where, wanted, list(row))
            prompt = check_prompt(where, column, row[column])
            # By its place in the file, so that adding rows at the end changes no other sample's
            # noise.
            id_ = str(number) if id_column is None else str(row[id_column])
            yield {"id": id_, "prompt": prompt, **{name: row[name] for name in columns}}

    def choose(self, split: str, held_out: int) -> list[dict[str, Any]]:
        """The items of a split; equal prompts are on the same side."""
        if split not in ("train", "val"):
            raise DataError(f"{self.path}: expected `split: train` or `split: val`, got {split!r}")
        # A set first: a prompt that occurs twice must not be trained on and judged by.
        prompts = sorted(
            {item["prompt"] for item in self.items},
            key=lambda prompt: keyed_seed("held out", prompt),
        )
        if held_out >= len(prompts):
            raise DataError(
                f"{self.path}: cannot hold out {held_out} of {len(prompts)} different prompts"
            )
        if split == "val" and not held_out:
            raise DataError(
                f"{self.path}: `split: val` is empty; `held_out` says how many prompts it gets"
            )
        kept_apart = set(prompts[:held_out])
        return [item for item in self.items if (item["prompt"] in kept_apart) == (split == "val")]

    def check_ids(self, column: str | None) -> None:
        seen: set[str] = set()
        for item in self.items:
            if item["id"] in seen:
                raise DataError(
                    f"{self.path}: two rows have {item['id']!r} in the column {column!r}; ids must "
                    "differ"
                )
            seen.add(item["id"])

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        return self.items[index]


def check_prompt(where: str, column: str, value: Any) -> str:
    """The prompt without surrounding blanks."""
    if not isinstance(value, str):
        raise DataError(
            f"{where}: expected text in the column {column!r}, got {type(value).__name__}"
        )
    if not value.strip():
        raise DataError(f"{where}: the text in the column {column!r} is empty")
    return value.strip()


class ClassLabels:
    """Classes in turn, for class-conditional and unconditional models. Items: id, label, group
    (`class3`).

    Args:
        classes: how many classes there are.
        size: how many samples an epoch has.
        split: `train` or any other name; the noise of a sample depends on it.
    """

    def __init__(self, classes: Count = 10, size: Count = 1000, split: str = "train") -> None:
        if classes < 1 or size < 1:
            raise DataError(
                f"class_labels: expected classes >= 1 and size >= 1, got {classes} and {size}"
            )
        self.classes, self.size, self.split = classes, size, split

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        # Iterating over a sequence without __iter__ ends with an IndexError.
        if not 0 <= index < self.size:
            raise IndexError(index)
        label = index % self.classes
        return {"id": f"{self.split}/{index}", "label": label, "group": f"class{label}"}
