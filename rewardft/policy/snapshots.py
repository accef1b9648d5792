"""Earlier versions of the policy: copies of the adapter's tensors, and running the model with them
in place.

A snapshot is a dictionary of plain tensors, so that `Context.memory` keeps it through checkpoints
to the same bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from rewardft.errors import CheckpointError

Snapshot = dict[str, Tensor]


def take_snapshot(adapter: Any) -> Snapshot:
    """A copy of every tensor that learns, by name."""
    return {name: parameter.detach().clone() for name, parameter in adapter.named.items()}


def blend(snapshot: Snapshot, adapter: Any, decay: float) -> None:
    """snapshot <- decay * snapshot + (1 - decay) * policy, in place;
    decay 0 copies the policy exactly."""
    # `lerp_` and `copy_` would broadcast a tensor of another shape.
    check_fit(snapshot, adapter)
    for name, parameter in adapter.named.items():
        if decay == 0.0:
            snapshot[name].copy_(parameter.detach())
        else:
            snapshot[name].lerp_(parameter.detach(), 1.0 - decay)


@contextmanager
def swapped_in(adapter: Any, snapshot: Mapping[str, Tensor]) -> Iterator[None]:
    """Run the model with the snapshot's tensors, without autograd; afterwards the policy's own are
    back.

    The storages are exchanged and nothing is copied, so the policy's tensors are the same bits
    before and after, whatever happens inside. Autograd is off: a graph built inside would be
    differentiated with the wrong weights afterwards.
    """
    check_fit(snapshot, adapter)
    # Kept by reference, so that what comes back is the same storage, bit for bit.
    own = {name: parameter.data for name, parameter in adapter.named.items()}
    try:
        for name, parameter in adapter.named.items():
            # By `.data`: the parameters stay the same objects, which the optimizer holds.
            parameter.data = snapshot[name]
        with torch.no_grad():
            yield
    finally:
        for name, parameter in adapter.named.items():
            parameter.data = own[name]


def check_fit(snapshot: Mapping[str, Tensor], adapter: Any) -> None:
    """Raises CheckpointError unless the snapshot has the adapter's names and shapes."""
    own = {name: tuple(parameter.shape) for name, parameter in adapter.named.items()}
    got = {name: tuple(value.shape) for name, value in snapshot.items()}
    if own != got:
        differing = sorted(
            name for name in own.keys() | got.keys() if own.get(name) != got.get(name)
        )
        raise CheckpointError(
            f"a snapshot of the policy does not fit the adapter: {len(differing)} tensors differ, "
            f"the first is {differing[0]} (expected {own.get(differing[0])}, got "
            f"{got.get(differing[0])}). Was the checkpoint saved by a run with another adapter?"
        )


def load_snapshot(snapshot: Mapping[str, Tensor], adapter: Any) -> None:
    """Copy a snapshot into the adapter for good. Raises CheckpointError when it is of another."""
    check_fit(snapshot, adapter)
    for name, parameter in adapter.named.items():
        parameter.data.copy_(snapshot[name])
