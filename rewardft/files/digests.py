"""SHA-256 of files, remembered for large ones."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path

from rewardft.errors import CheckpointError
from rewardft.files.atomic import write_text

MOST_DIGESTS = 2000  # that are kept


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
    try:
        cache = cache_folder() / "sha256.json"
    except RuntimeError:
        return sha256(path)
    known = _read_digests(cache)
    if key not in known:
        # Weights of gigabytes: minutes of reading that an unchanged file need not cost again.
        known[key] = sha256(path)
        # A cache that cannot be written only costs time.
        with contextlib.suppress(OSError, CheckpointError):
            cache.parent.mkdir(parents=True, exist_ok=True)
            write_text(cache, json.dumps(dict(list(known.items())[-MOST_DIGESTS:])))
    return known[key]


def cache_folder() -> Path:
    """Where a user keeps what can be found again. Raises RuntimeError for one without a home, as in
    some containers."""
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(home).expanduser() / "rewardft"


def _read_digests(cache: Path) -> dict[str, str]:
    """What an earlier call wrote; nothing where it is damaged, for it can be computed again."""
    try:
        found = json.loads(cache.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    sound = isinstance(found, dict) and all(isinstance(value, str) for value in found.values())
    return found if sound else {}
