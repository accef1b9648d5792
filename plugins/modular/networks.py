"""The denoisers of a loop, one or several, as one module that learns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from rewardft_plugins.modular.blocks import BlockChain
from torch import Tensor, nn

from rewardft.errors import ComponentError, did_you_mean

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0", "to_qkv_mlp_proj")  # diffusers' names everywhere


class Denoisers:
    """The networks that learn, by the names of their components.

    Args:
        chain: the blocks whose loop calls them.
        wanted: names of those that learn; none: all that the loop calls.

    Raises ComponentError for a name that the loop does not know.
    """

    def __init__(self, chain: BlockChain, wanted: Sequence[str]) -> None:
        networks = chain.networks
        for name in wanted:
            if name not in networks:
                hint = did_you_mean(name, networks)
                raise ComponentError(f"train: the loop has no network {name!r}.{hint}")
        self.names = list(dict.fromkeys(wanted)) or list(networks)
        self.all: Mapping[str, Any] = networks
        self._pipe = chain.pipe
        self._called: set[str] = set()
        # Noted at every call, so that `with_idle_weights` knows which network rested.
        for name in self.names:
            note_calls(networks[name], name, self._called)

    @property
    def dtype(self) -> torch.dtype:
        found: torch.dtype = self.all[self.names[0]].dtype
        return found

    def together(self) -> nn.Module:
        """The network, or several side by side in a `ModuleDict`."""
        if len(self.names) == 1:
            found: nn.Module = self.all[self.names[0]]
            return found
        return nn.ModuleDict({name: self.all[name] for name in self.names})

    def install(self, module: nn.Module) -> None:
        """Let the pipeline call `module`, which is one of the kind that `together` gives."""
        for name in self.names:
            network = module[name] if len(self.names) > 1 else module  # type: ignore[index]
            setattr(self._pipe, name, network)

    def enable_checkpointing(self) -> None:
        for network in self.all.values():
            network.enable_gradient_checkpointing()

    def start(self) -> None:
        """A call of the loop begins."""
        self._called.clear()

    def with_idle_weights(self, output: Tensor, module: nn.Module) -> Tensor:
        """Give trained networks that this call did not need a gradient of zero, not none.

        A timestep belongs to one of two networks, and to learn nothing there is no fault.
        """
        if len(self.names) == 1 or not torch.is_grad_enabled():
            return output
        idle = [module[name] for name in self.names if name not in self._called]  # type: ignore[index]
        weights = [p for network in idle for p in network.parameters() if p.requires_grad]
        # No gradient at all is what the start-up audit takes for a mistake.
        return output + sum((0.0 * weight.sum()).to(output.dtype) for weight in weights)


def attention_targets(module: nn.Module, called: set[str]) -> list[str]:
    """The projections of attention among the layers that are called, for an adapter.

    A name stands for all layers that end in it, if all of these are called.
    """
    layers = [name for name, layer in module.named_modules() if isinstance(layer, nn.Linear)]
    targets: list[str] = []
    for ending in ATTENTION:
        found = [layer for layer in layers if layer.endswith("." + ending)]
        used = [layer for layer in found if layer in called]
        # An ending that also matches idle layers would give them adapters that never learn.
        targets += used if len(used) < len(found) else [ending] * bool(found)
    return targets


def note_calls(module: nn.Module, name: str, called: set[str]) -> Any:
    """Add `name` to `called` whenever the module runs; returns what undoes that."""

    def note(*_: Any) -> None:
        called.add(name)

    return module.register_forward_pre_hook(note)
