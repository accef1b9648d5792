"""Make the runs of a comparison: several at a time, each in a process of its own;
one that fails stops no other."""

from __future__ import annotations

import multiprocessing
import os
import shlex
import signal
import subprocess
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

from rewardft.comparisons.child import Job, run_job
from rewardft.comparisons.members import Member, program
from rewardft.errors import ComponentError
from rewardft.files.atomic import make_folder, write_text

TAIL = 12  # lines of a failed run's output that the report shows


@dataclass(frozen=True)
class Outcome:
    """How one run ended: the exit code of its process, and the last lines of its output."""

    member: Member
    code: int
    tail: str


# None: it has started; the number: of all runs to make.
Notify = Callable[[Member, Outcome | None, int], None]


def pending(members: Iterable[Member]) -> list[Member]:
    """Those that must be run: checked, and not done already."""
    # Runs of an earlier, interrupted comparison are used as they are.
    return [m for m in members if m.problem is None and not m.given and not m.is_done]


def share_baseline(member: Member, others: Iterable[Member]) -> None:
    """Give a run that has not begun the evaluation of the base that another has made: it is the
    same for all seeds.

    The run itself takes it only if it was made with its own settings, and makes its own otherwise.
    """
    name = Path("evaluations") / "step-00000000.json"
    # The noise is keyed by the evaluation's seed, so the base's samples do not depend on the run's.
    lenders = [o.folder / name for o in others if o is not member and judged_alike(o, member)]
    path = next((path for path in lenders if path.is_file()), None)
    if path is not None and not member.is_started:
        make_folder(member.folder / name.parent)
        write_text(member.folder / name, path.read_text(encoding="utf-8"))


def judged_alike(one: Member, other: Member) -> bool:
    """Whether two recipes have the same model, held-out data and rewards;
    their evaluations say the rest."""
    if one.recipe is None or other.recipe is None:
        return False
    mine, theirs = one.recipe, other.recipe
    samplers = [recipe.evaluate.sampler or recipe.sampler for recipe in (mine, theirs)]
    return (mine.model, mine.evaluate, samplers[0]) == (theirs.model, theirs.evaluate, samplers[1])


