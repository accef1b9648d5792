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
from rewardft.errors import (
    CheckpointError,
    ComponentError,
    PeerError,
    ended_by,
    ends_commands,
    exit_called,
    place_of_error,
)

# The disk's fault, not a component's: it is full, gone or not writable. ENOENT and ENOTDIR are of a
# folder that was removed during the run, ESTALE of a network mount.
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
# torch reports a lost connection as a plain RuntimeError; only its text tells.
LOST = re.compile(r"gloo|nccl|connection (closed|reset|refused)|socket", re.IGNORECASE)
PROC = Path("/proc")  # Linux has it, macOS does not
PATIENCE = 5.0  # seconds that a failed process gets to write down why


def rescue(error: BaseException, *attempts: Callable[[], object]) -> None:
    """Make every attempt; one that fails is noted on `error`, which it never replaces."""
    for attempt in attempts:
        try:
            attempt()
        except Exception as second:
            notes = "; ".join([repr(second), *getattr(second, "__notes__", [])])
            # The first error is the cause; a second one raised in its place would hide it.
            error.add_note(f"while this error was being reported, another occurred: {notes}")


def explain(error: BaseException, folder: Path, peers: Peers, interrupted: bool) -> BaseException:
    """The error that says what has happened: `error` itself, or one that it is the cause of.

    interrupted: whether a user has ended the run at once, which a KeyboardInterrupt then says.
    """
    # Let through, `sys.exit(0)` in a component would end a broken run with the status of success.
    if isinstance(error, SystemExit):
        return ComponentError(exit_called(error))
    if ends_commands(error):
        return ComponentError(ended_by(error))
    if isinstance(error, KeyboardInterrupt) and not interrupted:
        return ComponentError(
            f"KeyboardInterrupt was raised at {place_of_error(error)}, and no user interrupted "
            "the run. A component must raise an error that says what is wrong."
        )
    if isinstance(error, OSError) and error.errno in DISK and is_inside(error.filename, folder):
        return CheckpointError(
            f"{error.filename}: could not be written ({error.strerror}). What was saved "
            "before is untouched: make room or fix the folder's permissions, then --resume."
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
            stat = (PROC / str(self.pid) / "stat").read_text()
            # The state follows the program's name in parentheses, which may itself hold some.
            # A zombie still has its entry: the launcher has not reaped it yet.
            return stat.rpartition(")")[2].split()[0] in "ZX"
        except (OSError, IndexError):  # no such process, or a system without /proc
            return not is_known(self.pid)


def is_known(pid: int) -> bool:
    """Whether the system has a process of this number, ended or not; True where it does not say."""
    if os.name != "posix":  # elsewhere the call below would end the process
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return True


class Peers:
    """The other processes: which of them has failed, and why, when this one has lost its
    connection."""

    def __init__(self, accelerator: Any) -> None:
        own = Peer(accelerator.process_index, socket.gethostname(), os.getpid())
        self.others: Sequence[Peer] = [p for p in gather_objects(accelerator, own) if p != own]
        # An error file from before this is of an earlier attempt in the same folder.
        self.since = time.time()

    def cause(self, folder: Path) -> str | None:
        """A sentence about the process that failed; None when none of them seems to have."""
        deadline = time.monotonic() + PATIENCE
        gone: list[Peer] = []
        # The connection breaks a moment before the process that failed has written its file.
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
            f"{named} ended without an error, and the run with it: it was killed, perhaps because "
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
    # Frames of the traceback are indented; the first other line is the error.
    errors = [line for line in lines[1:] if line[:1].isalpha() and ": " in line]
    return errors[0] if errors else None
