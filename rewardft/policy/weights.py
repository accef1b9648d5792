"""Tensors of trained weights by name: copies for a file, and back with every misfit named."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rewardft.errors import CheckpointError

if TYPE_CHECKING:
    pass


def to_cpu(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous copies on the CPU, as safetensors wants them."""
    return {name: value.cpu().contiguous() for name, value in state.items()}


def copy_state(own: dict[str, Tensor], state: dict[str, Tensor], source: str) -> None:
    """Copy tensor by tensor; a missing, surplus or misshapen tensor raises CheckpointError."""
    problems = [f"missing {n}" for n in own.keys() - state.keys()]
    problems += [f"unexpected {n}" for n in state.keys() - own.keys()]
    problems += [
        f"{n}: expected shape {tuple(own[n].shape)}, got {tuple(state[n].shape)}"
        for n in own.keys() & state.keys()
        if own[n].shape != state[n].shape
    ]
    if problems:
        shown = "\n".join(f"  - {p}" for p in sorted(problems)[:10])
        count = len(problems)
        raise CheckpointError(
            f"{source}: does not fit this model and adapter ({count} tensors differ)\n{shown}"
        )
    with torch.no_grad():
        for name, value in state.items():
            own[name].copy_(value)
