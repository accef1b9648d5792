"""VSD: variational score distillation (ProlificDreamer, Wang et al. 2023, 2305.16213).

SDS pulls every picture towards the most likely one; VSD pulls the distribution of pictures, over
scenes and cameras, towards the prior's. A low-rank adapter of the prior learns what noise the
scenes' own noised pictures hold, and takes the place of the noise itself:

    x_t = alpha_t x(theta) + sigma_t epsilon
    grad L_VSD = E[ w(t) (epsilon_hat(x_t; y, t) - epsilon_phi(x_t; y, t)) dx/dtheta ]      (1)
    L(phi) = E[ |epsilon_phi(x_t; y, t) - epsilon|^2 ]                                      (2)

Both are minimised at once, phi at a learning rate of its own (`model.rates.lora`). epsilon_hat has
the prior's guidance, epsilon_phi none. Unlike the authors' code, (2) is taken at the t and epsilon
of (1), which saves a forward, and phi is not told the camera: it has the prior's condition alone.

Cost per item: 2 forwards and 1 backward.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

import torch
from rewardft_plugins.ddpo3d.noised import (
    as_prior,
    draw_fraction,
    level_at,
    predict,
    rendered,
    time_range,
    visit,
)
from rewardft_plugins.ddpo3d.sds import Weighting, distillation

from rewardft import Batch, Context, Loss
from rewardft.recipe.bounds import CountOrZero, Positive
from rewardft.types import micro_slices


class VSD:
    """Variational score distillation; uses no reward. Needs `model.lora_rank`.

    Args:
        lora_weight: of (2), > 0; its gradient and that of (1) are of different parameters.
        t_range, t_end, anneal_steps, weighting: see `SDS`.
    """

    needs = frozenset({"renders"})

    def __init__(
        self,
        lora_weight: Positive = 1.0,
        t_range: Sequence[float] = (0.02, 0.98),
        t_end: Sequence[float] | None = None,
        anneal_steps: CountOrZero = 0,
        weighting: Weighting = "variance",
    ) -> None:
        self.lora_weight = lora_weight
        self.times = time_range(t_range, t_end, anneal_steps, "vsd")
        self.weighting: Weighting = weighting

    def calls(self, steps: int, rng: random.Random, reference: bool) -> tuple[int, int]:
        """Per item of a batch."""
        return 2, 1

    def losses(self, ctx: Context, batch: Batch) -> Iterator[Loss]:
        rollout = visit(ctx, batch)
        parts = list(micro_slices(len(batch), ctx.micro_batch))
        for rows in parts:
            piece, own = rollout.select(rows), batch.select(rows)
            clean = as_prior(ctx, piece.x0)
            level = level_at(ctx, draw_fraction(ctx, own, self.times), clean)
            noise = ctx.noise(own).draw("noising", clean.shape[1:])
            state = level.add_noise(clean, noise)
            with torch.no_grad():
                _, guess = predict(ctx, state, level, piece.cond)
            # Around the backward pass too, in which a network that checkpoints is called again.
            with ctx.policy.adapted():
                with ctx.policy.unguided():
                    _, learned = predict(ctx, state, level, piece.cond)
                # The error is held fixed, and the state has no graph: neither moves the other.
                error = guess - learned
                pull = distillation(rendered(ctx, piece), level, error, self.weighting)  # (1)
                fit = (learned - noise).square().flatten(1).mean(1)  # (2)
                ctx.record("loss", pull)
                ctx.record("loss/lora", fit)
                loss = pull + self.lora_weight * fit
                yield Loss(loss.sum() / len(batch), step=rows == parts[-1])
