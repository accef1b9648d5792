"""The frozen base spread over the processes (FSDP2): each holds a part of every block, and the
whole of a block only while it is computed.

The adapter is not spread: every process has all of it, and its gradients are averaged as without
sharding. The base never changes, so nothing that is gathered can be stale.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from rewardft.errors import ComponentError


def shard_base(module: nn.Module, trained: Collection[nn.Parameter], device: torch.device) -> None:
    """Spread the frozen weights of `module` over all processes, block by block; a block is moved to
    `device` when its turn comes, so that no device ever holds all of them.

    Raises ComponentError without several processes, or where nothing is frozen.
    """
    import torch.distributed as dist

    if not dist.is_initialized() or dist.get_world_size() < 2:
        raise ComponentError(
            "train.shard: true spreads the base over several processes, and this run has one. "
            "Start it with a launcher (docs/scaling.md), or leave `shard` out."
        )
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    whole = set(trained)
    for block in [*blocks_of(module), module]:
        # What learns stays whole. Memory is freed after each forward: replay comes much later.
        fully_shard(block, mesh=mesh, ignored_params=whole)


@contextmanager
def kept_whole(module: nn.Module) -> Iterator[None]:
    """A block that is gathered inside stays whole until the end: all later calls of a rollout find
    it there, for the memory of the whole base. Nothing can be stale, as the base never changes."""
    from torch.distributed.fsdp import FSDPModule

    # Not the outermost: what it holds beside the blocks stays whole after a call anyway.
    inner = [m for m in module.modules() if isinstance(m, FSDPModule) and m is not module]
    for block in inner:
        block.set_reshard_after_forward(False, recurse=False)
    try:
        yield
    finally:
        for block in inner:
            block.set_reshard_after_forward(True, recurse=False)
            block.reshard()


def blocks_of(module: nn.Module) -> Iterator[nn.Module]:
    """The blocks that a model of diffusers or transformers says not to split, inner ones first;
    none for other modules, which are then gathered as a whole."""
    names = set(getattr(module, "_no_split_modules", None) or ())
    # Reversed: torch lists a module before what it holds, and a block must come after that.
    for block in reversed(list(module.modules())):
        if type(block).__name__ in names and block is not module:
            yield block
