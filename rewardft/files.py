"""Files as every part of the program writes them: whole or not at all;
JSON as the standard has it, with null for NaN."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rewardft.errors import CheckpointError
from rewardft.paths import reason

MOST_DIGESTS = 2000  # that are kept
MARK = ".rewardft"  # in a folder that was made here and may be replaced


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


def write_folder(path: Path, fill: Callable[[Path], None], mark: str = MARK) -> None:
    """Fill a temporary sibling, flush it to disk and rename it to `path`.

    An old `path` is replaced where it has the file `mark`, which says that it was made here.
    Raises CheckpointError where it has none: it is somebody else's.
    """
    check_own(path, mark)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        fill(temporary)
        if mark == MARK:
            (temporary / MARK).write_text("made by rewardft, which may replace this folder\n")
        for file in temporary.iterdir():
            flush(file)
        flush(temporary)
        swap_in(temporary, path, mark)
        flush(path.parent)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise CheckpointError(
            f"{path}: could not be written ({error}). What was saved before is untouched."
        ) from error


def swap_in(temporary: Path, path: Path, mark: str = MARK) -> None:
    """rename() cannot replace a folder that is not empty, so the old one steps aside first."""
    old = aside(path, mark)
    if path.exists():
        os.rename(path, old)
    os.rename(temporary, path)
    shutil.rmtree(old, ignore_errors=True)


def remove_folder(path: Path, mark: str = MARK) -> None:
    """All of it or nothing: it is renamed before it is deleted, so that a kill leaves no half of it
    in its place. Raises CheckpointError for a folder without the file `mark`."""
    check_own(path, mark)
    old = aside(path, mark)
    if path.exists():
        os.rename(path, old)
        shutil.rmtree(old)


def aside(path: Path, mark: str) -> Path:
    """Where a folder goes before it is deleted; what a kill left there is removed."""
    old = path.with_name(f".{path.name}.old")
    check_own(old, mark)
    shutil.rmtree(old, ignore_errors=True)
    return old


def check_own(path: Path, mark: str) -> None:
    """Raises CheckpointError unless a folder may be replaced: absent, empty, or made here."""
    if not os.path.lexists(path):
        return
    plain = path.is_dir() and not path.is_symlink()
    if not plain or not ((path / mark).is_file() or not any(path.iterdir())):
        raise CheckpointError(
            f"{path} is in the way and was not made by rewardft (there is no {mark} in it), so it "
            "is neither replaced nor deleted. Move it, or give another folder."
        )


def write_text(path: Path, text: str) -> None:
    """Replace a file in one step."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        flush(temporary)
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise CheckpointError(f"{path}: could not be written ({reason(error)})") from error


def read_object(path: Path, keys: Mapping[str, type], mend: str) -> dict[str, Any]:
    """The JSON object in a file that a run wrote.

    Args:
        keys: what must be in it, and of which type.
        mend: what to do about a file that is damaged, as a sentence.

    Raises CheckpointError for a file that is cut short, or is none that a run wrote.
    """
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path}: damaged, or not written by a run ({error}). {mend}"
        ) from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: expected an object, got {value!r:.60}. {mend}")
    for key, kind in keys.items():
        if not isinstance(value.get(key), kind):
            got = f"got {value[key]!r:.60}" if key in value else "it is not there"
            wanted = f"expected {key!r} ({kind.__name__})"
            raise CheckpointError(f"{path}: damaged: {wanted}, {got}. {mend}")
    return value


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


def sha256_once(path: Path) -> str:
    """`sha256` of a large file, computed once per machine for as long as it is not changed.

    What is known is kept in the user's cache, by path, size, inode and time of change; where that
    cannot be written, the digest is computed each time.
    """
    facts = path.stat()
    key = (
        f"{path.absolute()}|{facts.st_size}|{facts.st_ino}|{facts.st_ctime_ns}|{facts.st_mtime_ns}"
    )
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    cache = Path(home).expanduser() / "rewardft" / "sha256.json"
    known = _read_digests(cache)
    if key not in known:
        known[key] = sha256(path)
        with contextlib.suppress(OSError, CheckpointError):
            cache.parent.mkdir(parents=True, exist_ok=True)
            write_text(cache, json.dumps(dict(list(known.items())[-MOST_DIGESTS:])))
    return known[key]


def _read_digests(cache: Path) -> dict[str, str]:
    """What an earlier call wrote; nothing where it is damaged, for it can be computed again."""
    try:
        found = json.loads(cache.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    sound = isinstance(found, dict) and all(isinstance(value, str) for value in found.values())
    return found if sound else {}
