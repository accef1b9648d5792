"""Decoding with a gradient, and with less of it in memory.

Decoders are made of group normalization, SiLU and convolution, one after the other. Autograd keeps
the input of each, three pictures of activations. With frozen weights one is enough: SiLU's input is
computed again from the normalization's, and a convolution's gradient at its input does not depend
on the input. The gradient is the same to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import conv2d, group_norm, silu
from torch.overrides import TorchFunctionMode


class LeanDecoding(TorchFunctionMode):
    """Around a decoder's call."""

    def __init__(self) -> None:
        super().__init__()
        # What the last normalization made, its version then, and of what: SiLU follows at once.
        self._normed: tuple[Tensor, int, Any] | None = None

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        named = dict(kwargs or {})
        if func is conv2d and is_plain(args, named):
            return FrozenConvolution.apply(*args)
        if func is silu and (source := self._source_of(args, named)):
            return SiluOfNormed.apply(args[0], *source)
        result = func(*args, **named)
        if func is group_norm and args:
            names = ("num_groups", "weight", "bias", "eps")
            given = dict(zip(names, args[1:])) | named
            frozen = is_frozen([args[0], given.get("weight"), given.get("bias")])
            self._normed = (result, result._version, (args[0], given)) if frozen else None
        return result

    def _source_of(self, args: Sequence[Any], named: Mapping[str, Any]) -> Any:
        """What the argument of a SiLU was normalized from; None where it is something else, or is
        to be written over."""
        (normed, version, source), self._normed = self._normed or (None, 0, None), None
        if normed is None or len(args) != 1 or named.get("inplace", False):
            return None
        # Scaled or shifted in place, it is the same tensor and another value.
        return source if args[0] is normed and normed._version == version else None


def is_plain(args: Sequence[Any], named: Mapping[str, Any]) -> bool:
    """Whether a convolution is of a batch of pictures, padded by numbers, and frozen."""
    in_words = bool(named) or any(isinstance(value, str) for value in args)
    return not in_words and args[0].ndim == 4 and is_frozen(args)


def is_frozen(args: Sequence[Any]) -> bool:
    """Whether the first of `args` alone is differentiated, all in one precision, and one that has
    no kernels of its own (see `cpu_kernels.py`)."""
    first, *others = args
    alike = first.dtype != torch.bfloat16 and not torch.is_autocast_enabled(first.device.type)
    # None beside tensors: a layer may have no bias.
    for other in (t for t in others if isinstance(t, Tensor)):
        alike = alike and other.dtype == first.dtype and not other.requires_grad
    return alike and bool(first.requires_grad) and torch.is_grad_enabled()


class SiluOfNormed(torch.autograd.Function):
    """SiLU of what a group normalization has made of `source`, which it keeps anyway."""

    @staticmethod
    def forward(ctx: Any, normed: Tensor, source: Tensor, given: Mapping[str, Any]) -> Tensor:
        ctx.given = given
        ctx.save_for_backward(source)
        return silu(normed)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        normed = group_norm(*ctx.saved_tensors, **ctx.given)
        return torch.ops.aten.silu_backward(gradients[0], normed), None, None


class FrozenConvolution(torch.autograd.Function):
    """A convolution whose weight does not learn; its input is not kept."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Tensor:
        """As `conv2d`."""
        ctx.layout, ctx.settings = (x.shape, x.stride()), (stride, padding, dilation, groups)
        ctx.save_for_backward(weight)
        return conv2d(x, weight, bias, stride, padding, dilation, groups)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        """The gradient at x."""
        (weight,) = ctx.saved_tensors
        stride, padding, dilation, groups = ctx.settings
        # Its shape and layout are looked at, not its numbers.
        like = torch.empty_strided(*ctx.layout, dtype=weight.dtype, device=weight.device)
        (gradient, _, _) = torch.ops.aten.convolution_backward(
            gradients[0],
            like,
            weight,
            None,
            pair(stride),
            pair(padding),
            pair(dilation),
            False,
            [0, 0],
            groups,
            [True, False, False],
        )
        return gradient, *[None] * 6


def pair(value: Any) -> list[int]:
    """Of height and width."""
    return [value, value] if isinstance(value, int) else list(value)
