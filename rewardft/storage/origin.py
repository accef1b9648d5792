"""Everything outside the recipe that determines a run: processes, plugins' code, data."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rewardft.errors import CheckpointError

LOG = logging.getLogger(__name__)
# Reading a data set of terabytes at every start would take longer than many runs.
WHOLE = 64 * 1024**2  # bytes of a file that are hashed; of a larger one, the ends and the size
ENDS = 1024**2
MANY = 10_000  # files of a folder that are read; of more, the names and sizes


@dataclass(frozen=True)
class Origin:
    """processes: how many train together.
    plugin_files: SHA-256 of each file plugin's sources.
    data: SHA-256 of each file and folder that the data section and `adapter.init` name."""

    processes: int
    plugin_files: Mapping[str, str]
    data: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """As checkpoints keep it."""
        return {
            "processes": self.processes,
            "plugin_files": dict(self.plugin_files),
            "data": dict(self.data),
        }


def check_same_origin(
    before: Mapping[str, Any], now: Origin, allow_changed_plugins: bool
) -> list[str]:
    """The file plugins that are not those of the checkpoint.

    before: what `Origin.to_json` gave when it was saved. Raises CheckpointError for other
    processes, other data, and, unless they are allowed, for other plugins.
    """
    # A checkpoint that does not say is not refused for it.
    processes = before.get("processes", now.processes)
    if processes != now.processes:
        raise CheckpointError(
            f"the checkpoint was saved by a run of {processes} processes, and this one has "
            f"{now.processes}: each takes data.batch_size samples a step, so resuming would not "
            f"continue the same run. Start {processes}, or a new run with another --out."
        )
    old = before.get("data", {})
    # Only what the checkpoint lists can have changed.
    changed = [path for path, digest in now.data.items() if old.get(path, digest) != digest]
    if changed:
        raise CheckpointError(
            f"the data have changed since the checkpoint was saved: {', '.join(changed)}. Resuming "
            "would not continue the same run. Restore them, or start a new run with another --out."
        )
    return check_same_plugins(
        before.get("plugin_files", {}), now.plugin_files, allow_changed_plugins
    )


def check_same_plugins(
    before: Mapping[str, str], now: Mapping[str, str], allowed: bool
) -> list[str]:
    """The file plugins that are not those of the checkpoint; raises CheckpointError for them unless
    `allowed`."""
    changed = [file for file, digest in now.items() if before.get(file) != digest]
    if not changed:
        return []
    text = f"edited since the checkpoint was saved: {', '.join(changed)}"
    if not allowed:
        raise CheckpointError(
            f"{text}. Resuming would not continue the same run. Restore the code, or continue with "
            "the new one by --resume --allow-changed-plugins."
        )
    LOG.warning("%s; going on with the new code", text)
    return changed


def data_digests(options: Mapping[str, Any], base: Path) -> dict[str, str]:
    """SHA-256 of every file and folder that an option names, by its path; `base`: what relative
    paths start from."""
    # Any text may be a path; that it exists is what tells.
    paths = [base / value for value in options.values() if isinstance(value, (str, Path)) and value]
    return {str(path): digest(path) for path in paths if exists(path)}


def exists(path: Path) -> bool:
    """False as well for text that cannot be a path."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def digest(path: Path) -> str:
    """SHA-256 of a file, or of the names and contents below a folder; cheap for large ones."""
    total = hashlib.sha256()
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    for file in files:
        # Relative, so that a folder that was moved as a whole is still the same data.
        total.update(f"{file.relative_to(path.parent)}:{file.stat().st_size}\n".encode())
        if len(files) <= MANY:
            for block in contents(file):
                total.update(block)
    return total.hexdigest()


def contents(file: Path) -> Iterator[bytes]:
    """All of a file, or the first and the last of a large one."""
    with file.open("rb") as stream:
        if file.stat().st_size <= WHOLE:
            while block := stream.read(ENDS):
                yield block
            return
        yield stream.read(ENDS)
        stream.seek(-ENDS, 2)
        yield stream.read(ENDS)
