"""Tensors of trained weights by name: from and for a file, and back with every misfit named."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from rewardft.errors import CheckpointError


def to_cpu(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous copies on the CPU, as safetensors wants them."""
    return {name: value.cpu().contiguous() for name, value in state.items()}


def copy_state(own: dict[str, Tensor], state: dict[str, Tensor], source: str) -> None:
    """Copy tensor by tensor; raises CheckpointError for one that is missing, unexpected, of another
    shape or kind of number, or not finite."""
    # All checks come before the first copy: weights that are half of one state are of none.
    problems = [f"missing {n}" for n in own.keys() - state.keys()]
    problems += [f"unexpected {n}" for n in state.keys() - own.keys()]
    both = own.keys() & state.keys()
    problems += [
        f"{n}: expected shape {tuple(own[n].shape)}, got {tuple(state[n].shape)}"
        for n in both
        if own[n].shape != state[n].shape
    ]
    problems += [f"{n}: {wrong}" for n in both if (wrong := fault(own[n], state[n]))]
    if problems:
        shown = "\n".join(f"  - {p}" for p in sorted(problems)[:10])
        count = len(problems)
        raise CheckpointError(
            f"{source}: does not fit this model and adapter ({count} tensors differ)\n{shown}"
        )
    with torch.no_grad():
        for name, value in state.items():
            own[name].copy_(value)


def fault(own: Tensor, value: Tensor) -> str:
    """What is wrong with the numbers of a tensor that is to be copied into `own`; '' if nothing
    is."""
    if own.is_floating_point() != value.is_floating_point() or value.is_complex():
        return f"expected numbers of {own.dtype}, got {value.dtype}"
    bad = int((~torch.isfinite(value)).sum()) if value.is_floating_point() else 0
    return f"{bad:,} of its {value.numel():,} numbers are NaN or infinite" if bad else ""


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a weight file. Raises CheckpointError."""
    if not path.is_file():
        raise CheckpointError(
            f"{path}: no such file; expected the weights that a run of this recipe saved"
        )
    try:
        return load_file(path)
    # safetensors has error types of its own, and damaged headers raise others.
    except Exception as error:
        raise CheckpointError(f"{path}: not a readable safetensors file ({error})") from error
