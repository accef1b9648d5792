"""A worker of `benchmarks/peers.py`: it takes one training step each time that it is asked for one,
and answers with what the step took. Needs torch alone."""

from __future__ import annotations

import json
import os
import resource
import sys
import time


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
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3 * 1.024
        import torch

        return torch.cuda.max_memory_allocated() / 1e6
