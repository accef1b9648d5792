"""What a launcher is given: the runs of a comparison, and how one of them is made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class Job:
    """One run. Paths are absolute, and other machines must see the same files there.

    Args:
        label: for people.
        folder, log: the run's folder, and the file that its output goes to.
        begin, resume: the words of a process that makes it; `resume` once there is the file `mark`.
    """

    label: str
    folder: Path
    log: Path
    begin: Sequence[str]
    resume: Sequence[str]
    mark: Path


class Maker(Protocol):
    """Makes runs on the machine where it is called; it can be pickled."""

    def __call__(self, job: Job, threads: int, device: str | None = None) -> int:
        """Begin or continue a run in a process of its own, and wait for its end; the exit code.

        threads: of torch. device: the one GPU that the run may use, as CUDA_VISIBLE_DEVICES names
        it; None: all that this process may.
        """

    def interrupt(self) -> None:
        """Tell the runs that this process makes to save and end."""


@dataclass(frozen=True)
class Work:
    """All that a launcher has to do.

    Args:
        jobs: the runs, in the order in which they are wanted.
        at_once: how many may run at a time; None: as many as the launcher finds right.
        out: the comparison's folder, for files of the launcher.
        make: makes one run.
        began, ended: to be called in this process. The exit code is None where it is not known.
    """

    jobs: Sequence[Job]
    at_once: int | None
    out: Path
    make: Maker
    began: Callable[[Job], None]
    ended: Callable[[Job, int | None], None]
