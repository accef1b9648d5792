"""Trained weights by the names that other programs look for."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from rewardft.errors import ComponentError
from rewardft.policy.full import FullFineTuning
from rewardft.policy.lora import Lora

# peft's two matrices, x -> B(A(x)), in kohya's words.
KOHYA = {"A": "lora_down", "B": "lora_up"}


def kohya_state(adapter: Lora, prefix: str) -> dict[str, Tensor]:
    """The adapter as kohya's trainer and ComfyUI have it: `PREFIXlayer_name.lora_down.weight`,
    `.lora_up.weight` and `.alpha`; its strength is alpha / rank, as here.

    prefix: what a reader of this family of models expects before the name of a layer.
    """
    state: dict[str, Tensor] = {}
    for name, parameter in adapter.named.items():
        layer, _, side = name.rpartition(".lora_")
        key = prefix + layer.replace(".", "_")
        entry = f"{key}.{KOHYA[side[0]]}.weight"
        # `a.b_c` and `a_b.c` have the same name there.
        if entry in state:
            raise ComponentError(f"two layers would be called {entry!r} in kohya's layout.")
        state[entry] = parameter.detach()
        state[f"{key}.alpha"] = torch.tensor(float(adapter.config.lora_alpha))
    return state


def merged_state(adapter: Lora | FullFineTuning) -> dict[str, Tensor]:
    """The weights of the whole trained network under the base's own names and in its precision,
    with the adapter added in."""
    if isinstance(adapter, FullFineTuning):
        # Of a float32 master the layer has a cast under the plain name.
        return {name: value_at(adapter.module, name) for name in adapter.state_dict()}
    layers = dict(adapter.module.named_modules())
    state = {}
    for name, value in adapter.module.state_dict().items():
        if ".lora_" in name:
            continue
        if name.endswith(".base_layer.weight"):
            layer: Any = layers[name.removesuffix(".base_layer.weight")]
            # In float32: a small change would be lost between two bfloat16 numbers.
            value = (value.float() + layer.get_delta_weight("default").float()).to(value.dtype)
        state[name.replace(".base_layer.", ".")] = value.detach()
    return state


def value_at(module: Any, name: str) -> Tensor:
    """A parameter or buffer by its dotted name."""
    value: Tensor = functools.reduce(getattr, name.split("."), module)
    return value.detach()
