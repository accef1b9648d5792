"""Read and write the plugin's networks: float16 safetensors."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from rewardft.errors import ComponentError

ASSETS = Path(__file__).parent / "assets"
SHIPPED = "shipped"


def find(given: str, shipped: str) -> Path:
    """The path that an option names: a file of the plugin's, or the user's."""
    return ASSETS / shipped if given == SHIPPED else Path(given).expanduser()


def load_weights(module: nn.Module, path: Path) -> None:
    """Fill `module` from a safetensors file; raises ComponentError when it is missing, damaged or
    does not fit."""
    try:
        state = load_file(path)
        module.load_state_dict({name: value.float() for name, value in state.items()})
    except (OSError, SafetensorError, RuntimeError) as error:
        raise ComponentError(
            f"{path}: expected weights as safetensors, as the commands under `rewardft posert` "
            f"write them ({error})"
        ) from error


def save_weights(module: nn.Module, path: Path) -> None:
    """Write the weights as float16."""
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {
        name: value.detach().cpu().to(torch.float16).contiguous()
        for name, value in module.state_dict().items()
    }
    path.write_bytes(save(state))


def export_run(run: Path, out: Path, average: bool) -> None:
    """The trained network of a run folder, or its average, as a float16 weight file.

    Raises ComponentError when the run has not been trained in full.
    """
    folders = ["adapter_ema", "adapter"] if average else ["adapter"]
    files = [run / folder / "model.safetensors" for folder in folders]
    found = next((file for file in files if file.is_file()), None)
    if found is None:
        raise ComponentError(
            f"{run}: expected a finished run with `adapter: {{kind: full}}`, whose weights are in "
            f"{files[-1]}"
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(save({name: value.half() for name, value in load_file(found).items()}))
