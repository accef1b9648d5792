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

    A model may run some layers with autocast switched off, always or in some calls. There an
    adapter of another precision would be another policy than the one that is replayed. Which layers
    they are shows when they are called: one is cast from its second rollout on, and no longer once
    it has been called outside of autocast.

    layers: peft's, of a network `module`.
    under: of the layers that have been called in a rollout, by number, whether it was under
        autocast each time.
    uncast: of the layers that are cast now, by number, their own tensors.
    """

    def __init__(self, module: nn.Module, layers: Sequence[Any]) -> None:
        self.module, self.layers = module, layers
        self.under: dict[int, bool] = {}
        self.uncast: dict[int, list[Tensor]] = {}

    @contextmanager
    def applied(self, precision: torch.dtype) -> Iterator[None]:
        """Around a rollout under autocast of `precision`; in another one nothing is left to do."""
        # Compiled code has the casts in it, and would be compiled again for another precision.
        compiled = any(m._compiled_call_impl is not None for m in self.module.modules())
        if compiled or self.uncast:
            yield
            return
        cast = {i: adapter_of(self.layers[i]) for i, under in self.under.items() if under}
        self.uncast = {i: [p.data for p in parameters] for i, parameters in cast.items()}
        flat = [p for parameters in cast.values() for p in parameters]
        device = next(self.module.parameters()).device.type
        hooks = [
            layer.register_forward_pre_hook(partial(self.note, i, device, precision))
            for i, layer in enumerate(self.layers)
        ]
        try:
            with swapped(flat, [p.detach().to(precision) for p in flat]):
                yield
        finally:
            self.uncast = {}
            for hook in hooks:
                hook.remove()

    def note(self, i: int, device: str, precision: torch.dtype, layer: nn.Module, _: Any) -> None:
        """Layer `i` is called: outside of autocast with its own tensors, also from now on."""
        if torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) == precision:
            self.under.setdefault(i, True)
            return
        self.under[i] = False
        for parameter, own in zip(adapter_of(layer), self.uncast.pop(i, [])):
            parameter.data = own


def adapter_of(layer: nn.Module) -> list[nn.Parameter]:
    """The adapter's own tensors in one of peft's layers."""
    return [parameter for name, parameter in layer.named_parameters() if "lora_" in name]
