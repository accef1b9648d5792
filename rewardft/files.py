"""Files as every part of the program writes them: whole or not at all;
JSON as the standard has it, with null for NaN."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rewardft.errors import CheckpointError


def encode(value: Any, indent: int | None = None) -> str:
    """`value` as JSON that every reader takes; a number that is not finite becomes null."""
    return json.dumps(_null_for_nan(value), indent=indent, allow_nan=False)


def nan_for_null(value: Any) -> Any:
    """What `encode` wrote, with NaN in the place of null: for values that hold numbers alone."""
    if value is None:
        return math.nan
    if isinstance(value, dict):
        return {key: nan_for_null(item) for key, item in value.items()}
    return [nan_for_null(item) for item in value] if isinstance(value, list) else value


def _null_for_nan(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _null_for_nan(item) for key, item in value.items()}
    return [_null_for_nan(item) for item in value] if isinstance(value, (list, tuple)) else value


def write_folder(path: Path, fill: Callable[[Path], None]) -> None:
    """Fill a temporary sibling, flush it to disk and rename it to `path`;
    an old `path` is replaced."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        fill(temporary)
        for file in temporary.iterdir():
            flush(file)
        flush(temporary)
        swap_in(temporary, path)
        flush(path.parent)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise CheckpointError(
            f"{path}: could not be written ({error}). What was saved before is untouched."
        ) from error


def swap_in(temporary: Path, path: Path) -> None:
    """rename() cannot replace a folder that is not empty, so the old one steps aside first."""
    old = path.with_name(f".{path.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if path.exists():
        os.rename(path, old)
    os.rename(temporary, path)
    shutil.rmtree(old, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Replace a file in one step."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        flush(temporary)
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise CheckpointError(f"{path}: could not be written ({error})") from error


def flush(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
