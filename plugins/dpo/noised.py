"""Visits of the forward process: clean samples, noised to one timestep each, and how well a policy
denoises them.

With x_t = alpha * x0 + sigma * epsilon and a network f, every prediction type has an error f(x_t) -
target that is a multiple of the error of its noise prediction at the same x_t:

    type       epsilon_hat                    error of epsilon_hat, as a multiple of the error of f
    epsilon    f                              1
    v          alpha * f + sigma * x_t        alpha
    flow       x_t + (1 - sigma) * f          alpha = 1 - sigma
    sample     (x_t - alpha * f) / sigma      -alpha / sigma
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from rewardft.algorithms.denoising import forward_process
from rewardft.errors import ComponentError
from rewardft.policy.context import Context
from rewardft.samplers.prediction import target_output
from rewardft.types import Batch, micro_slices

Space = Literal["epsilon", "output"]


@dataclass(frozen=True)
class Noised:
    """Samples on the forward process, `(b, ...)`; `weight` `(b,)` turns the output's squared error
    into the loss's."""

    x: Tensor
    t: Tensor
    cond: Any
    target: Tensor
    weight: Tensor


def add_noise(
    ctx: Context,
    batch: Batch,
    x0: Tensor,
    stream: str,
    space: Space = "epsilon",
    condition_dropout: float = 0.0,
) -> Noised:
    """Noise x0 `(b, ...)` to one timestep per sample, uniform over the model's training timesteps.

    Timestep, noise and dropped condition are functions of the sample's id and `stream`: rows with
    the same id share all three. With `space` epsilon the loss is that of the noise prediction
    whatever the network predicts; with output that of the network's own target.
    """
    draws = ctx.noise(batch)
    with torch.no_grad():
        cond = ctx.encode(batch)
        if condition_dropout:
            cond = ctx.policy.drop(cond, draws.uniform(f"{stream}/condition") < condition_dropout)
        epsilon = draws.draw(f"{stream}/noise", x0.shape[1:])
        t, alpha, sigma = forward_process(
            ctx.policy.scheduler, draws.uniform(f"{stream}/timestep"), x0
        )
    kind = prediction_type(ctx)
    target = target_output(kind, x0, epsilon, alpha, sigma)
    scale = {"epsilon": torch.ones_like(alpha), "sample": alpha / sigma}.get(kind, alpha)
    weight = scale.flatten().square() if space == "epsilon" else torch.ones_like(alpha).flatten()
    return Noised(alpha * x0 + sigma * epsilon, t, cond, target, weight)


def prediction_type(ctx: Context) -> str:
    """The model's: epsilon, v_prediction, sample, or flow_prediction."""
    return str(getattr(ctx.policy.scheduler.config, "prediction_type", "flow_prediction"))


def squared_error(ctx: Context, at: Noised) -> Tensor:
    """`(b,)`: mean over the dimensions of a sample, under the current policy, in the caller's
    gradient mode.

    Without guidance: what is compared with the noise is a prediction of it.
    """
    ctx.adapter.train_mode(torch.is_grad_enabled())
    try:
        with ctx.policy.unguided():
            output = ctx.policy.denoise(at.x, at.t, at.cond).to(at.x.dtype)
    finally:
        ctx.adapter.train_mode(False)
    return at.weight * (output - at.target).square().flatten(1).mean(1)


def reference_error(ctx: Context, at: Noised) -> Tensor:
    """The same under the reference policy, the adapter switched off; no autograd."""
    with torch.no_grad(), ctx.adapter.disabled():
        return squared_error(ctx, at)


def twice(batch: Batch) -> Batch:
    """Every sample twice in a row under the same id: rows 2i and 2i + 1 draw the same timestep and
    noise."""
    ids = tuple(id_ for id_ in batch.ids for _ in range(2))
    return replace(batch.repeat(2), ids=ids)


def interleave(first: Tensor, second: Tensor) -> Tensor:
    """`(2b, ...)`: first[0], second[0], first[1], second[1], ..."""
    return torch.stack([first, second], dim=1).flatten(0, 1)


def clean_samples(ctx: Context, batch: Batch, column: str, source: str) -> Tensor:
    """The column `source` as the model's clean samples: its `clean(batch)` with `source` in the
    place of `column`."""
    if not hasattr(ctx.policy.model, "clean"):
        raise ComponentError(
            f"{type(ctx.policy.model).__name__} has no method `clean(batch)`, which turns the "
            "images of a data set into clean samples; algorithms that learn from given images "
            "need it."
        )
    columns = {**batch.columns, column: batch[source]}
    with torch.no_grad():
        clean: Tensor = ctx.policy.clean(replace(batch, columns=columns)).to(ctx.dtype)
    return clean


def pair_slices(ctx: Context, pairs: int) -> Iterator[slice]:
    """Micro-batches of whole pairs: `train.micro_batch` counts samples, of which a pair has two."""
    return micro_slices(pairs, max(ctx.micro_batch // 2, 1) if ctx.micro_batch else None)
