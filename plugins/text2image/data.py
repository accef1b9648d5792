"""Data sets of conditions: `prompts` and `class_labels`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rewardft.errors import DataError
from rewardft.files.paths import PathOrShipped
from rewardft.recipe.bounds import Count, CountOrZero

from .records import check_columns, check_free, has_splits, read_rows
from .splits import check_counts, choose_split

SHIPPED = "shipped"  # in a recipe, in place of a path
ANIMALS = Path(__file__).parent / "assets" / "animals.txt"


class Prompts:
    """Prompts from a .txt, .csv, .jsonl or .parquet file, or from a folder that the `datasets`
    library saved.

    Items: id, prompt, and the requested columns. The cells of a .csv are text.
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
        weight: str | None = None,
    ) -> None:
        """Read and check every row.

        Args:
            path: one prompt per line (.txt), a table with a heading (.csv), one object per line
                (.jsonl), a table (.parquet), or a saved folder; "shipped": 65 animals.
            column: the column that holds the prompt.
            columns: others that rewards, algorithms or models read, such as `label` or `group`;
                every row needs them.
            id_column: the column that names the sample; None: its number. Noise is drawn by it.
            split: `train` or `val`; the name of a split where a saved folder has splits of its own.
            held_out: how many different prompts make up `val`; chosen by a hash of the prompt, so
                that they stay the same when rows are moved, and most of them when rows are added.
            limit: only the first `limit` samples of the split.
            weight: the column of sampling weights >= 0: training draws a row of twice the weight
                twice as often. Evaluations take each row once.

        Raises:
            DataError: nothing can be read, a column is missing, a prompt is not text or is empty, a
                weight is negative or not finite, two ids are equal, or the split is empty.
        """
        # A word and not a path, as recipes do not know where the package lies.
        self.path = ANIMALS if path == SHIPPED else Path(path).expanduser()
        check_counts("prompts", held_out, limit)
        check_free("prompts", columns or [], {"id": id_column, "prompt": column})
        self.items = list(self.read(column, columns or [], id_column, split, weight))
        # Before the split: two equal ids may be on different sides.
        self.check_ids(id_column)
        self.items = self.choose(split, held_out)[:limit]
        self.sampling_weights = None if weight is None else [item[weight] for item in self.items]

    def read(
        self, column: str, columns: list[str], id_column: str | None, split: str, weight: str | None
    ) -> Iterator[dict[str, Any]]:
        """The rows of the file, checked."""
        named = [name for name in (id_column, weight) if name is not None]
        # Each once: a column may have two uses.
        wanted = list(dict.fromkeys([column, *columns, *named]))
        for number, (where, row) in enumerate(read_rows(self.path, wanted, split)):
            check_columns(where, wanted, list(row))
            prompt = check_prompt(where, column, row[column])
            # By its place in the file, so that adding rows at the end changes no other sample's
            # noise.
            id_ = str(number) if id_column is None else str(row[id_column])
            item = {**{name: row[name] for name in columns}, "id": id_, "prompt": prompt}
            if weight is not None:
                item[weight] = check_weight(where, weight, row[weight])
            yield item

    def choose(self, split: str, held_out: int) -> list[dict[str, Any]]:
        """The items of a split; equal prompts are on the same side."""
        if not self.items:
            raise DataError(f"{self.path}: there are no prompts in it")
        if has_splits(self.path):
            if held_out:
                raise DataError(
                    f"{self.path} has splits of its own; leave `held_out` out and name one with "
                    "`split`"
                )
            return self.items
        return choose_split(self.items, "prompt", split, held_out, self.path, "prompts")

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


def check_weight(where: str, column: str, value: Any) -> float:
    """A finite number >= 0, or the text of one, which is what a .csv has."""
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    # NaN is not >= 0.
    if not 0 <= number < math.inf:
        raise DataError(
            f"{where}: expected a finite weight >= 0 in the column {column!r}, got {value!r:.60}"
        )
    return number


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
