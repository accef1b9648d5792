"""MixGRPO (Li et al. 2025, 2507.21802): noise and learning inside a sliding window of steps, the
ODE elsewhere.

Ratios and penalties are taken at the window's steps alone. The window moves by one step every 25
batches and returns to the start when it has reached the end (`progressive`), or is drawn anew for
every batch (`random`); the paper's decaying intervals are left out. Defaults of the authors' code
for FLUX: 25 steps, window 4, eta 0.7 with Flow-GRPO's diffusion, groups of 12 that start from the
same noise, unbiased standard deviation (+ 1e-8) of each group, no KL, lr 1e-5, advantages
normalised per reward before they are summed. The window never reaches the last 2 steps
(`frozen_last`).

At the end that code lets the window run into the frozen steps, so that it shrinks to one step
(`shrink: true`), and then spends 25 batches on an empty one, which are left out here. It takes an
optimizer step for every 3 of the 12 samples (`updates: 4`); here there is one per batch.

Denoiser calls per sample: T forwards to roll out, a forward and a backward for each step of the
window.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch

from rewardft import Batch, Context, Loss
from rewardft.errors import ComponentError
from rewardft.recipe.bounds import Count, CountOrZero, Pair, Positive

from .grpo import GRPO, Aggregate

KEY = "mix_grpo/batches"


class MixGRPO:
    """GRPO in a sliding window of stochastic steps.

    Args:
        window: number of stochastic steps w, at most the sampler's T.
        shift_every: batches after which the window moves by one step.
        strategy: `progressive` or `random`.
        frozen_last: steps at the end of the chain that the window never reaches, >= 0.
        shrink: let the progressive window run into them, shorter and shorter, before it returns.
        group_size, std, clip, advantage_clip, aggregate, shared_noise, updates, inner_epochs,
            unbiased, floor: as in `grpo`.
    """

    needs = frozenset({"log_prob", "sde_window"})

    def __init__(
        self,
        window: Count = 4,
        shift_every: Count = 25,
        strategy: Literal["progressive", "random"] = "progressive",
        frozen_last: CountOrZero = 2,
        shrink: bool = False,
        group_size: Pair = 12,
        std: Literal["global", "group"] = "group",
        clip: Positive = 1e-4,
        advantage_clip: Positive = 5.0,
        aggregate: Aggregate = "advantage",
        shared_noise: bool = True,
        updates: Count = 1,
        inner_epochs: Count = 1,
        unbiased: bool = True,
        floor: Positive = 1e-8,
    ) -> None:
        if window < 1 or shift_every < 1 or frozen_last < 0:
            raise ComponentError(
                "expected window >= 1, shift_every >= 1 and frozen_last >= 0, got "
                f"{window}, {shift_every} and {frozen_last}"
            )
        self.window, self.shift_every, self.strategy = window, shift_every, strategy
        self.frozen_last, self.shrink = frozen_last, shrink
        # For Flow-GRPO-Fast, whose window stays near the start of the chain.
        self.reach: int | None = None
        self.grpo: GRPO = GRPO(
            group_size,
            std=std,
            clip=clip,
            advantage_clip=advantage_clip,
            aggregate=aggregate,
            shared_noise=shared_noise,
            updates=updates,
            inner_epochs=inner_epochs,
            unbiased=unbiased,
            floor=floor,
        )

    def losses(self, ctx: Context, batch: Batch) -> Iterator[Loss]:
        window = self.draw_window(ctx)
        ctx.record("window_start", torch.full((len(batch),), float(window[0])))
        ctx.sampler.window = frozenset(window)
        try:
            # Replays must see the rollout's window, so it stays until the last loss has been taken.
            yield from self.grpo.losses(ctx, batch)
        finally:
            # Evaluations draw noise at every step, before, during and after training.
            ctx.sampler.window = None

    def draw_window(self, ctx: Context) -> range:
        """The steps of this batch's window."""
        end = min(ctx.sampler.steps - self.frozen_last, self.reach or ctx.sampler.steps)
        if self.window > end:
            raise ComponentError(
                f"window {self.window} and frozen_last {self.frozen_last} are more than the "
                f"sampler's {ctx.sampler.steps} steps"
            )
        whole = end - self.window + 1  # the starts from which all of the window fits
        if self.strategy == "random":
            # Seeded by run and step: every process draws the same window.
            start = ctx.rng.randrange(whole)
        else:
            # Kept with the checkpoint, so that a resumed run finds the window where it was.
            batches = ctx.memory.get(KEY, 0)
            ctx.memory[KEY] = batches + 1
            start = int(batches // self.shift_every % (end if self.shrink else whole))
        return range(start, min(start + self.window, end))
