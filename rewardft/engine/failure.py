"""The one way in which a run fails, whatever was raised, wherever: what can be saved is saved, what
was measured is told, and the error that is raised says the cause and its place."""

from __future__ import annotations

import errno
import os
import re
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rewardft.engine.processes import gather_objects
from rewardft.errors import CheckpointError, ComponentError, PeerError, exit_called, place_of_error

# What a component cannot be at fault for: the disk is full or gone, or may not be written.
DISK = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.EIO,
    errno.EFBIG,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.ESTALE,
}
LOST = re.compile(r"gloo|nccl|connection (closed|reset|refused)|socket", re.IGNORECASE)
PATIENCE = 5.0  # seconds in which a process that has failed writes down why


def rescue(error: BaseException, *attempts: Callable[[], object]) -> None:
    """Make every attempt; one that fails is noted on `error`, which it never replaces."""
    for attempt in attempts:
        try:
            attempt()
        except Exception as second:
            notes = "; ".join([repr(second), *getattr(second, "__notes__", [])])
            error.add_note(f"while this error was reported, another came up: {notes}")


def explain(error: BaseException, folder: Path, peers: Peers, interrupted: bool) -> BaseException:
    """The error that says what has happened: `error` itself, or one that it is the cause of.

    interrupted: whether a user has ended the run at once, which a KeyboardInterrupt then says.
    """
    if isinstance(error, SystemExit):
        return ComponentError(exit_called(error))
    if isinstance(error, KeyboardInterrupt) and not interrupted:
        return ComponentError(
            f"KeyboardInterrupt was raised at {place_of_error(error)}, and nobody has interrupted "
            "the run. A component must raise an error that says what is wrong."
        )
    if isinstance(error, OSError) and error.errno in DISK and is_inside(error.filename, folder):
        return CheckpointError(
            f"{error.filename}: could not be written ({error.strerror}). What was saved "
            "before is untouched: make room or mend the folder's permissions, then --resume."
        )
    if isinstance(error, RuntimeError) and LOST.search(str(error)):
        cause = peers.cause(folder)
        return error if cause is None else PeerError(cause)
    return error


def is_inside(name: Any, folder: Path) -> bool:
    """Whether a file is in `folder`; False for one that the system does not name."""
    return name is not None and Path(os.fsdecode(name)).absolute().is_relative_to(folder.absolute())


@dataclass(frozen=True)
class Peer:
    """Another process of the run."""

    rank: int
    host: str
    pid: int

    @property
    def is_gone(self) -> bool:
        """Whether it has ended; False where that cannot be known, on another machine."""
        if self.host != socket.gethostname():
            return False
        try:
            stat = Path(f"/proc/{self.pid}/stat").read_text()
            return stat.rpartition(")")[2].split()[0] in "ZX"
        except OSError:
            return not Path("/proc").is_dir() or not Path(f"/proc/{self.pid}").exists()


class Peers:
    """The other processes: which of them has failed, and why, when this one has lost its
    connection."""

    def __init__(self, accelerator: Any) -> None:
        own = Peer(accelerator.process_index, socket.gethostname(), os.getpid())
        self.others: Sequence[Peer] = [p for p in gather_objects(accelerator, own) if p != own]
        self.since = time.time()

    def cause(self, folder: Path) -> str | None:
        """A sentence about the process that failed; None when none of them seems to have."""
        deadline = time.monotonic() + PATIENCE
        gone: list[Peer] = []
        while self.others and not gone and time.monotonic() < deadline:
            time.sleep(0.1)
            gone = [peer for peer in self.others if peer.is_gone]
            for peer in self.others:
                if said := last_words(error_file(folder, peer.rank), self.since):
                    return f"process {peer.rank} failed, and with it the run: {said}"
        if not gone:
            return None
        named = ", ".join(f"process {peer.rank} (pid {peer.pid})" for peer in gone)
        return (
            f"{named} is gone without a word, and with it the run: it was killed, perhaps because "
            "memory ran out. The system's log may say more."
        )


def error_file(folder: Path, rank: int) -> Path:
    """Where a process writes down why the run failed."""
    return folder / (f"error-process{rank}.txt" if rank else "error.txt")


def last_words(path: Path, since: float) -> str | None:
    """The error in a file that was written after `since`, a time as files have it; None without
    one."""
    try:
        if path.stat().st_mtime < since:
            return None
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    errors = [line for line in lines[1:] if line[:1].isalpha() and ": " in line]
    return errors[0] if errors else None
