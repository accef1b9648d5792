"""A run in a forked process: as `rewardft run` makes it, with its output in a file."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import accelerate  # noqa: F401 (these, so that the server of forks has what every run needs)
import peft  # noqa: F401
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler  # noqa: F401 (see above)

from rewardft.errors import RewardftError, in_full
from rewardft.files.streams import forgive
from rewardft.runs.open import run_recipe_file

# As the command line has them: 130 is 128 + SIGINT.
EXPECTED_ERROR, INTERRUPTED = 2, 130


@dataclass(frozen=True)
class ChildJob:
    """What the process is to run, and where: `folder` is the current one,
    `environment` all of its variables."""

    recipe: str
    settings: Sequence[str]
    out: str
    resume: bool
    log: str
    threads: int
    folder: str
    environment: Mapping[str, str]
    command: Sequence[str]


def run_job(job: ChildJob) -> None:
    """Make the run and end the process;
    an expected error is one message and exit code 2, as on the command line."""
    # Ctrl-C reaches the parent alone, which hands it on: twice would end the run at once.
    os.setpgid(0, 0)
    end_with_parent()
    handle = os.open(job.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    # The descriptors and not `sys.stdout`: libraries in C write there too.
    for stream in (1, 2):
        os.dup2(handle, stream)
    forgive()
    os.chdir(job.folder)
    # The server was forked once, with the environment of that moment; a run needs its command's.
    os.environ.clear()
    os.environ.update(job.environment)
    torch.set_num_threads(job.threads)
    sys.argv = ["rewardft", *job.command]  # what the run's manifest keeps
    try:
        summary = run_recipe_file(Path(job.recipe), Path(job.out), job.settings, job.resume)
    except RewardftError as error:
        print(in_full(error), file=sys.stderr, flush=True)
        sys.exit(EXPECTED_ERROR)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    sys.exit(INTERRUPTED if summary.status == "interrupted" else 0)


def end_with_parent() -> None:
    """Send this process SIGTERM when its parent is gone; the run then saves and ends.

    Otherwise it would go on training unseen, in a folder where the next attempt starts.
    """
    parent = multiprocessing.parent_process()

    def wait() -> None:
        if parent is not None:
            parent.join()
            os.kill(os.getpid(), signal.SIGTERM)

    # A daemon: it must not keep a finished run from ending.
    threading.Thread(target=wait, daemon=True).start()