def run_here(
    members: Sequence[Member], jobs: int, notify: Notify, everyone: Sequence[Member] = ()
) -> list[Outcome]:
    """Run members in processes on this machine, `jobs` at a time, and share its cores out among
    them.

    everyone: all members of the comparison, those that are done included.

    Upon a KeyboardInterrupt the running ones are told to save and end, no other is begun, and it is
    raised again. A second one ends them at once.
    """
    # More threads than cores would make all runs slower than one after the other.
    threads, devices = max((os.cpu_count() or 1) // max(jobs, 1), 1), visible_gpus()
    slots = list(range(jobs))
    outcomes: list[Outcome] = []
    waiting, running = list(members), dict[Future[Outcome], tuple[Member, int]]()
    with ThreadPoolExecutor(jobs) as pool:
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    member = waiting.pop(0)
                    share_baseline(member, everyone or members)
                    notify(member, None, len(members))
                    slot = slots.pop(0)
                    # By slot: two runs share a GPU only where there are more jobs than GPUs.
                    device = devices[slot % len(devices)] if len(devices) > 1 else None
                    running[pool.submit(run_member, member, threads, device)] = (member, slot)
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    member, slot = running.pop(future)
                    slots.append(slot)
                    outcomes.append(future.result())
                    notify(member, outcomes[-1], len(members))
        except KeyboardInterrupt:
            # No new ones; those that run save a checkpoint and end.
            waiting.clear()
            interrupt_runs()
            try:
                wait(running)
            except KeyboardInterrupt:
                interrupt_runs()
            raise
    return outcomes


# The runs in processes of this one; sets are safe between threads.
RUNNING: set[BaseProcess] = set()


def interrupt_runs() -> None:
    """Have every running run do what it does upon Ctrl-C,
    which does not reach them: they are groups of their own."""
    for process in list(RUNNING):
        # A process that has ended may have left its number to another.
        if process.is_alive() and process.pid is not None:
            os.kill(process.pid, signal.SIGINT)


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, by the names that CUDA_VISIBLE_DEVICES takes."""
    # Its names stay valid in a child, where indices of our own would count anew.
    if (listed := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name.strip() for name in listed.split(",") if name.strip()]
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]


def run_member(member: Member, threads: int, device: str | None = None) -> Outcome:
    """One run in a process of its own, continued where it was interrupted; its output goes to a
    file beside its folder.

    device: the one GPU that it may use; None: all of them.

    The processes are forked from one server that has imported torch: a run then costs no start-up.
    The server itself has computed nothing, so no thread and no GPU is inherited.
    """
    log = log_file(member)
    make_folder(log.parent)
    # Not `fork`: this process may have threads and a GPU, which do not survive it.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["rewardft.comparisons.child"])
    resume = member.is_started
    job = Job(
        str(member.variant.recipe),
        member.settings,
        str(member.folder),
        resume,
        str(log),
        threads,
        os.getcwd(),
        dict(os.environ) | ({} if device is None else {"CUDA_VISIBLE_DEVICES": device}),
        member.command(resume),
    )
    process = context.Process(target=run_job, args=(job,))
    process.start()
    RUNNING.add(process)
    process.join()
    RUNNING.discard(process)
    # A negative code is the signal that ended the process, such as the kernel's for want of memory.
    code = 1 if process.exitcode is None else process.exitcode
    if code < 0:  # it could not say so itself
        with log.open("a", encoding="utf-8") as file:
            file.write(f"\nended by {signal_name(-code)}\n")
    return Outcome(member, code, last_lines(log))


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


def hand_to_slurm(
    members: Sequence[Member], out: Path, options: Sequence[str], jobs: int
) -> list[Outcome]:
    """Submit all members as one job array (`sbatch --wait`), `jobs` at a time, and wait for it to
    end.

    The array's script is `OUT/slurm.sh`; one can edit it and submit it again. Raises ComponentError
    without `sbatch`.
    """
    script = out / "slurm.sh"
    write_text(script, slurm_script(members, out, jobs))
    try:
        # The code of an array is that of its worst task; each member's own is in its folder.
        code = subprocess.run(["sbatch", "--wait", *options, str(script)]).returncode
    except FileNotFoundError:
        raise ComponentError(
            f"--launcher slurm: there is no `sbatch` here. Submit {script} where there is one, "
            "then compare again."
        ) from None
    return [Outcome(m, 0 if m.is_done else code or 1, last_lines(log_file(m))) for m in members]


def slurm_script(members: Sequence[Member], out: Path, jobs: int) -> str:
    """A bash script whose array task k makes the k-th run."""
    lines = [
        "#!/bin/bash",
        "#SBATCH --job-name=rewardft-compare",
        f"#SBATCH --array=0-{len(members) - 1}%{jobs}",
    ]
    lines += [f"#SBATCH --output={out / 'slurm-%A_%a.log'}", 'case "$SLURM_ARRAY_TASK_ID" in']
    for number, member in enumerate(members):
        command = shlex.join([*program(), *member.command(resume=member.is_started)])
        # `exec`, so that Slurm's signals reach the run and not a shell that waits for it.
        log = shlex.quote(str(log_file(member)))
        lines.append(
            f"{number}) mkdir -p {shlex.quote(str(member.folder.parent))}; exec {command} > {log} "
            "2>&1 ;;"
        )
    return "\n".join([*lines, "esac", ""])


def hand_to_ray(members: Sequence[Member], gpus: float, notify: Notify) -> list[Outcome]:
    """One Ray task per run, on a shared file system; `gpus`: of each.

    Raises ComponentError without the package.
    """
    try:
        import ray
    except ImportError:
        raise ComponentError(
            "--launcher ray: the package is not installed: pip install ray"
        ) from None
    if not ray.is_initialized():
        # Outputs are in the runs' logs; on the driver they would be mixed.
        ray.init(log_to_driver=False)
    task = ray.remote(num_gpus=gpus, num_cpus=1)(run_member)
    # All at once: Ray starts as many as it has room for.
    futures = {task.remote(member, 1): member for member in members}
    outcomes, left = list[Outcome](), list(futures)
    while left:
        # One at a time, in the order in which they end, so that progress is told as it happens.
        (ready,), left = ray.wait(left, num_returns=1)
        outcomes.append(ray.get(ready))
        notify(futures[ready], outcomes[-1], len(members))
    return outcomes
