"""Rows of prompt files: txt, CSV, JSONL, parquet, or a folder that the `datasets` library saved."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rewardft.errors import DataError, did_you_mean
from rewardft.files.lines import json_lines, text_lines
from rewardft.files.paths import LARGEST_TABLE, read_text

Row = Mapping[str, Any]
Rows = Iterator[tuple[str, Row]]  # where the row stands, as messages name it, and its columns
SAVED = ("state.json", "dataset_dict.json")


def read_rows(path: Path, columns: Sequence[str], split: str) -> Rows:
    """Every row of a source; `split` matters only to a folder that has splits of its own."""
    if path.is_dir():
        return read_saved(path, columns, split)
    if not path.is_file():
        raise DataError(
            f"{path}: no such file or folder; expected prompts as .txt, .csv, .jsonl, .parquet or "
            "a saved folder"
        )
    # By its ending alone: guessing a format from the content would guess wrong in silence.
    if path.suffix == ".txt":
        return read_txt(path, columns)
    if path.suffix == ".csv":
        return read_csv(path)
    if path.suffix == ".jsonl":
        return read_jsonl(path)
    if path.suffix == ".parquet":
        return read_parquet(path, columns)
    raise DataError(
        f"{path}: expected prompts as .txt, .csv, .jsonl or .parquet, got the suffix "
        f"{path.suffix!r}"
    )


def read_txt(path: Path, columns: Sequence[str]) -> Rows:
    """One prompt per line under the name of the first of the columns;
    blank lines are passed over."""
    if len(columns) > 1:
        raise DataError(
            f"{path}: a text file has no columns but the prompt; give {', '.join(columns[1:])} in "
            "a .csv or .jsonl"
        )
    for number, line in text_lines(path):
        yield f"{path}:{number}", {columns[0]: line.strip()}


def read_csv(path: Path) -> Rows:
    """The rows below a heading, every cell as text; a row stands where its first line does."""
    # With its line ends as they are: a quoted cell may hold some.
    reader = csv.reader(io.StringIO(read_text(path, LARGEST_TABLE), newline=""), strict=True)
    heading: list[str] = []
    line = 1
    try:
        for cells in reader:
            where, line = f"{path}:{line}", reader.line_num + 1
            if not heading:
                heading = check_heading(where, cells)
            elif len(cells) not in (0, len(heading)):
                raise DataError(
                    f"{where}: expected {len(heading)} cells, as the heading has, got {len(cells)}"
                )
            elif cells:
                yield where, dict(zip(heading, cells))
    except csv.Error as error:
        raise DataError(f"{path}:{line}: not valid CSV ({error})") from error


def check_heading(where: str, cells: list[str]) -> list[str]:
    names = [cell.strip() for cell in cells]
    if "" in names or len(set(names)) < len(names):
        raise DataError(f"{where}: the heading needs different names, got {', '.join(names)}")
    return names


def read_jsonl(path: Path) -> Rows:
    for number, row in json_lines(path, 'an object like {"prompt": "..."}'):
        yield f"{path}:{number}", row


def read_parquet(path: Path, columns: Sequence[str]) -> Rows:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise DataError(
            f'{path}: reading parquet needs pyarrow (pip install "rewardft[text2image]")'
        ) from error
    try:
        file = pyarrow.parquet.ParquetFile(path)
        check_columns(str(path), columns, file.schema_arrow.names)
        # Only the columns asked for: prompt sets often hold pictures beside the prompts.
        rows = file.read(columns=list(columns)).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a readable parquet file ({error})") from error
    yield from ((f"{path}, row {number}", row) for number, row in enumerate(rows))


def read_saved(path: Path, columns: Sequence[str], split: str) -> Rows:
    if not any((path / name).is_file() for name in SAVED):
        raise DataError(
            f"{path}: expected a folder that `save_to_disk` of the datasets library wrote, with "
            f"{' or '.join(SAVED)}"
        )
    try:
        import datasets
    except ImportError as error:
        raise DataError(
            f'{path}: reading it needs datasets (pip install "rewardft[text2image]")'
        ) from error
    try:
        # By the library that wrote it; its format changes between releases.
        table: Any = datasets.load_from_disk(str(path))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not readable by the datasets library ({error})") from error
    if has_splits(path):
        if split not in table:
            raise DataError(f"{path}: there is no split {split!r}.{did_you_mean(split, table)}")
        table = table[split]
    check_columns(str(path), columns, table.column_names)
    yield from (
        (f"{path}, row {number}", row)
        for number, row in enumerate(table.select_columns(list(columns)))
    )


def has_splits(path: Path) -> bool:
    """Whether a source has named splits of its own."""
    return (path / "dataset_dict.json").is_file()


def check_columns(where: str, wanted: Sequence[str], found: Sequence[str]) -> None:
    """Raises DataError for a column that is not there."""
    for name in wanted:
        if name not in found:
            raise DataError(f"{where}: there is no column {name!r}.{did_you_mean(name, found)}")


def check_free(component: str, columns: Sequence[str], taken: Mapping[str, str | None]) -> None:
    """Raises DataError for a column whose name an item uses for something else.

    taken: the names that items use, and the columns that they come from; None: from none.
    """
    for name in columns:
        if name in taken and taken[name] != name:
            raise DataError(
                f"{component}: items have a {name!r} of their own, which the column {name!r} would "
                "replace; rename it in the file"
            )
