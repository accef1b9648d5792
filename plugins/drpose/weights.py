"""Read and write weights: safetensors only, every mismatch reported at once."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from rewardft.errors import ComponentError, did_you_mean
from rewardft.files.atomic import make_folder, write_bytes

ASSETS = Path(__file__).parent / "assets" / "weights"
Network = TypeVar("Network", bound=nn.Module)
SHIPPED = "shipped"  # in a recipe, in place of a path: the weights that come with this plugin


def locate(weights: str | os.PathLike[str], kind: str) -> Path:
    """Folder of the weights of a `kind` (compact, skeleton, judge, ...): a path, or "shipped".

    Raises `ComponentError` when it does not exist.
    """
    # One word for the shipped weights, whatever the place of the installation.
    folder = ASSETS / kind if weights == SHIPPED else Path(weights).expanduser()
    if not folder.is_dir():
        hint = (
            f"; this installation of the plugin lacks them ({ASSETS})" if weights == SHIPPED else ""
        )
        raise ComponentError(
            f"expected a folder with the {kind} weights, got {str(weights)!r}, which is not a "
            f"folder{hint}. "
            f'Give the path of a saved folder, or "{SHIPPED}".'
        )
    return folder


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object. Raises `ComponentError` naming the file when it is missing or damaged."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ComponentError(
            f"{path} is missing; is {str(path.parent)!r} a folder of saved weights?"
        ) from None
    except json.JSONDecodeError as error:
        raise ComponentError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise ComponentError(f"{path} holds a {type(value).__name__}, expected a JSON object")
    return value


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file, as float32. Raises `ComponentError` when it is missing, damaged or
    another format."""
    if path.suffix != ".safetensors":
        raise ComponentError(
            f"{path}: weights are read from .safetensors files only, which cannot run code"
        )
    if not path.is_file():
        raise ComponentError(
            f"{path} is missing; is {str(path.parent)!r} a folder of saved weights?"
        )
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        text = f"{path} cannot be read as safetensors (truncated?): {error}"
        raise ComponentError(text) from error
    # float16 on disk halves the files; on the CPU networks run in float32.
    return {name: v.float() if v.is_floating_point() else v for name, v in tensors.items()}


def write_tensors(path: Path, tensors: Mapping[str, Tensor], *, half: bool = False) -> None:
    """Write a safetensors file, complete or not at all. half: floating point as float16."""
    kept = {
        name: (value.half() if half and value.is_floating_point() else value)
        .detach()
        .cpu()
        .contiguous()
        for name, value in tensors.items()
    }
    # Unlike save_file, with the permissions of any other file.
    write_bytes(path, save(kept))


def load_into(
    module: nn.Module, tensors: Mapping[str, Tensor], source: str, *, may_lack: tuple[str, ...] = ()
) -> None:
    """Load `tensors` into `module`, strictly.

    may_lack: parts of names that `source` may leave out (they keep their initial values).
    Raises `ComponentError` listing every missing, unexpected and misshapen tensor.
    """
    wanted = module.state_dict()
    problems = [
        f"missing {name} {tuple(wanted[name].shape)}"
        for name in wanted
        if name not in tensors and not any(part in name for part in may_lack)
    ]
    problems += [
        f"unexpected {name}.{did_you_mean(name, wanted)}" for name in tensors if name not in wanted
    ]
    problems += [
        f"{name} has shape {tuple(tensors[name].shape)}, expected {tuple(wanted[name].shape)}"
        for name in wanted
        if name in tensors and tensors[name].shape != wanted[name].shape
    ]
    if problems:
        # A network of another size differs in hundreds of tensors.
        shown = problems[:8] + ([f"... and {len(problems) - 8} more"] if len(problems) > 8 else [])
        raise ComponentError(
            f"{source} does not fit the model:\n" + "\n".join(f"  - {line}" for line in shown)
        )
    # Checked above; strict would refuse what `may_lack` allows.
    module.load_state_dict(dict(tensors), strict=False)


def save_network(module: Any, folder: Path, name: str, *, half: bool = False) -> None:
    """Write NAME.json, the options of a network (its `config`), and NAME.safetensors."""
    make_folder(folder)
    write_json(folder / f"{name}.json", module.config)
    write_tensors(folder / f"{name}.safetensors", module.state_dict(), half=half)


def build_network(kind: type[Network], config: Mapping[str, Any], source: Path) -> Network:
    """A network with the options that a file holds. Raises `ComponentError` for options that it
    does not have."""
    try:
        return kind(**config)
    except TypeError as error:
        raise ComponentError(f"{source} does not describe a {kind.__name__}: {error}") from None


def load_network(kind: type[Network], folder: Path, name: str) -> Network:
    """Read what `save_network` wrote. Raises `ComponentError` when something is missing or does not
    fit."""
    source, path = folder / f"{name}.json", folder / f"{name}.safetensors"
    module = build_network(kind, read_json(source), source)
    load_into(module, read_tensors(path), str(path))
    return module


def parameter_count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def freeze(module: nn.Module) -> nn.Module:
    """Evaluation mode, no gradients on the weights. Gradients still flow through to the input."""
    return module.eval().requires_grad_(False)


def on_device_of(module: nn.Module, value: Tensor) -> Tensor:
    return value.to(next(module.parameters()).device, torch.float32)
