"""Make the runs of a comparison by a launcher, each in a process of its own."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path

from rewardft.comparisons.child import ChildJob, run_job
from rewardft.comparisons.members import Member, program
from rewardft.contracts.launching import Job, Work
from rewardft.contracts.protocols import Launcher
from rewardft.evaluation.stored import evaluation_path
from rewardft.files.atomic import make_folder, write_text
from rewardft.launchers.local import Local
from rewardft.storage.folder import is_held

TAIL = 12  # lines of a failed run's output that the report shows
# Seconds that a run whose process was lost may take to save and end before it is made again.
PATIENCE = 120.0

# The exit code of a run, None when it begins; and the number of all runs to make.
Notify = Callable[[Member, int | None, int], None]


@dataclass(frozen=True)
class Launch:
    """Where the runs are made. jobs: how many at a time, None: as the launcher has it."""

    launcher: Launcher = field(default_factory=Local)
    jobs: int | None = None


def launch_all(
    members: Sequence[Member], everyone: Sequence[Member], out: Path, launch: Launch, notify: Notify
) -> None:
    """Make the runs that are missing; their ends are read from their folders.

    everyone: all members of the comparison, those that are done included.
    """
    if not members:
        return
    of_folder = {member.folder: member for member in members}

    def began(job: Job) -> None:
        notify(of_folder[job.folder], None, len(members))

    def ended(job: Job, code: int | None) -> None:
        member = of_folder[job.folder]
        notify(member, code if code is not None else int(not member.is_done), len(members))

    jobs = [job_of(member) for member in members]
    # The folder too: on another machine a process has another one.
    make = RunMaker(of_folder, everyone, os.getcwd())
    launch.launcher.launch(Work(jobs, launch.jobs, out.absolute(), make, began, ended))


def pending(members: Iterable[Member]) -> list[Member]:
    """Those that must be run: checked, and not done already."""
    # Runs of an earlier, interrupted comparison are used as they are.
    return [m for m in members if m.problem is None and not m.given and not m.is_done]


def job_of(member: Member) -> Job:
    """A run as launchers know it."""
    begin, resume = ((*program(), *member.command(resume)) for resume in (False, True))
    mark = member.folder / "recipe.yaml"  # as `is_started` has it
    return Job(member.label, member.folder, log_file(member), begin, resume, mark)


def share_baseline(member: Member, others: Iterable[Member]) -> None:
    """Give a run that has not begun the evaluation of the base that another has made: it is the
    same for all seeds.

    The run itself takes it only if it was made with its own settings, and makes its own otherwise.
    """
    # The noise is keyed by the evaluation's seed, so the base's samples do not depend on the run's.
    lenders = [o.folder for o in others if o is not member and judged_alike(o, member)]
    made = (evaluation_path(folder, 0) for folder in lenders)
    path, own = next(filter(Path.is_file, made), None), evaluation_path(member.folder, 0)
    if path is not None and not member.is_started:
        make_folder(own.parent)
        write_text(own, path.read_text(encoding="utf-8"))


def judged_alike(one: Member, other: Member) -> bool:
    """Whether two recipes have the same model, initial weights, held-out data and rewards;
    their evaluations say the rest."""
    if one.recipe is None or other.recipe is None:
        return False
    mine, theirs = one.recipe, other.recipe
    samplers = [recipe.evaluate.sampler or recipe.sampler for recipe in (mine, theirs)]
    # Weights that a run begins with are what it evaluates at step 0.
    begun = [recipe.adapter if recipe.adapter.init else None for recipe in (mine, theirs)]
    alike = (mine.model, mine.evaluate, samplers[0], begun[0])
    return alike == (theirs.model, theirs.evaluate, samplers[1], begun[1])


# The runs in processes of this one; sets are safe between threads.
RUNNING: set[BaseProcess] = set()


@dataclass(frozen=True)
class RunMaker:
    """Makes the run of a member on the machine where it is called.

    members: by the folders of their runs. everyone: may lend a run its evaluation of the base.
    place: the folder that the comparison was started in, where relative paths begin.
    """

    members: Mapping[Path, Member]
    everyone: Sequence[Member]
    place: str

    def __call__(self, job: Job, threads: int, device: str | None = None) -> int:
        """As `run_member`, once nothing else trains in the folder."""
        member = self.members[job.folder]
        wait_until_free(member.folder)
        share_baseline(member, self.everyone)
        return run_member(member, self.place, threads, device)

    def interrupt(self) -> None:
        """Have every running run do what it does upon Ctrl-C,
        which does not reach them: they are groups of their own."""
        for process in list(RUNNING):
            # A process that has ended may have left its number to another.
            if process.is_alive() and process.pid is not None:
                os.kill(process.pid, signal.SIGINT)


def wait_until_free(folder: Path) -> None:
    """A run whose parent was lost saves and ends by itself; then another may go on with it."""
    patient_until = time.monotonic() + PATIENCE
    while is_held(folder) and time.monotonic() < patient_until:
        time.sleep(0.1)


def run_member(member: Member, place: str, threads: int, device: str | None = None) -> int:
    """One run in a process of its own, continued where it was interrupted; its output goes to a
    file beside its folder. Returns its exit code, or minus the signal that ended it.

    place: its current folder. device: the one GPU that it may use; None: all of them.

    The processes are forked from one server that has imported torch: a run then costs no start-up.
    The server itself has computed nothing, so no thread and no GPU is inherited.
    """
    log = log_file(member)
    make_folder(log.parent)
    # Not `fork`: this process may have threads and a GPU, which do not survive it.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["rewardft.comparisons.child"])
    job = child_job(member, place, threads, device)
    process = context.Process(target=run_job, args=(job,))
    process.start()
    RUNNING.add(process)
    code = await_end(process)
    RUNNING.discard(process)
    if code < 0:  # it could not say so itself
        with log.open("a", encoding="utf-8") as file:
            file.write(f"\nended by {signal_name(-code)}\n")
    return code


def await_end(process: BaseProcess) -> int:
    """The exit code of a run's process, which saves and ends upon a KeyboardInterrupt here."""
    try:
        # In slices: an interrupt that another thread asks for is seen between two of them.
        while process.exitcode is None:
            process.join(timeout=1)
    except KeyboardInterrupt:
        if process.is_alive() and process.pid is not None:
            os.kill(process.pid, signal.SIGINT)
        process.join()
        raise
    return process.exitcode


def child_job(member: Member, place: str, threads: int, device: str | None) -> ChildJob:
    """All that the process needs to know."""
    environment = dict(os.environ) | ({} if device is None else {"CUDA_VISIBLE_DEVICES": device})
    resume = member.is_started
    return ChildJob(
        str(member.variant.recipe),
        member.settings,
        str(member.folder),
        resume,
        str(log_file(member)),
        threads,
        place,
        environment,
        member.command(resume),
    )


def signal_name(number: int) -> str:
    """SIGKILL and the like; real-time signals have no name of their own."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def log_file(member: Member) -> Path:
    """The output of the run's process: `FOLDER.log`."""
    return member.folder.with_name(member.folder.name + ".log")


def last_lines(path: Path) -> str:
    """The end of a log; '' where there is none."""
    if not path.is_file():
        return ""
    return "\n".join(path.read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL:])
