"""Several processes: what must agree, agrees by construction; gradients are averaged once per
optimizer step.

Algorithms run many small backward passes per step, so the gradients are summed locally and
exchanged once, after the last one. Every process draws its own slice of one global batch, and noise
belongs to samples, so n processes with batch b compute what one process computes with batch n * b.

Every function here is a collective: all processes call it, in the same order. With one process
each is free.
"""

from __future__ import annotations

import atexit
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from rewardft.errors import CheckpointError, ComponentError
from rewardft.storage.folder import hold

T = TypeVar("T")
# torchrun and accelerate, Open MPI, MPICH and Slurm's PMI, MVAPICH2, a step of Slurm (`srun`).
SLURM_SIZE = "SLURM_STEP_NUM_TASKS"
WORLD_SIZES = (
    "WORLD_SIZE",
    "OMPI_COMM_WORLD_SIZE",
    "PMI_SIZE",
    "MV2_COMM_WORLD_SIZE",
    SLURM_SIZE,
)
RANKS = ("RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "MV2_COMM_WORLD_RANK", "SLURM_PROCID")
LAUNCH = "torchrun --nproc_per_node 2 -m rewardft run RECIPE"
# Name -> (sum, count) `(2,)` over the samples of this process to which the value applies.
Sums = dict[str, Tensor]


def start_accelerator(trackers: Sequence[str], folder: Path) -> Any:
    """accelerate's `Accelerator` for one run, with the trackers that the recipe names.

    The process group ends with the process, not with the run (another may follow), but before the
    interpreter goes: the group's worker threads abort a process that leaves them running.
    """
    from accelerate import Accelerator

    # Before accelerate reads them, whose error would name neither.
    for name in (*WORLD_SIZES, *RANKS):
        number(os.environ, name)
    accelerator = Accelerator(
        # Without a GPU it must be told, or it ignores the variables that a launcher has set.
        cpu=not torch.accelerator.is_available(),
        log_with=list(trackers) or None,
        project_dir=str(folder),
    )
    check_launcher(os.environ, accelerator.num_processes)
    # Alone there is no group to end.
    if accelerator.num_processes > 1:
        atexit.unregister(_end_group)  # once, however many runs
        atexit.register(_end_group)
    return accelerator


def check_launcher(environment: Mapping[str, str], processes: int) -> None:
    """Raises ComponentError when a launcher wanted another number of processes than the run has."""
    # Processes that do not know of each other would all be "the main one" and overwrite each other.
    # One task of Slurm says nothing: a launcher may start its own processes from inside it.
    found = (n for n in WORLD_SIZES if environment.get(n))
    name = next((n for n in found if n != SLURM_SIZE or number(environment, n) != 1), None)
    wanted = None if name is None else number(environment, name)
    # `accelerate launch` sets an address for several processes, and without a GPU starts only one.
    alone = "ACCELERATE_MIXED_PRECISION" in environment and "MASTER_PORT" in environment
    if wanted is None and processes == 1 and alone:
        raise ComponentError(
            "`accelerate launch --num_processes` started only one process, which it does where "
            f"there is no GPU. Start them with: {LAUNCH}"
        )
    if wanted is not None and wanted != processes:
        raise ComponentError(
            f"the launcher started {wanted} processes ({name}), and this run sees {processes}: "
            f"each would train alone in the same folder. Start them with: {LAUNCH}"
        )


def is_printing(environment: Mapping[str, str]) -> bool:
    """Whether this process is the one that prints; a rank counts only beside a world size."""
    # The innermost launcher comes first: torchrun in a task of Slurm has that task's number too.
    size, rank = next(
        (pair for pair in zip(WORLD_SIZES, RANKS) if environment.get(pair[0])), ("", "")
    )
    return number(environment, size, 1) <= 1 or number(environment, rank) == 0


def number(environment: Mapping[str, str], name: str, absent: int = 0) -> int:
    """The whole number that a launcher has set; `absent` where it has set none. Raises
    ComponentError for anything else."""
    text = environment.get(name) or str(absent)
    if not re.fullmatch(r"-?[0-9]{1,9}", text.strip()):
        raise ComponentError(
            f"{name} in the environment is {text!r:.60}; expected a whole number, as launchers set "
            "it. Unset it."
        )
    return int(text)


@contextmanager
def alone_in(accelerator: Any, out: Path, make: bool) -> Iterator[None]:
    """Hold a run folder for all processes of this run. Raises CheckpointError on each of them when
    another run has it."""
    handles: list[int | None] = []
    # The main process alone: a lock taken by one would look to its peers like another run's.
    main_decides(accelerator, lambda: handles.append(hold(out, make)))
    try:
        yield
    finally:
        for handle in handles:
            if handle is not None:
                os.close(handle)


def _end_group() -> None:
    import torch.distributed

    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def average_gradients(
    accelerator: Any, parameters: Sequence[nn.Parameter], accumulated: int
) -> None:
    """Divide by the number of accumulated batches and average over processes, in one flat exchange.

    A parameter without a gradient on this process counts as zero if another process has one, else
    it stays without.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    if accumulated > 1:
        # Losses are means over a batch: their sum becomes the mean over all samples.
        torch._foreach_mul_(gradients, 1.0 / accumulated)
    if accelerator.num_processes == 1:
        return
    # One exchange of one flat tensor: a hundred small ones would each wait for the slowest process.
    parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    # Sent along, so that a parameter that has a gradient nowhere keeps None: an optimizer would
    # decay its weight otherwise.
    present = parts[0].new_tensor([p.grad is not None for p in parameters])
    flat = accelerator.reduce(
        torch.cat([*(g.reshape(-1) for g in parts), present]), reduction="mean"
    )
    *means, present = flat.split([*(g.numel() for g in parts), len(parts)])
    for i, (parameter, mean) in enumerate(zip(parameters, means)):
        if parameter.grad is not None:
            parameter.grad.copy_(mean.view_as(parameter))
        elif present[i] > 0:
            parameter.grad = mean.view_as(parameter).to(parameter.dtype)


def copy_from_main(accelerator: Any, tensors: Sequence[Tensor]) -> None:
    """Give every process the main process's values, in place, in one flat exchange."""
    if accelerator.num_processes == 1 or not tensors:
        return
    from accelerate.utils import broadcast

    # Equal seeds give equal weights on equal machines only; from here on all are equal to the bit.
    flat = broadcast(torch.cat([t.detach().reshape(-1) for t in tensors]))
    with torch.no_grad():
        for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors])):
            tensor.copy_(part.view_as(tensor))


