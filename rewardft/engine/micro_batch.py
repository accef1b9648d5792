"""How many samples are replayed and decoded at a time, where a recipe gives no number.

Fewer samples need less memory, and take longer where a device is not busy with them. On a CPU with
a large network the defaults are one at a time for a gradient through the decoder, where pictures
are also decoded quickest so, and four for other algorithms (`benchmarks/at_a_time.py`). `auto`
measures at the start of a run: the fewest that take hardly longer each than the quickest number
does.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import torch

from rewardft.engine.drawing import named_tensors
from rewardft.engine.memory import return_freed_memory
from rewardft.engine.session import Session
from rewardft.errors import ComponentError
from rewardft.policy.rollout_weights import is_large
from rewardft.types import Batch, Plan

SLOWER = 1.1  # what a sample may take of the time that the quickest number needs for it
TRIES = 2  # of each number; the first warms up
SEVERAL = 4


def default_micro_batch(session: Session) -> tuple[int, int] | tuple[None, None]:
    """How many samples to replay at a time, and how many to decode with a gradient: no limit, but
    for a large network on a CPU; the same for every run of a recipe on such a device."""
    if session.context.device.type != "cpu" or not is_large(session.model.trainable):
        return None, None
    # What a direct algorithm replays is a small part of its calls: memory counts for more.
    direct = "reward_gradient" in getattr(session.algorithm, "needs", ())
    return (1 if direct else SEVERAL), 1


def choose_micro_batch(session: Session, batch: Batch) -> int:
    """A number of samples, at most `len(batch)`. Takes about four gradients of the batch, none of
    which is used or counted.

    Raises ComponentError for a sampler without steps to visit, and what the first call raises: with
    one sample it would fail in the run too.
    """
    if not hasattr(session.context.sampler, "transition"):
        raise ComponentError(
            "train.micro_batch: 'auto' measures one sampling step, and the sampler "
            f"{session.recipe.sampler.use!r} has none. Say a number."
        )
    seconds: dict[int, float] = {}
    for size in sizes_up_to(len(batch)):
        part = batch.select(slice(0, size))
        try:
            tries = [timed(partial(differentiate, session, part)) for _ in range(TRIES)]
        except torch.OutOfMemoryError:
            if size == 1:
                raise
            break  # larger ones need more
        seconds[size] = min(tries) / size
    return_freed_memory()
    return fewest(seconds)


def fewest(seconds: dict[int, float]) -> int:
    """The smallest number whose time for a sample is nearly the least of all."""
    least = min(seconds.values())
    return min(size for size, taken in seconds.items() if taken <= SLOWER * least)


def sizes_up_to(count: int) -> list[int]:
    """1, 2, 4, ... and `count` itself."""
    powers = [2**i for i in range(count.bit_length()) if 2**i < count]
    return [*powers, count]


def differentiate(session: Session, batch: Batch) -> None:
    """A gradient of the adapter through one step, and through the decoder where the algorithm goes
    through it; none is left behind, also where it does not fit."""
    # A context of its own, as evaluations have: the run's counts and records stay as they are. But
    # not with their sampler, which may be another one, without steps to visit.
    ctx = session.evaluation_context(scored=False)
    ctx.sampler = session.context.sampler
    try:
        rollout = ctx.rollout(batch, Plan(stop=0, keep=frozenset({0})))
        step = ctx.replay(rollout, 0)
        loss = step.next.square().mean()
        if "reward_gradient" in getattr(session.algorithm, "needs", ()):
            decoded = rollout.with_x0(step.next.detach().requires_grad_(True)).decoded
            parts = [p for p in named_tensors("decoded", decoded).values() if p.requires_grad]
            if parts:
                torch.stack([part.square().mean() for part in parts]).sum().backward()
        loss.backward()
    finally:
        # Memory may end in the middle of a backward pass: the first step would add to what it left.
        for parameter in session.adapter.parameters:
            parameter.grad = None


def timed(call: Callable[[], None]) -> float:
    """Seconds until the device is done."""
    wait = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    wait()
    start = time.perf_counter()
    call()
    wait()
    return time.perf_counter() - start
