"""Group preference (Shen et al. 2026, 2602.19180): all samples of a group, weighted by their
advantages.

    A_i    = (r_i - mean of the group) / standard deviation of the group
    inside = -beta / G * sum_i A_i * ( l_i of the policy - l_i of the reference )
    loss   = -log sigmoid(inside)

with l the squared error of the noise prediction as in `diffusion_dpo.py`. All samples of a group
share timestep and noise. A pair says which sample is better, advantages also by how much; a group
of two has the advantages 1 and -1, and the loss is then that of Diffusion-DPO. The paper: G = 20,
groups drawn once from the base model and scored by a vision-language model.

From reading notes, not from the paper's code: the bracket, beta * T * lambda_t * sum_i A_i (l_i -
l_i of the reference). Ours: T * lambda_t folded into beta as everywhere in this plugin, the
division by G, the log-sigmoid around the bracket.

`anchor` adds the denoising loss of the samples with a positive advantage, weighted by it. A group
whose rewards are all equal has no preference: it counts as a loss of 0, and `ties` logs the
fraction.

Cost per group and optimizer step, T sampling steps: G * T forwards (none with `source: data`), then
G forward and backward and G under the reference.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from rewardft_plugins.dpo.diffusion_dpo import check_anchor, check_beta, record_preference
from rewardft_plugins.dpo.noised import (
    Noised,
    Parts,
    Space,
    Visits,
    add_noise,
    pair_slices,
    reference_error,
    squared_error,
    timestep_draws,
    together,
)
from rewardft_plugins.dpo.online_dpo import comparable_rewards
from torch import Tensor
from torch.nn.functional import logsigmoid

from rewardft import Context
from rewardft.errors import ComponentError
from rewardft.recipe.bounds import NotNegative, Pair, Positive
from rewardft.types import Batch, Loss, Plan


@dataclass(frozen=True)
class GroupPreference:
    """Learn from groups of samples and the score of each.

    Args:
        group_size: samples per group, G >= 2; with `source: data` as many as the data set has.
        beta: as in `diffusion_dpo`.
        source: `policy`: the current policy draws the group and the recipe's rewards score it;
            `data`: the columns `samples` `(b, G, ...)` in the model's own space and `scores` `(b,
                G)` of the data set.
        anchor: weight of the denoising loss of the samples above the mean, >= 0.
        space, parts, antithetic, t_range: as in `diffusion_dpo`.
    """

    group_size: Pair = 20
    beta: Positive = 5000.0
    source: Literal["policy", "data"] = "policy"
    anchor: NotNegative = 0.0
    space: Space = "epsilon"
    parts: Parts | None = None
    antithetic: bool = False
    t_range: tuple[float, float] = (0.0, 1.0)

    needs = frozenset({"denoiser"})
    needs_reference = True

    def __post_init__(self) -> None:
        check_beta(self.beta)
        check_anchor(self.anchor)
        if self.group_size < 2:
            raise ComponentError(f"group_size must be at least 2, got {self.group_size}")
        if self.source not in ("policy", "data"):
            raise ComponentError(f"source is one of policy, data; got {self.source!r}")
        _ = self.visits  # raises for bad options

    @staticmethod
    def needs_for(source: str = "policy", **_: Any) -> frozenset[str]:
        return frozenset({"groups"}) if source == "data" else frozenset()

    @property
    def visits(self) -> Visits:
        return Visits(self.space, self.parts, self.antithetic, self.t_range)

    def losses(self, ctx: Context, batch: Batch) -> Iterator[Loss]:
        samples, rewards = self.scored(ctx, batch)
        advantage, decided = group_advantages(rewards)
        ctx.record("ties", (~decided).float())
        # One draw per group: its samples are compared at one timestep and under one noise.
        draw = timestep_draws(ctx, batch, "group", self.visits)
        size = samples.shape[1]
        parts = list(pair_slices(ctx, len(batch), size))
        for rows in parts:
            part = together(batch.select(rows), size)
            # (groups, G, ...) -> (groups G, ...), a group in a row.
            x0 = samples[rows].flatten(0, 1)
            at = add_noise(
                ctx, part, x0, "group", self.visits, draw=draw[rows].repeat_interleave(size)
            )
            loss = self.loss(ctx, at, advantage[rows])
            yield Loss(loss.sum() / len(batch), step=rows == parts[-1])

    def scored(self, ctx: Context, batch: Batch) -> tuple[Tensor, Tensor]:
        """Groups of samples `(b, G, ...)` in the model's space and their rewards `(b, G)`."""
        if self.source == "data":
            return batch["samples"].to(ctx.dtype), batch["scores"]
        # Each copy has an id of its own, so the samples of a group start from different noise.
        copies = batch.repeat(self.group_size)
        rollout = ctx.rollout(copies, Plan(stop=ctx.sampler.steps))
        rewards = comparable_rewards(ctx.score(rollout, copies), self.group_size)
        return rollout.x0.unflatten(0, (-1, self.group_size)), rewards

    def loss(self, ctx: Context, at: Noised, advantage: Tensor) -> Tensor:
        """`(groups,)` from samples noised group by group and their advantages `(groups, G)`."""
        reference = reference_error(ctx, at)
        error = squared_error(ctx, at)
        size = advantage.shape[1]
        gain = (error - reference).unflatten(0, (-1, size))  # (groups, G, parts)
        # Summed over the group first: an advantage weighs against those of its own group alone.
        inside = -self.beta / size * (advantage[..., None] * gain).sum(1)
        weights = self.visits.weights(error)
        loss = -(logsigmoid(inside) * weights).sum(1)
        if self.anchor:
            # Shares of the better samples, summing to 1, so that the anchor does not grow with the
            # group.
            above = advantage.clamp(min=0)
            share = above / above.sum(1, keepdim=True).clamp(min=1e-12)
            loss = loss + self.anchor * (
                (error * weights).sum(1).unflatten(0, (-1, size)) * share
            ).sum(1)
        # Without a preference inside is 0: a loss of log 2 and an anchor of 0, which count as 0.
        loss = loss * advantage.any(1)
        record_preference(ctx, inside, loss)
        return loss


def group_advantages(rewards: Tensor) -> tuple[Tensor, Tensor]:
    """Standardised rewards `(groups, G)`, 0 where a reward is missing, and which groups have a
    preference `(groups,)`.

    The population's standard deviation, so that a group of two has the advantages 1 and -1.
    """
    known = ~rewards.isnan()
    count = known.sum(1, keepdim=True).clamp(min=1)
    # Replaced before any arithmetic: a NaN times 0 is still NaN.
    filled = torch.where(known, rewards, torch.zeros_like(rewards))
    centred = torch.where(
        known, filled - filled.sum(1, keepdim=True) / count, torch.zeros_like(filled)
    )
    std = (centred.square().sum(1, keepdim=True) / count).sqrt()
    # By comparison: the deviation of equal numbers may differ from 0 by a rounding.
    spread = torch.where(known, rewards, -torch.inf).amax(1) > torch.where(
        known, rewards, torch.inf
    ).amin(1)
    advantage = torch.where(
        spread[:, None], centred / std.clamp(min=1e-12), torch.zeros_like(centred)
    )
    return advantage, spread
