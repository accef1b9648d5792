"""Files and folders as every part of the program writes them: whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from safetensors import SafetensorError

from rewardft.errors import CheckpointError
from rewardft.files.paths import reason

MARK = ".rewardft"  # in a folder that was made here and may be replaced


def write_folder(path: Path, fill: Callable[[Path], None], mark: str = MARK) -> None:
    """Fill a temporary sibling, flush it to disk and rename it to `path`.

    An old `path` is replaced where it has the file `mark`, which says that it was made here.
    Raises CheckpointError where it has none: it is somebody else's.
    """
    # First: what could not be put there need not be computed.
    check_own(path, mark)
    # A sibling: a rename is atomic only within one file system.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        fill(temporary)
        if mark == MARK:
            (temporary / MARK).write_text("made by rewardft, which may replace this folder\n")
        # Contents before the name: after a power cut there is no empty file under it.
        for file in temporary.rglob("*"):
            flush(file)
        flush(temporary)
        swap_in(temporary, path, mark)
        # The rename itself is a change of the parent.
        flush(path.parent)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if not isinstance(error, OSError):
            raise
        raise CheckpointError(
            f"{path}: could not be written ({error}). What was saved before is untouched."
        ) from error


def make_folder(path: Path) -> None:
    """Make a folder, and those above it; raises CheckpointError where that cannot be done."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    # FileExistsError: there is a file of that name.
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot be a folder to write to ({reason(error)}). Give another one."
        ) from error


def swap_in(temporary: Path, path: Path, mark: str) -> None:
    """rename() cannot replace a folder that is not empty, so the old one steps aside first."""
    old = aside(path, mark)
    # Between the two renames nothing is at `path`; both folders are whole beside it.
    if path.exists():
        os.rename(path, old)
    os.rename(temporary, path)
    shutil.rmtree(old, ignore_errors=True)


def remove_folder(path: Path, mark: str) -> None:
    """All of it or nothing: it is renamed before it is deleted, so that a kill leaves no half of it
    in its place. Raises CheckpointError for a folder without the file `mark`."""
    check_own(path, mark)
    old = aside(path, mark)
    if path.exists():
        os.rename(path, old)
        shutil.rmtree(old)


def aside(path: Path, mark: str) -> Path:
    """Where a folder goes before it is deleted; what a kill left there is removed."""
    # Hidden, so that nothing that lists checkpoints or runs takes it for one.
    old = path.with_name(f".{path.name}.old")
    check_own(old, mark)
    # After a kill between the two renames `old` is all there is of it: back to its place.
    if old.exists() and not path.exists():
        os.rename(old, path)
    shutil.rmtree(old, ignore_errors=True)
    return old


def check_own(path: Path, mark: str) -> None:
    """Raises CheckpointError unless a folder may be replaced: absent, empty, or made here."""
    # lexists: a broken link is in the way too.
    if not os.path.lexists(path):
        return
    plain = path.is_dir() and not path.is_symlink()
    if not plain or not ((path / mark).is_file() or not any(path.iterdir())):
        raise CheckpointError(
            f"{path} is in the way and was not made by rewardft (there is no {mark} in it), so it "
            "is neither replaced nor deleted. Move it, or give another folder."
        )


def write_text(path: Path, text: str) -> None:
    """Replace a file of UTF-8 text in one step."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """Replace a file in one step. Raises CheckpointError where that cannot be done."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file to write in place of `path`, which it replaces at the end: complete or absent.

    For libraries that write files themselves. Raises CheckpointError where `path` cannot be
    written; nothing is left of an attempt that failed.
    """
    # By the numbers of process and thread: two of them may write the same file.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        # Readers see the old file or the new one, never a part of either.
        yield temporary
        flush(temporary)
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            # On a full disk what is left of the attempt would keep it full.
            temporary.unlink(missing_ok=True)
        # safetensors reports the system's errors as its own, with their text.
        if isinstance(error, (OSError, SafetensorError)):
            raise CheckpointError(f"{path}: could not be written ({reason(error)})") from error
        raise


def flush(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
