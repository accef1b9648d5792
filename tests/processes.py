"""Processes of their own, forked from one that has imported what every run needs: a new interpreter would spend six
seconds on importing torch, diffusers and peft.

What is tested with them is what a process is for: signals, exit codes, output, folders, ranks. How the program starts
from nothing is tested where a new interpreter is started (`tests/package`, and the launcher in `test_processes.py`).
"""

import multiprocessing
import os
import signal
import socket
import sys
import tempfile
import time
from dataclasses import dataclass
from multiprocessing import forkserver
from pathlib import Path

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["rewardft.comparisons.child"])  # as comparisons do: one server


@dataclass(frozen=True)
class Done:
    """How a process ended; `returncode` is minus the signal that killed it."""

    returncode: int
    stdout: str
    stderr: str


class Running:
    """A process that carries out `function(*arguments)` in a session of its own."""

    def __init__(self, function, *arguments, cwd=None, env=None):
        self.files = [Path(tempfile.mkstemp(suffix=name)[1]) for name in (".out", ".err")]
        place = str(cwd or Path.cwd())
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **(env or {})}
        # A comparison that is forked so takes its runs from the server that it was forked from.
        server = forkserver._forkserver
        server.ensure_running()
        order = (function, arguments, place, environment, server._forkserver_address)
        order += ([str(path) for path in self.files],)
        self.process = CONTEXT.Process(target=carry_out, args=order)
        self.process.start()
        self.pid = self.process.pid

    def is_alive(self):
        return self.process.is_alive()

    def terminate(self):
        self.kill(signal.SIGTERM)

    def kill(self, number, group=False):
        (os.killpg if group else os.kill)(self.pid, number)

    def stdout(self):
        return self.files[0].read_text()

    def stderr(self):
        return self.files[1].read_text()

    def wait(self, seconds=300):
        self.process.join(seconds)
        if self.is_alive():
            self.kill(signal.SIGKILL)
            raise AssertionError(f"still running after {seconds} s\n{self.stdout()}{self.stderr()}")
        done = Done(self.process.exitcode, self.stdout(), self.stderr())
        for path in self.files:
            path.unlink()
        return done


def carry_out(function, arguments, place, environment, address, files):
    """In the new process: make it look like one that a shell started."""
    forkserver._forkserver._forkserver_address = address
    forkserver._forkserver.ensure_running = lambda: None
    os.setsid()
    os.chdir(place)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:0] = [each for each in environment.get("PYTHONPATH", "").split(os.pathsep) if each]
    for stream, path in zip((1, 2), files):
        handle = os.open(path, os.O_WRONLY)
        os.dup2(handle, stream)
        os.close(handle)
    sys.stdout.reconfigure(line_buffering=True)
    sys.exit(function(*arguments))


def call_main(*words):
    """The command line."""
    import torch

    from rewardft.cli import main
    from rewardft.engine import failure

    torch.set_num_threads(1)
    failure.PATIENCE = 120.0  # on a busy machine a process that has failed writes down why slowly
    sys.argv = ["rewardft", *words]
    return main(list(words))


def start(*words, cwd=None, env=None):
    """`rewardft WORDS` in a process of its own."""
    return Running(call_main, *map(str, words), cwd=cwd, env=env)


def run(*words, cwd=None, env=None):
    """`rewardft WORDS` in a process of its own, to its end."""
    return start(*words, cwd=cwd, env=env).wait()


def run_ranks(function, *arguments, count=2, seconds=300):
    """`function(*arguments)` on each of `count` ranks, as a launcher would start them; raises when one fails, or is not
    done after so many seconds."""
    ended = [one.wait(seconds) for one in start_ranks(function, *arguments, count=count)]
    assert [one.returncode for one in ended] == [0] * count, "".join(e.stderr for e in ended)


def start_ranks(function, *arguments, count=2):
    """The same, without waiting for them."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true"}
    ranks = [
        common | {"RANK": str(i), "LOCAL_RANK": str(i)} | dict.fromkeys(SIZES, str(count))
        for i in range(count)
    ]
    return [Running(function, *arguments, env=rank) for rank in ranks]


SIZES = ("WORLD_SIZE", "LOCAL_WORLD_SIZE")


def wait_for(condition):
    """Poll until `condition()` holds."""
    deadline = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.05)
