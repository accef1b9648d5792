"""MixGRPO (Li et al. 2025, 2507.21802): noise and learning inside a sliding window of steps, the
ODE elsewhere.

Ratios and penalties are taken at the window's steps alone. The window moves by one step every 25
batches and returns to the start when it has reached the end (`progressive`), or is drawn anew for
every optimizer step (`random`); the paper's decaying intervals are left out. Defaults of the
authors' code for FLUX: 25 steps, window 4, eta 0.7 with Flow-GRPO's diffusion, groups of 12, no KL,
lr 1e-5, advantages normalised per reward before they are summed.

Denoiser calls per sample: T forwards to roll out, a forward and a backward for each of the window's
    steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch

from rewardft import Batch, Context, Loss
from rewardft.errors import ComponentError

from .grpo import GRPO

KEY = "mix_grpo/batches"


class MixGRPO:
    """GRPO in a sliding window of stochastic steps.

    Args:
        window: number of stochastic steps w, at most the sampler's T.
        shift_every: batches after which the window moves by one step.
        strategy: `progressive` or `random`. group_size, std, clip, advantage_clip, aggregate,
            shared_noise, updates, inner_epochs: as in `grpo`.
    """

    needs = frozenset({"log_prob", "sde_window"})

    def __init__(
        self,
        window: int = 4,
        shift_every: int = 25,
        strategy: Literal["progressive", "random"] = "progressive",
        group_size: int = 12,
        std: Literal["global", "group"] = "group",
        clip: float = 1e-4,
        advantage_clip: float = 5.0,
        aggregate: Literal["reward", "advantage"] = "advantage",
        shared_noise: bool = False,
        updates: int = 1,
        inner_epochs: int = 1,
    ) -> None:
        if window < 1 or shift_every < 1:
            raise ComponentError(
                f"expected window >= 1 and shift_every >= 1, got {window} and {shift_every}"
            )
        self.window, self.shift_every, self.strategy = window, shift_every, strategy
        self.grpo = GRPO(
            group_size, std, clip, advantage_clip, aggregate, shared_noise, updates, inner_epochs
        )

    def losses(self, ctx: Context, batch: Batch) -> Iterator[Loss]:
        start = self.draw_start(ctx)
        ctx.record("window_start", torch.full((len(batch),), float(start)))
        ctx.sampler.window = frozenset(range(start, start + self.window))
        try:
            yield from self.grpo.losses(ctx, batch)
        finally:
            ctx.sampler.window = (
                None  # evaluations draw noise at every step, before, during and after training
            )

    def draw_start(self, ctx: Context) -> int:
        """The first step of this batch's window."""
        places = ctx.sampler.steps - self.window + 1
        if places < 1:
            raise ComponentError(
                f"window {self.window} is more than the sampler's {ctx.sampler.steps} steps"
            )
        if self.strategy == "random":
            return ctx.rng.randrange(places)
        batches = ctx.memory.get(KEY, 0)
        ctx.memory[KEY] = batches + 1
        return int(batches // self.shift_every % places)
