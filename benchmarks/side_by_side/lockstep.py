"""A worker of `benchmarks/peers.py`: it takes one training step each time that it is asked for one,
and answers with what the step took. Needs torch alone."""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from pathlib import Path


class Lockstep:
    """`start` waits for the first order, `next` answers it and waits for the following one.

    device: `cpu`: processor seconds and resident memory; `cuda`: seconds, when the device is done,
        and the memory of its allocator.
    """

    def __init__(self, device: str) -> None:
        self.device = device
        # What libraries print must not be taken for an answer.
        self.answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)

    def start(self) -> None:
        self.answer({"rest_mb": self.peak()})
        self.wait()

    def next(self) -> None:
        self.answer({"seconds": self.now() - self.since, "peak_mb": self.peak()})
        self.wait()

    def wait(self) -> None:
        sys.stdin.readline()
        self.since = self.now()

    def answer(self, facts: dict[str, float]) -> None:
        print(json.dumps(facts), file=self.answers, flush=True)

    def now(self) -> float:
        if self.device == "cpu":
            return time.process_time()
        import torch

        torch.cuda.synchronize()
        return time.perf_counter()

    def peak(self) -> float:
        """The most so far, in MB."""
        if self.device == "cpu":
            return resident_peak() / 1e6
        import torch

        return torch.cuda.max_memory_allocated() / 1e6


def resident_peak() -> int:
    """Bytes. `getrusage` alone counts what the process that has started this one held as well."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    found = [int(line.split()[1]) for line in lines if line.startswith("VmHWM:")]
    return 1024 * (found[0] if found else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
