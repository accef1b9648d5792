"""GRPO over denoising steps: several samples per prompt, each judged against its group.

    A_i = (r_i - mean of its group) / (std + floor)                      Flow-GRPO, 2505.05470
    loss = E[ max(-A rho_k, -A clip(rho_k, 1 - e, 1 + e)) ] + weight * KL(p || p_ref)

The family is one algorithm whose papers and released codes differ in their defaults and samplers;
see `flow_grpo.py`, `dance_grpo.py` and `mix_grpo.py`. On its own it suits U-Nets with DDIM (eta >
0) too. A group without variance teaches nothing: its samples are left out, penalties included, and
counted as `groups_without_variance`. The KL is the recipe's regularizer: `{use: kl, form:
gaussian}` is the divergence of the transition densities, mean((mean - mean_ref)^2) / (2 std^2).

Cost per sample: as DDPO; group_size samples per item of a batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from rewardft import Batch, Context, Loss, Scores
from rewardft.algorithms.advantages import group_advantages, whitened
from rewardft.algorithms.policy_gradient import Schedule, learn, roll_out
from rewardft.algorithms.surrogates import StepSurrogate, Surrogate, clipped_ratio_loss
from rewardft.errors import ComponentError
from rewardft.noise import Noise
from rewardft.recipe.bounds import Count, CountOrZero, Pair, Positive, Share

Aggregate = Literal["reward", "advantage", "gdpo"]


class GRPO:
    """Group-relative policy optimization.

    Args:
        group_size: G >= 2 samples per item of a batch.
        std: divide by the standard deviation of all rewards of the batch (`global`) or of the
            sample's group (`group`).
        clip: e, the half-width of the clip range of the ratio.
        advantage_clip: advantages are clamped to [-advantage_clip, advantage_clip].
        aggregate: normalise the weighted sum of the rewards (`reward`), or each reward by itself
            and sum the weighted advantages (`advantage`); `gdpo` does that within groups, whatever
            `std` is, and normalises the sums over the batch again, so that no reward's scale and no
            number of rewards decides the size of a step. Both `advantage` and `gdpo` blow a reward
            that is nearly constant within its groups up to the size of the others.
        shared_noise: the samples of a group start from the same noise and differ only by the noise
            of the steps.
        updates: optimizer steps per batch; each part has members of every group.
        inner_epochs: passes over each batch.
        timestep_fraction: fraction of the steps that learn, drawn at random for every update.
        skip_last: steps at the end of the chain that never learn.
        unbiased: divide by n - 1 in the standard deviation instead of n.
        floor: added to the standard deviation, > 0.
    """

    needs = frozenset({"log_prob"})

    def __init__(
        self,
        group_size: Pair = 8,
        *,  # options of one kind side by side: a caller that counted them would mix them up
        std: Literal["global", "group"] = "global",
        clip: Positive = 1e-4,
        advantage_clip: Positive = 5.0,
        aggregate: Aggregate = "reward",
        shared_noise: bool = False,
        updates: Count = 1,
        inner_epochs: Count = 1,
        timestep_fraction: Share = 1.0,
        skip_last: CountOrZero = 0,
        unbiased: bool = False,
        floor: Positive = 1e-4,
    ) -> None:
        if group_size < 2 or clip <= 0 or advantage_clip <= 0 or floor <= 0:
            raise ComponentError(
                "expected group_size >= 2, clip > 0, advantage_clip > 0 and floor > 0, got "
                f"group_size={group_size}, clip={clip}, advantage_clip={advantage_clip}, "
                f"floor={floor}"
            )
        self.group_size, self.advantage_clip, self.shared_noise = (
            group_size,
            advantage_clip,
            shared_noise,
        )
        self.std, self.aggregate = std, aggregate
        self.floor = floor
        self.normalise = partial(
            group_advantages,
            size=group_size,
            # GDPO normalises within groups first; the batch's deviation comes in at the end.
            std="group" if aggregate == "gdpo" else std,
            epsilon=floor,
            unbiased=unbiased,
        )
        self.surrogate: Surrogate | StepSurrogate = partial(clipped_ratio_loss, clip=clip)
        self.schedule = Schedule(updates, inner_epochs, timestep_fraction, skip_last)

    def losses(self, ctx: Context, batch: Batch) -> Iterator[Loss]:
        # Members of a group in a row, as `group_advantages` expects them.
        samples = batch.repeat(self.group_size)
        noise = GroupNoise.of(ctx.noise(samples), self.group_size) if self.shared_noise else None
        # A surrogate that compares whole steps needs the rollout's transitions, which one pass does
        # not keep.
        one_pass = not isinstance(self.surrogate, StepSurrogate)
        experience = roll_out(ctx, samples, self.schedule, noise, one_pass)
        advantage, kept = self.advantages(ctx, ctx.score(experience.rollout, samples))
        yield from learn(ctx, experience, advantage, self.surrogate, self.schedule, kept)

    def advantages(self, ctx: Context, scores: Scores) -> tuple[Tensor, Tensor]:
        """Clipped advantages and which samples are kept, both `(b,)`."""
        if self.aggregate == "reward":
            terms = [(1.0, scores.rewards)]
        else:  # a reward that does not apply to a sample (NaN) adds nothing to it, as in the total
            terms = [(r.weight, scores.by_name[r.name].nan_to_num(0.0)) for r in ctx.rewards]
        # Normalised one by one, a reward with a large spread does not drown the others.
        # (weight, advantages (b,), kept (b,)) of each term.
        parts = [(w, *self.normalise(ctx, values)) for w, values in terms]
        advantage = torch.stack([w * a for w, a, _ in parts]).sum(0)
        # A group in which all rewards are equal says nothing of what is better.
        kept = torch.stack([k for _, _, k in parts]).any(0) & scores.applies
        # A sum of K unrelated rewards has a deviation near sqrt(K); whitening takes that out.
        if self.aggregate == "gdpo":
            advantage = whitened(ctx, advantage, kept, self.floor)
        return advantage.clamp(-self.advantage_clip, self.advantage_clip), kept


class GroupNoise(Noise):
    """Noise whose stream `initial` belongs to the group: its members start from the same state."""

    groups: tuple[str, ...]

    @classmethod
    def of(cls, noise: Noise, size: int) -> GroupNoise:
        """The same noise with groups of `size` samples in a row, named by their first member."""
        own = cls(noise.seed, noise.ids, noise.epochs, noise.device, noise.dtype)
        own.groups = tuple(noise.ids[i // size * size] for i in range(len(noise)))
        return own

    def select(self, rows: slice) -> GroupNoise:
        # A micro-batch may begin inside a group, so each row carries the name of its group.
        part = GroupNoise(self.seed, self.ids[rows], self.epochs[rows], self.device, self.dtype)
        part.groups = self.groups[rows]
        return part

    def draw(self, stream: str, shape: Sequence[int]) -> Tensor:
        if stream != "initial":
            return super().draw(stream, shape)
        return Noise(self.seed, self.groups, self.epochs, self.device, self.dtype).draw(
            stream, shape
        )
