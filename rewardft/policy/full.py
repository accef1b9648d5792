"""Full fine-tuning: all weights learn, in float32 whatever the model computes in."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization

from rewardft.errors import ComponentError
from rewardft.policy.weights import copy_state, to_cpu


# A parametrization, so that layers keep their class and find their weight under its name.
class Cast(nn.Module):
    """The weight that a layer computes with, of the one that is trained."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def forward(self, master: Tensor) -> Tensor:
        return master.to(self.dtype)


def keep_masters(module: nn.Module) -> None:
    """Train float32 weights where a model has shorter ones: most updates are smaller than what
    separates two bfloat16 numbers, and would be lost.

    Each layer still computes in its own precision: weights are cast whenever they are used.
    """
    short = (torch.bfloat16, torch.float16)
    found = [
        (owner, name, parameter, parameter.dtype)
        for owner in module.modules()
        for name, parameter in owner.named_parameters(recurse=False)
    ]
    # Collected first: registering one adds modules to those that are walked over.
    for owner, name, parameter, dtype in found:
        if dtype in short:
            parameter.data = parameter.data.float()
            # unsafe: torch refuses a parametrization that changes the dtype, as this one must.
            register_parametrization(owner, name, Cast(dtype), unsafe=True)


def layer_name(name: str) -> str:
    """The name of a weight in its layer; torch's for one with a master is
    `layer.parametrizations.weight.original`."""
    parts = name.split(".")
    if "parametrizations" not in parts:
        return name
    return ".".join(part for part in parts if part not in ("parametrizations", "original"))


class FullFineTuning:
    """All weights of `model.trainable` learn; the reference is a frozen copy."""

    def __init__(self, model: Any, keep_reference: bool) -> None:
        self.model, self.module = model, model.trainable
        # Copied before the float32 masters are made: the reference stays in the base's precision.
        self.reference = (
            copy.deepcopy(self.module).requires_grad_(False).eval() if keep_reference else None
        )
        self.module.requires_grad_(True)
        # The base's own dropout stays off: rollout and replay must be the same policy.
        self.module.eval()
        keep_masters(self.module)
        # The plain names, so that files load into a model that nobody has parametrized.
        self.named = {layer_name(n): p for n, p in self.module.named_parameters()}

    @property
    def parameters(self) -> list[nn.Parameter]:
        return list(self.named.values())

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """The frozen copy in the model's place; raises ComponentError when none is kept."""
        if self.reference is None:
            raise ComponentError(
                "full fine-tuning was set up without a reference model, and something asks for one"
            )
        before, self.model.trainable = self.model.trainable, self.reference
        try:
            yield
        finally:
            self.model.trainable = before

    def for_rollout(
        self, precision: torch.dtype | None, exact: bool
    ) -> AbstractContextManager[None]:
        """There is no adapter whose operations could be saved."""
        return nullcontext()

    def train_mode(self, on: bool) -> None:
        """Full fine-tuning has no adapter dropout; the base stays in evaluation mode."""

    def scale(self, factor: float) -> None:
        # Asked of every adapter before an evaluation; 1 changes nothing.
        if factor != 1.0:
            raise ComponentError("only LoRA adapters can be scaled; this run trained all weights")

    def state_dict(self) -> dict[str, Tensor]:
        state = self.module.state_dict()
        return {layer_name(name): value.detach() for name, value in state.items()}

    def load_state_dict(self, state: dict[str, Tensor], source: str) -> None:
        copy_state(self.state_dict(), state, source)

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(
            to_cpu(self.state_dict()), folder / "model.safetensors", metadata={"format": "pt"}
        )
