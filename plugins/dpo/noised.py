"""Visits to the forward process: clean samples, noised to one timestep each, and how well a policy
denoises them.

With x_t = alpha * x0 + sigma * epsilon and a network f, every prediction type has an error f(x_t) -
target that is a multiple of the error of its noise prediction at the same x_t:

    type       epsilon_hat                    error of epsilon_hat, as a multiple of the error of f
    epsilon    f                              1
    v          alpha * f + sigma * x_t        alpha
    flow       x_t + (1 - sigma) * f          alpha = 1 - sigma
    sample     (x_t - alpha * f) / sigma      -alpha / sigma

A sample may consist of named parts, such as the joints and twists of a pose. The model then says
where they are, by a mapping `parts` of names to slices of a sample's first dimension, and may
weight their numbers by a method `part_weights(batch) -> {name: weights (b, n)}`, for example 0 for
joints that are out of sight.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from rewardft import Context
from rewardft.algorithms.denoising import forward_process
from rewardft.errors import ComponentError, did_you_mean
from rewardft.samplers.prediction import target_output
from rewardft.types import Batch, micro_slices

Space = Literal["epsilon", "output"]
Parts = dict[str, float]


@dataclass(frozen=True)
class Visits:
    """Where on the forward process samples are visited, and in which parts their errors are taken.

    space: the error is that of the noise prediction (epsilon) or of the network's own output.
    parts: weight of each named part, which has an error and a loss of its own; None: a sample is
        one part.
    antithetic: the second half of a batch has the mirrored timesteps of the first, T - 1 - t for t.
    t_range: which of the T training timesteps are visited, as fractions (low, high) of T.
    """

    space: Space = "epsilon"
    parts: Parts | None = None
    antithetic: bool = False
    t_range: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        low, high = self.t_range
        if not 0 <= low < high <= 1:
            raise ComponentError(
                f"t_range must be two numbers 0 <= low < high <= 1, got [{low}, {high}]"
            )
        if self.parts is not None and not (self.parts and all(w > 0 for w in self.parts.values())):
            raise ComponentError(
                f"parts must name at least one part, with weights above 0; got {self.parts}"
            )

    def weights(self, like: Tensor) -> Tensor:
        """`(parts,)`, 1 for a sample that is one part."""
        return like.new_tensor([1.0] if self.parts is None else list(self.parts.values()))


WHOLE = Visits()


@dataclass(frozen=True)
class Noised:
    """Samples on the forward process, `(b, ...)`; `weight` `(b,)` turns the output's squared error
    into the loss's.

    parts: for each named part its slice and the weights `(b, n)` of its numbers; None: a sample is
        one part.
    """

    x: Tensor
    t: Tensor
    cond: Any
    target: Tensor
    weight: Tensor
    parts: tuple[tuple[slice, Tensor], ...] | None = None


def add_noise(
    ctx: Context,
    batch: Batch,
    x0: Tensor,
    stream: str,
    visits: Visits = WHOLE,
    condition_dropout: float = 0.0,
    draw: Tensor | None = None,
) -> Noised:
    """Noise x0 `(b, ...)` to one timestep per sample.

    Timestep, noise and dropped condition are functions of the sample's id and `stream`: rows with
    the same id share all three. With `space` epsilon the loss is that of the noise prediction
    whatever the network predicts; with output that of the network's own target.

    draw: where on the schedule each sample goes, `(b,)` in [0, 1), see `timestep_draws`; None:
        drawn here.
    """
    # Keyed by id: the two samples of a pair under one id get the same noise.
    draws = ctx.noise(batch)
    draw = timestep_draws(ctx, batch, stream, visits) if draw is None else draw
    with torch.no_grad():
        cond = ctx.encode(batch)
        if condition_dropout:
            cond = ctx.policy.drop(cond, draws.uniform(f"{stream}/condition") < condition_dropout)
        epsilon = draws.draw(f"{stream}/noise", x0.shape[1:])
        t, alpha, sigma = forward_process(ctx.policy.scheduler, draw, x0)
    # The factors of the table above. They are squared below, so the sign of `sample` drops out.
    kind = prediction_type(ctx)
    target = target_output(kind, x0, epsilon, alpha, sigma)
    scale = {"epsilon": torch.ones_like(alpha), "sample": alpha / sigma}.get(kind, alpha)
    weight = (
        scale.flatten().square() if visits.space == "epsilon" else torch.ones_like(alpha).flatten()
    )
    return Noised(
        alpha * x0 + sigma * epsilon,
        t,
        cond,
        target,
        weight,
        find_parts(ctx, batch, x0, visits.parts),
    )


def timestep_draws(ctx: Context, batch: Batch, stream: str, visits: Visits) -> Tensor:
    """Where on the schedule each sample of a whole batch goes, `(b,)` in [0, 1).

    Antithetic draws belong to the batch, not to the sample: take them before cutting it into
    micro-batches.
    """
    low, high = visits.t_range
    draw = low + (high - low) * ctx.noise(batch).uniform(f"{stream}/timestep")
    if not visits.antithetic:
        return draw
    count = ctx.policy.scheduler.config.num_train_timesteps
    # As the released code of ADHMR cuts a batch; the surplus is cut off below.
    fresh = len(batch) // 2 + 1
    t = (draw[:fresh] * count).long().clamp(max=count - 1)
    # Mirrored within the range: its first timestep for its last.
    mirrored = int(low * count) + round(high * count) - 1 - t
    # The middle of a timestep's interval, so that rounding down gives the timestep back.
    return (torch.cat([t, mirrored])[: len(batch)] + 0.5) / count


def find_parts(
    ctx: Context, batch: Batch, x0: Tensor, parts: Mapping[str, float] | None
) -> tuple[tuple[slice, Tensor], ...] | None:
    """The places and weights of the named parts. Raises ComponentError for a part that the model
    does not have."""
    if parts is None:
        return None
    model = ctx.policy.model
    places: Mapping[str, slice] = getattr(model, "parts", {})
    for name in parts:
        if name not in places:
            has = (
                f"has the parts {', '.join(places)}" if places else "names no parts of its samples"
            )
            raise ComponentError(
                f"parts: {type(model).__name__} {has}, not {name!r}.{did_you_mean(name, places)}"
            )
    # A model without weights counts every number.
    given: Mapping[str, Tensor] = (
        model.part_weights(batch) if hasattr(model, "part_weights") else {}
    )
    # (1, 1) broadcasts over samples and numbers: all numbers of the part count alike.
    one = torch.ones(1, 1, device=x0.device, dtype=x0.dtype)
    return tuple((places[name], given.get(name, one).to(x0)) for name in parts)


def prediction_type(ctx: Context) -> str:
    """The model's: epsilon, v_prediction, sample, or flow_prediction."""
    return str(getattr(ctx.policy.scheduler.config, "prediction_type", "flow_prediction"))


