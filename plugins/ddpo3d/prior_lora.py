"""A low-rank adapter of the prior that is trained beside the scenes (for `vsd`), through peft."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from rewardft.errors import ComponentError


class PriorLora:
    """Low-rank adapters (Hu et al. 2021, 2106.09685) in a frozen network, switched off but for the
    time that `active` is entered.

    parameters: the tensors that are trained, the network's own, as a module that can be a part of
        another one.
    """

    def __init__(self, prior: Any, rank: int, seed: int) -> None:
        """In the layers that `prior.lora_targets` names; in all linear layers where it has none."""
        from peft import LoraConfig, inject_adapter_in_model

        network: nn.Module = prior.trainable
        targets = getattr(prior, "lora_targets", None)
        config = LoraConfig(
            r=rank,
            lora_alpha=rank,
            target_modules=linear_layers(network) if targets is None else list(targets),
        )
        # The seed is the scenes'; the global generator is left as it was.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            inject_adapter_in_model(config, network)
        network.eval()
        self.layers: list[Any] = [
            m for m in network.modules() if hasattr(m, "lora_A") and hasattr(m, "disable_adapters")
        ]
        self.parameters = nn.Module()
        for name, parameter in network.named_parameters():
            if ".lora_" in name:
                # Updates smaller than the last bit of a bfloat16 adapter would be lost.
                is_short = parameter.dtype in (torch.bfloat16, torch.float16)
                parameter.data = parameter.data.float() if is_short else parameter.data
                self.parameters.register_parameter(name.replace(".", "/"), parameter)
        self.switch(on=False)

    @contextmanager
    def active(self) -> Iterator[None]:
        """The network with its adapter."""
        self.switch(on=True)
        try:
            yield
        finally:
            self.switch(on=False)

    def switch(self, on: bool) -> None:
        # The flag alone: peft's public switch also touches `requires_grad`.
        for layer in self.layers:
            layer._disable_adapters = not on


def linear_layers(network: nn.Module) -> list[str]:
    """Names of all linear layers; raises ComponentError where there is none."""
    names = [name for name, layer in network.named_modules() if isinstance(layer, nn.Linear)]
    if not names:
        raise ComponentError(
            f"model.lora_rank needs a prior with linear layers or `lora_targets`; "
            f"{type(network).__name__} has neither"
        )
    return names
