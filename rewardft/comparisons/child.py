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
import diffusers.schedulers  # noqa: F401
import peft  # noqa: F401
import torch

from rewardft.errors import RewardftError
from rewardft.files.streams import forgive
from rewardft.runs.open import run_recipe_file

EXPECTED_ERROR, INTERRUPTED = 2, 130


@dataclass(frozen=True)
class Order:
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


def carry_out(order: Order) -> None:
    """Make the run and end the process;
    an expected error is one message and exit code 2, as on the command line."""
    # Ctrl-C reaches the parent alone, which hands it on: twice would end the run at once.
    os.setpgid(0, 0)
    end_with_parent()
    handle = os.open(order.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    for stream in (1, 2):
        os.dup2(handle, stream)
    forgive()
    os.chdir(order.folder)
    os.environ.clear()
    os.environ.update(order.environment)
    torch.set_num_threads(order.threads)
    sys.argv = ["rewardft", *order.command]  # what the run's manifest keeps
    try:
        summary = run_recipe_file(Path(order.recipe), Path(order.out), order.settings, order.resume)
    except RewardftError as error:
        print(
            "\n".join([f"error: {error}", *getattr(error, "__notes__", [])]),
            file=sys.stderr,
            flush=True,
        )
        sys.exit(EXPECTED_ERROR)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    sys.exit(INTERRUPTED if summary.status == "interrupted" else 0)


def end_with_parent() -> None:
    """Send this process SIGTERM, upon which a run saves and ends, when the one that gave the order
    is gone.

    Else it would train on with nobody to take note, in the folder of the run that is started next.
    """
    parent = multiprocessing.parent_process()

    def wait() -> None:
        if parent is not None:
            parent.join()
            os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()
