"""An adapter in the precision of autocast, cast once for a rollout instead of at every call."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from rewardft.policy.rollout_weights import swapped


class AdapterCasts:
    """Casts what autocast would cast, and nothing else: to the last bit the same numbers.

    A model may run some layers with autocast switched off. In those an adapter of another precision
    would be another policy than the one that is replayed. Which they are shows when they are
    called, so that a layer is cast in every rollout but its first.

    layers: peft's, of a network `module`.
    under: of the layers that have been called in a rollout, by number, whether it was under
        autocast each time.
    """

    def __init__(self, module: nn.Module, layers: Sequence[Any]) -> None:
        self.module, self.layers = module, layers
        self.under: dict[int, bool] = {}

    @contextmanager
    def applied(self, precision: torch.dtype) -> Iterator[None]:
        """Around a rollout under autocast of `precision`."""
        # Compiled code has the casts in it, and would be compiled again for another precision.
        if any(module._compiled_call_impl is not None for module in self.module.modules()):
            yield
            return
        cast = [p for i, under in self.under.items() if under for p in adapter_of(self.layers[i])]
        fresh = [i for i in range(len(self.layers)) if i not in self.under]
        hooks = [
            self.layers[i].register_forward_pre_hook(partial(self.note, i, precision))
            for i in fresh
        ]
        try:
            with swapped(cast, [p.detach().to(precision) for p in cast]):
                yield
        finally:
            for hook in hooks:
                hook.remove()

    def note(self, i: int, precision: torch.dtype, layer: nn.Module, given: Any) -> None:
        """Layer `i` is called."""
        x: Tensor = given[0]
        device = x.device.type
        under = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) == precision
        self.under[i] = under and self.under.get(i, True)


def adapter_of(layer: nn.Module) -> list[nn.Parameter]:
    """The adapter's own tensors in one of peft's layers."""
    return [parameter for name, parameter in layer.named_parameters() if "lora_" in name]
