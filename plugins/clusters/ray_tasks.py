"""A comparison as tasks of Ray (https://docs.ray.io/en/latest/ray-core/tasks.html)."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from rewardft.contracts.launching import Job, Maker, Work
from rewardft.errors import ComponentError
from rewardft.recipe.bounds import Count, CountOrZero, NotNegative

from .logs import written

ASK_AGAIN = 1.0  # seconds between two looks at what has begun
COLOURS = re.compile(r"\x1b\[[0-9;]*m")  # of a terminal, in what Ray says
SAVING = 60.0  # seconds that runs may take to save after Ctrl-C


@dataclass(frozen=True)
class RayTasks:
    """One task of Ray for each run, on this machine or a cluster.

    A run whose worker is lost saves and ends if it can, and another worker goes on with it.

    Args:
        address: of the cluster, such as `auto` or `10.0.0.1:6379`; without it RAY_ADDRESS, else a
            cluster that runs on this machine, else one that is started here for the comparison.
        cpus: of each run.
        gpus: of each run; 0.5 lets two share one.
        retries: how often a run is taken up again after its worker was lost.
    """

    address: str | None = None
    cpus: Count = 1
    gpus: NotNegative = 0.0
    retries: CountOrZero = 3

    def __post_init__(self) -> None:
        if importlib.util.find_spec("ray") is None:
            raise ComponentError(
                "--launcher ray: the package is not installed: pip install 'rewardft[ray]'"
            )

    def launch(self, work: Work) -> None:
        with connected(self.address) as ray:
            tasks = Tasks(ray, work, self)
            try:
                while tasks.go_on():
                    pass
            except KeyboardInterrupt:
                tasks.stop()
                raise


@dataclass
class Tasks:
    """The tasks of one comparison. running: those that Ray has; it begins them as there is room.
    unseen: the log of each that has not begun, as it was when the task was handed in."""

    ray: Any
    work: Work
    settings: RayTasks
    running: dict[Any, Job] = field(default_factory=dict)
    unseen: dict[Any, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        given = self.settings
        options = {"num_cpus": given.cpus, "num_gpus": given.gpus, "max_retries": given.retries}
        self.remote = self.ray.remote(**options)(make_run)
        # Put there once: it knows all runs.
        self.make = self.ray.put(self.work.make)
        self.waiting = list(self.work.jobs)

    def go_on(self) -> bool:
        """Hand in what there is room for, and tell what has begun and ended; False after the last
        run."""
        limit = self.work.at_once or len(self.work.jobs)
        while self.waiting and len(self.running) < limit:
            job = self.waiting.pop(0)
            before = written(job)
            task = self.remote.remote(self.make, job, self.settings.cpus)
            self.running[task], self.unseen[task] = job, before
        ended, _ = self.ray.wait(list(self.running), num_returns=1, timeout=ASK_AGAIN)
        # Ray does not tell when it begins a task; the log of a run does.
        for task in [t for t, before in self.unseen.items() if written(self.running[t]) != before]:
            self.work.began(self.running[task])
            del self.unseen[task]
        for task in ended:
            job = self.running.pop(task)
            self.unseen.pop(task, None)
            self.work.ended(job, self.code_of(task, job))
        return bool(self.waiting or self.running)

    def code_of(self, task: Any, job: Job) -> int:
        """The exit code of a run; that its worker failed, or was lost too often, goes into its
        log."""
        try:
            code: int = self.ray.get(task)
        except self.ray.exceptions.RayError as error:
            job.log.parent.mkdir(parents=True, exist_ok=True)
            with job.log.open("a", encoding="utf-8") as file:
                said = COLOURS.sub("", str(error))
                file.write(f"\nended by Ray: {type(error).__name__}: {said}\n")
            return 1
        return code

    def stop(self) -> None:
        """Runs save and end; a task that has not begun never does."""
        tasks = list(self.running)
        for task in tasks:
            self.ray.cancel(task)
        self.ray.wait(tasks, num_returns=max(len(tasks), 1), timeout=SAVING)


def make_run(make: Maker, job: Job, threads: int) -> int:
    """What a worker does."""
    return make(job, threads)


@contextmanager
def connected(address: str | None) -> Iterator[Any]:
    """Ray's package, connected; what is started here for it ends afterwards."""
    # Nobody has agreed to have the use of it reported to its makers.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    before = signal.getsignal(signal.SIGTERM)
    import ray

    mine = not ray.is_initialized()
    if mine:
        try:
            # Outputs are in the runs' logs; here they would be mixed.
            ray.init(address, log_to_driver=False, include_dashboard=False)
        except (ConnectionError, ValueError) as error:
            raise ComponentError(f"--launcher ray: {error}") from error
    # Ray takes SIGTERM for itself, and would end this process without ending the runs.
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before)
    try:
        yield ray
    finally:
        if mine:
            ray.shutdown()