def average_metrics(accelerator: Any, steps: Sequence[Sums]) -> list[dict[str, float]]:
    """Means over all samples of all processes; NaN where a value applied to no sample anywhere.

    Args:
        steps: one per optimizer step. The processes may have different names in it: what one has,
            all get.
    """
    return [
        mean_of(parts) for parts in zip(*gather_objects(accelerator, read_sums(accelerator, steps)))
    ]


def own_metrics(accelerator: Any, steps: Sequence[Sums]) -> list[dict[str, float]]:
    """The same over the samples of this process alone, for when the others are gone."""
    return [mean_of([sums]) for sums in read_sums(accelerator, steps)]


def read_sums(accelerator: Any, steps: Sequence[Sums]) -> list[dict[str, list[float]]]:
    """(sum, count) of each step as plain numbers."""
    rows = [tensor for sums in steps for tensor in sums.values()]
    # A component may have recorded tensors of the CPU.
    rows = [row.to(accelerator.device) for row in rows]
    numbers = iter(torch.stack(rows).tolist() if rows else [])  # the only read from the device
    return [{name: next(numbers) for name in sums} for sums in steps]


def mean_of(parts: Sequence[dict[str, list[float]]]) -> dict[str, float]:
    """One (sum, count) per process and name -> the mean by name."""
    means = {}
    for name in dict.fromkeys(name for part in parts for name in part):
        total, count = (sum(part[name][i] for part in parts if name in part) for i in (0, 1))
        # Sums and counts are added first: a mean of the processes' means would weigh them alike.
        means[name] = total / count if count else math.nan
    return means


def gather_objects(accelerator: Any, value: T) -> list[T]:
    """The `value` of every process, by rank."""
    if accelerator.num_processes == 1:
        return [value]
    from accelerate.utils import gather_object

    return list(gather_object([value]))


def main_decides(accelerator: Any, decide: Callable[[], T]) -> T:
    """What `decide()` gives on the main process, on every process; it is not called on the others.

    What it raises there is raised there, and as a CheckpointError on the others, which would wait
    forever otherwise.
    """
    if accelerator.num_processes == 1:
        return decide()
    from accelerate.utils import broadcast_object_list

    answer: list[Any] = [None, None]
    failure: Exception | None = None
    if accelerator.is_main_process:
        try:
            answer[0] = decide()
        except Exception as error:
            failure, answer[1] = error, str(error)
    # Also when it failed: the others wait in this call.
    broadcast_object_list(answer)
    if failure is not None:
        raise failure
    if answer[1] is not None:
        raise CheckpointError(answer[1])
    result: T = answer[0]
    return result


def raise_together(accelerator: Any, error: Exception | None) -> None:
    """Raise the first process's error on all of them; without it, the others would wait for that
    process forever."""
    # By rank, so that all raise the same one.
    for raised in gather_objects(accelerator, error):
        if raised is not None:
            raise raised


def largest(accelerator: Any, number: int) -> int:
    """The largest `number` of any process, for instance of the signals that were received."""
    if accelerator.num_processes == 1:
        return number
    return int(accelerator.gather(torch.tensor([number], device=accelerator.device)).max())
