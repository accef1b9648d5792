"""Runs in processes on this machine, which share its cores and GPUs."""

from __future__ import annotations

import os
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

from rewardft.contracts.launching import Job, Work


@dataclass(frozen=True)
class Local:
    """Processes on this machine: one at a time, or as many as `--jobs` says, which then share cores
    and GPUs.

    Upon a KeyboardInterrupt the running ones are told to save and end, no other is begun, and it is
    raised again. A second one ends them at once.
    """

    def launch(self, work: Work) -> None:
        # No more than there are runs, however many are allowed.
        at_once = min(work.at_once or 1, max(len(work.jobs), 1))
        # More threads than cores would make all runs slower than one after the other.
        threads, devices = max((os.cpu_count() or 1) // at_once, 1), visible_gpus()
        slots, waiting = list(range(at_once)), list(work.jobs)
        running = dict[Future[int], tuple[Job, int]]()
        with ThreadPoolExecutor(at_once) as pool:
            try:
                while waiting or running:
                    while waiting and slots:
                        job, slot = waiting.pop(0), slots.pop(0)
                        work.began(job)
                        # By slot: two runs share a GPU only where there are more jobs than GPUs.
                        device = devices[slot % len(devices)] if len(devices) > 1 else None
                        running[pool.submit(work.make, job, threads, device)] = (job, slot)
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        job, slot = running.pop(future)
                        slots.append(slot)
                        work.ended(job, future.result())
            except KeyboardInterrupt:
                # No new ones; those that run save a checkpoint and end.
                waiting.clear()
                work.make.interrupt()
                try:
                    wait(running)
                except KeyboardInterrupt:
                    work.make.interrupt()
                raise


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, by the names that CUDA_VISIBLE_DEVICES takes."""
    # Its names stay valid in a child, where indices of our own would count anew.
    if (listed := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name.strip() for name in listed.split(",") if name.strip()]
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]
