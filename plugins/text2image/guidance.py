"""Classifier-free guidance (Ho & Salimans 2022, 2207.12598)
around any predictor of conditions in dictionaries."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

Condition = dict[str, Tensor]  # by name, the sample in the leading dimension
GuidanceGradient = Literal["inside", "outside"]


def guide(
    predict: Callable[[Tensor, Tensor, Condition], Tensor],
    x: Tensor,
    t: Tensor,
    cond: Condition,
    null: Condition,
    scale: float,
    gradient: GuidanceGradient,
) -> Tensor:
    """null + scale * (cond - null), shaped as x: one forward for both.

    gradient: `outside` makes the unconditional half a constant; with autograd on it then takes a
        forward of its own.
    """
    if gradient == "outside" and torch.is_grad_enabled():
        # Two calls: in one of both halves, autograd would keep the graph of the unconditional one
        # too.
        conditional = predict(x, t, cond)
        with torch.no_grad():
            unconditional = predict(x, t, null)
    else:
        # (2 b, ...): unconditional rows first, as diffusers' pipelines stack them.
        both = {name: torch.cat([null[name], cond[name]]) for name in cond}
        unconditional, conditional = predict(torch.cat([x, x]), torch.cat([t, t]), both).chunk(2)
    return unconditional + scale * (conditional - unconditional)


def replace_rows(cond: Condition, null: Condition, mask: Tensor) -> Condition:
    """The condition with the samples where `mask` `(b,)` is true taken from `null`."""
    return {
        name: torch.where(mask.view(-1, *[1] * (value.ndim - 1)), null[name], value)
        for name, value in cond.items()
    }


def to_pixels(decoded: Tensor) -> Tensor:
    """From [-1, 1] to [0, 1], clamped with the gradient of the identity: a pixel beyond the ends
    can be pulled back."""
    pixels = decoded.float() / 2 + 0.5
    # The clamped value, with a slope of 1 everywhere.
    return pixels + (pixels.clamp(0, 1) - pixels).detach()
