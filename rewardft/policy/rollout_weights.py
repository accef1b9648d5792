"""The weights of an adapter for calls without autograd, where the same numbers cost less."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

# Weights of a network from which on what its calls cost is arithmetic. Smaller ones stay as they
# are, to the last bit.
LARGE = 5_000_000


# Of the networks that were asked about: small ones take as long to count as to call.
_sizes: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()


def is_large(module: nn.Module) -> bool:
    """Whether a network had `LARGE` weights or more when this was first asked. The answer stays,
    whatever becomes of the network: a run rounds alike from its first step to its last."""
    if module not in _sizes:
        _sizes[module] = sum(parameter.numel() for parameter in module.parameters())
    return _sizes[module] >= LARGE


@contextmanager
def swapped(parameters: Sequence[nn.Parameter], values: Sequence[Tensor]) -> Iterator[None]:
    """The parameters have `values` inside, and afterwards the very tensors that they had."""
    before = [parameter.data for parameter in parameters]
    try:
        for parameter, value in zip(parameters, values):
            parameter.data = value
        yield
    finally:
        for parameter, value in zip(parameters, before):
            parameter.data = value


def foldable(module: nn.Module, layers: Sequence[Any]) -> list[nn.Parameter]:
    """The base weights that peft's `layers` may be added to, in their order; none where one of them
    cannot be, or where the network is small."""
    # FSDP2 gives a module that it has spread this method: no process has the weights to add to.
    if not is_large(module) or hasattr(module, "unshard"):
        return []
    weights = [layer.get_base_layer().weight for layer in layers]
    plain = all(
        # Neither quantized nor spread, and in the adapter's precision: in bfloat16 a small update
        # would be lost in the sum.
        type(weight) is nn.Parameter
        and is_plain(layer.get_base_layer())
        and weight.dtype == layer.lora_A["default"].weight.dtype
        for layer, weight in zip(layers, weights)
    )
    # A weight of two layers would give the other one, such as an embedding, this adapter.
    uses = Counter(id(p) for m in module.modules() for p in m.parameters(recurse=False))
    return weights if plain and all(uses[id(weight)] == 1 for weight in weights) else []


def is_plain(layer: nn.Module) -> bool:
    """Whether a layer with W + s B A is the layer plus peft's own for the adapter, which pads with
    zeros. A class of somebody's own may do more with its weight."""
    if type(layer) is nn.Conv2d:
        return layer.padding_mode == "zeros" and layer.groups == 1
    return type(layer) is nn.Linear


def sums(layers: Sequence[Any], weights: Sequence[nn.Parameter]) -> list[Tensor]:
    """W + s B A of each layer."""
    with torch.no_grad():
        return [w.data + layer.get_delta_weight("default") for layer, w in zip(layers, weights)]
