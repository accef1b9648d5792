"""Text files line by line, as users write them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rewardft.errors import DataError
from rewardft.files.json_text import parse
from rewardft.files.paths import LARGEST_TABLE, read_bytes


def text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a UTF-8 file that are not blank, with their numbers.

    Raises DataError, with file and line, for one that cannot be read.
    """
    raw = read_bytes(path, LARGEST_TABLE)
    try:
        # With or without the mark that some editors put first, which would be in the first line.
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        number = error.object[: error.start].count(b"\n") + 1
        raise DataError(f"{path}:{number}: expected UTF-8 ({error.reason})") from error
    # Not splitlines: it also cuts at U+2028 and others, which JSON strings may contain.
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    yield from ((number, line) for number, line in enumerate(lines, 1) if line.strip())


def json_lines(path: Path, wanted: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a .jsonl file, with the numbers of their lines.

    wanted: what a line should be, for the message of the DataError that names the line.
    """
    for number, line in text_lines(path):
        try:
            value = parse(line)
        # Deep nesting exhausts the parser's recursion, which is an error of the file too.
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}:{number}: not valid JSON ({error})") from error
        if not isinstance(value, dict):
            got = type(value).__name__
            raise DataError(f"{path}:{number}: expected {wanted}, got {got}")
        yield number, value
