"""Small networks that a plugin ships: float16 safetensors, read back in float32."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from rewardft.errors import ComponentError
from rewardft.files.atomic import make_folder, write_bytes


def load_weights(module: nn.Module, path: Path, made_by: str) -> None:
    """Fill `module` from a safetensors file.

    made_by: the command that writes such files, for the message.

    Raises ComponentError when the file is missing, damaged or does not fit.
    """
    try:
        state = load_file(path)
        # Halves are for the disk alone: a module computes in the precision that it was made in.
        module.load_state_dict({name: value.float() for name, value in state.items()})
    # RuntimeError: names or shapes that are those of another module.
    except (OSError, SafetensorError, RuntimeError) as error:
        raise ComponentError(
            f"{path}: expected the weights of a {type(module).__name__} as safetensors, as "
            f"{made_by} writes them ({error})"
        ) from error


def save_weights(module: nn.Module, path: Path) -> None:
    """Write the weights as float16, whole or not at all."""
    make_folder(path.parent)
    state = {
        name: value.detach().cpu().to(torch.float16).contiguous()
        for name, value in module.state_dict().items()
    }
    # `save_file` would make the file readable by its owner alone.
    write_bytes(path, save(state))
