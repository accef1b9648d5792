"""Finding and reading weights: safetensors only, from a file, a folder or a pinned revision of a
hub repository."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from rewardft.errors import ComponentError


def locate_file(source: str, filename: str, revision: str | None, reward: str) -> Path:
    """A safetensors file: `source` itself, `filename` in the folder `source`, or in the hub
    repository `source`.

    Raises ComponentError when it is missing or another format.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        path = path / filename
    if path.is_file():
        return require_safetensors(path, reward)
    # Only owner/name goes to the hub: a misspelt path must not become a download.
    if path.suffix or path.exists() or source.count("/") != 1:
        raise ComponentError(
            f"{reward}: expected a .safetensors file, a folder with {filename}, or a hub id "
            f"(owner/name); {source!r} does not exist."
        )
    require_safetensors(Path(filename), reward)
    from huggingface_hub import hf_hub_download

    def download() -> str:
        return hf_hub_download(source, filename, revision=revision)

    return Path(fetched(download, f"{reward}: {filename} of", source, revision))


def require_safetensors(path: Path, reward: str) -> Path:
    if path.suffix != ".safetensors":
        raise ComponentError(
            f"{reward}: {path} is not a .safetensors file. Other formats can run code when they "
            "are read; docs/rewards.md says how to convert published weights once."
        )
    return path


def fetched(load: Callable[[], Any], what: str, source: str, revision: str | None) -> Any:
    """Run a library's loader; its many errors become one ComponentError that names the source."""
    try:
        return load()
    except (OSError, ValueError, KeyError) as error:
        at = f" (revision {revision})" if revision else ""
        # Libraries append advice of many lines, about options that do not exist here.
        first = str(error).strip().partition("\n")[0]
        raise ComponentError(
            f"{what} {source!r}{at} cannot be loaded: {type(error).__name__}: {first}\n"
            f"Expected a folder or a hub id with safetensors weights and their configuration."
        ) from error


def read_tensors(path: Path, reward: str) -> dict[str, Tensor]:
    """The tensors of a safetensors file, as float32. Raises ComponentError for a damaged one."""
    try:
        tensors = load_file(path)
    except Exception as error:  # safetensors raises its own error type, or OSError
        raise ComponentError(
            f"{reward}: {path} cannot be read as safetensors (truncated?): {error}"
        ) from error
    return {name: value.float() for name, value in tensors.items()}


def linear_stack(tensors: dict[str, Tensor], source: str) -> nn.Sequential:
    """Linear layers one after another, by the names in a saved head: `layers.0.weight`,
    `layers.2.weight`, ... or `weight`.

    The dropout layers between them, whose numbers are skipped, do nothing in evaluation; there are
    no activations. Raises ComponentError unless the layers fit each other and end in one number.
    """
    prefixes = sorted(
        (name.removesuffix("weight") for name in tensors if name.endswith("weight")),
        key=layer_number,
    )
    layers: list[nn.Linear] = []
    problems = []
    for prefix in prefixes:
        weight = tensors[f"{prefix}weight"]
        # A head may be saved without biases.
        bias = tensors.get(f"{prefix}bias", torch.zeros(len(weight)))
        if layers and weight.shape[1] != layers[-1].out_features:
            given = layers[-1].out_features
            problems.append(
                f"{prefix}weight reads {weight.shape[1]} numbers, the layer before gives {given}"
            )
        layer = nn.Linear(weight.shape[1], len(weight))
        layer.load_state_dict({"weight": weight, "bias": bias})
        layers.append(layer)
    unknown = [n for n in tensors if not n.endswith(("weight", "bias"))]
    problems += [f"unexpected tensor {name}" for name in unknown]
    if not layers:
        problems.append("it has no layers")
    elif layers[-1].out_features != 1:
        problems.append(f"the last layer gives {layers[-1].out_features} numbers, expected 1")
    if problems:
        raise ComponentError(f"{source} is not a head of linear layers: {'; '.join(problems)}")
    return nn.Sequential(*layers)


def layer_number(prefix: str) -> int:
    """7 for `layers.7.`, 0 for a prefix without a number."""
    return max((int(part) for part in prefix.split(".") if part.isdigit()), default=0)
