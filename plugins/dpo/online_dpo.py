"""Online DPO: the pairs are the policy's own samples, ranked by the reward.

What Flow-GRPO's repository (2505.05470) calls `dpo`: in each group of G samples of one prompt the
sample with the highest reward is the winner, the one with the lowest the loser. The pair then goes
through the Diffusion-DPO loss (`diffusion_dpo.py`), noised by the forward process, so any sampler
will do, and neither a gradient of the reward nor a log-probability is needed.

A group whose rewards are all equal has no winner. It is skipped, which counts as a loss of 0, and
`ties` logs the fraction. A sample whose total lacks a reward that other samples of its group have
(NaN: not applicable) is compared with none. Sums are divided by the number of groups, skipped ones
included, so that neither micro-batches, accumulation nor processes change the result.

Cost per group and optimizer step, T sampling steps: G * T forwards, then 2 forward and backward and
2 under the reference for each of `timesteps` noisings.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from rewardft_plugins.dpo.diffusion_dpo import check_anchor, check_beta, preference_loss
from rewardft_plugins.dpo.noised import (
    Parts,
    Space,
    Visits,
    add_noise,
    interleave,
    pair_slices,
    timestep_draws,
    twice,
)
from torch import Tensor

from rewardft import Context
from rewardft.errors import ComponentError
from rewardft.recipe.bounds import Count, NotNegative, Pair, Positive
from rewardft.types import Batch, Loss, Plan, Scores


@dataclass(frozen=True)
class OnlineDPO:
    """Learn from the best and the worst of each group of samples.

    Args:
        group_size: samples per prompt, G >= 2 (Flow-GRPO: 24).
        beta: as in `diffusion_dpo`.
        timesteps: how many timesteps and noises each pair is learned at, per optimizer step.
        space, anchor, parts, antithetic, t_range: as in `diffusion_dpo`.
    """

    group_size: Pair = 24
    beta: Positive = 5000.0
    timesteps: Count = 1
    space: Space = "epsilon"
    anchor: NotNegative = 0.0
    parts: Parts | None = None
    antithetic: bool = False
    t_range: tuple[float, float] = (0.0, 1.0)

    needs = frozenset({"denoiser"})
    needs_reference = True

    def __post_init__(self) -> None:
        check_beta(self.beta)
        check_anchor(self.anchor)
        _ = self.visits  # raises for bad options
        if self.group_size < 2 or self.timesteps < 1:
            raise ComponentError(
                "expected group_size >= 2 and timesteps >= 1, got "
                f"{self.group_size} and {self.timesteps}"
            )

    @property
    def visits(self) -> Visits:
        return Visits(self.space, self.parts, self.antithetic, self.t_range)

    def losses(self, ctx: Context, batch: Batch) -> Iterator[Loss]:
        samples = batch.repeat(self.group_size)
        rollout = ctx.rollout(samples, Plan(stop=ctx.sampler.steps))
        winner, loser, decided = choose_pairs(
            comparable_rewards(ctx.score(rollout, samples), self.group_size)
        )
        ctx.record("ties", (~decided).float())
        # Row of the first sample of each group.
        groups = torch.arange(len(batch), device=winner.device) * self.group_size
        pairs = interleave(rollout.x0[groups + winner], rollout.x0[groups + loser])
        draws = [
            timestep_draws(ctx, batch, f"online_dpo{n}", self.visits) for n in range(self.timesteps)
        ]
        # A timestep has a stream of its own, so each visits another noise as well.
        parts = [(rows, n) for rows in pair_slices(ctx, len(batch)) for n in range(self.timesteps)]
        for rows, n in parts:
            part = pairs[2 * rows.start : 2 * rows.stop]
            places = draws[n][rows].repeat_interleave(2)
            copies = twice(batch.select(rows))
            at = add_noise(ctx, copies, part, f"online_dpo{n}", self.visits, draw=places)
            loss = preference_loss(ctx, at, self.beta, self.visits, self.anchor) * decided[rows]
            yield Loss(loss.sum() / (len(batch) * self.timesteps), step=(rows, n) == parts[-1])


def comparable_rewards(scores: Scores, group: int) -> Tensor:
    """Totals `(groups, group)`; NaN for samples that cannot be compared with the others of their
    group.

    A reward that applies to nobody in a group is missing from all its totals alike; one that
    applies to some of them is not, and a total without it would rank as if that reward were 0.
    """
    # (rewards, groups, group).
    missing = torch.stack([value.isnan() for value in scores.by_name.values()]).unflatten(
        1, (-1, group)
    )
    # A reward that only some of the group have, or no reward at all.
    incomplete = (missing & ~missing.all(2, keepdim=True)).any(0) | missing.all(0)
    total = scores.total.unflatten(0, (-1, group))
    return torch.where(incomplete, torch.full_like(total, float("nan")), total)


def choose_pairs(rewards: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Column of the best and of the worst sample of each row `(groups,)`, and whether they differ
    `(groups,)` bool."""
    # NaN can be neither best nor worst. A row of nothing else gives -inf > inf: no pair.
    low, high = (torch.where(rewards.isnan(), bound, rewards) for bound in (-torch.inf, torch.inf))
    best, worst = low.max(1), high.min(1)
    return best.indices, worst.indices, best.values > worst.values
