"""Two of torch's operations whose backward pass in bfloat16 takes a CPU two to six times as long as
in float32: attention and group normalization. Inside `quick_backward` they run in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import group_norm, scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

SLOW = (group_norm, scaled_dot_product_attention)


def quick_backward(device: torch.device) -> AbstractContextManager[Any]:
    """Around a forward pass that is going to be differentiated, or compared with one; on other
    devices than a CPU nothing changes. Results are those of float32, rounded to bfloat16."""
    return InFloat32() if device.type == "cpu" else nullcontext()


class InFloat32(TorchFunctionMode):
    """Computes the slow operations of bfloat16 tensors in float32."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        named = kwargs or {}
        if func not in SLOW or not is_short(args[0] if args else named.get("query")):
            return func(*args, **named)
        # Autocast would undo it.
        with torch.autocast("cpu", enabled=False):
            wide = [widened(value) for value in args]
            result: Tensor = func(*wide, **{name: widened(v) for name, v in named.items()})
        return result.bfloat16()


def is_short(value: Any) -> bool:
    """Whether it is a tensor in bfloat16."""
    return isinstance(value, Tensor) and value.dtype == torch.bfloat16


def widened(value: Any) -> Any:
    """A tensor in bfloat16 as one in float32; anything else as it is."""
    return value.float() if is_short(value) else value