def squared_error(ctx: Context, at: Noised) -> Tensor:
    """`(b, parts)`: mean over the numbers of each part, under the current policy, in the caller's
    gradient mode.

    Weights multiply the squared errors; the mean is over all numbers of the part, seen or not.
    Without guidance: what is compared with the noise is a prediction of it.
    """
    # Adapter dropout where a gradient is taken, and nowhere else: errors that are only compared
    # should be those of one policy.
    ctx.adapter.train_mode(torch.is_grad_enabled())
    try:
        with ctx.policy.unguided():
            output = ctx.policy.denoise(at.x, at.t, at.cond).to(at.x.dtype)
    finally:
        ctx.adapter.train_mode(False)
    error = (output - at.target).square()
    if at.parts is None:
        by_part = error.flatten(1).mean(1, keepdim=True)
    else:
        means = [(error[:, place].flatten(1) * seen).mean(1) for place, seen in at.parts]
        # The mean is over all numbers of a part, so a sample with fewer seen ones counts less.
        by_part = torch.stack(means, dim=1)
    # (b, 1) * (b, parts).
    return at.weight[:, None] * by_part


def reference_error(ctx: Context, at: Noised) -> Tensor:
    """The same under the reference policy, the adapter switched off; no autograd."""
    with torch.no_grad(), ctx.adapter.disabled():
        return squared_error(ctx, at)


def twice(batch: Batch) -> Batch:
    """Every sample twice in a row under the same id: rows 2i and 2i + 1 draw the same timestep and
    noise."""
    return together(batch, 2)


def together(batch: Batch, count: int) -> Batch:
    """Every sample `count` times in a row under the same id: its copies draw the same timestep and
    noise."""
    ids = tuple(id_ for id_ in batch.ids for _ in range(count))
    return replace(batch.repeat(count), ids=ids)


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
    # The model knows one column of pictures; winner and loser take its place in turn.
    columns = {**batch.columns, column: batch[source]}
    with torch.no_grad():
        clean: Tensor = ctx.policy.clean(replace(batch, columns=columns)).to(ctx.dtype)
    return clean


def pair_slices(ctx: Context, pairs: int, size: int = 2) -> Iterator[slice]:
    """Micro-batches of whole pairs, or groups of `size`: `train.micro_batch` counts samples."""
    return micro_slices(pairs, max(ctx.micro_batch // size, 1) if ctx.micro_batch else None)
