"""Diffusion-KTO (Li et al. 2024, 2404.04465): wanted and unwanted images, each judged on its own.

With l the squared error of the noise prediction, a mean over dimensions, as in Diffusion-DPO
(`diffusion_dpo.py`), the loss is that of KTO (Ethayarajh et al. 2024, 2402.01306):

    h = -beta * (l of the policy - l of the reference)     the log-ratio, scaled by beta
    Q = max(0, mean of h over the batch)                   the reference point; no gradient
    loss = w_D * (1 - U(h - Q))                            for a wanted sample
    loss = w_U * (1 - U(Q - h))                            for an unwanted one; U(z) = sigmoid(z)

as in the released code with its defaults (`--halo sigmoid --bce_offset none`, beta_dpo 1000). There
is no half before beta, which Diffusion-DPO's code has. That code draws wanted and unwanted images
separately, 8 wanted ones to 2 unwanted ones in its example, and takes Q over a micro-batch of every
process; here each pair gives one of each, and Q is the mean over the batch.

The winner of each given pair is wanted, its loser unwanted; each is judged on its own, with its own
timestep and noise. At initialisation h = Q = 0 and the loss is w / 2. Q is the mean
over all processes; with more than one micro-batch it takes an extra pass without autograd, so that
it does not depend on how the batch is cut. With `accumulate`, each batch has its own Q.

A sample of named parts (`noised.py`) has an h, a Q and a loss for each part, summed with the parts'
weights, as in the released code of ADHMR (2505.10250), which adds 0.1 times the wanted samples'
denoising loss (there a sum over the dimensions, here the mean): `anchor`.

Cost per pair: 2 samples forward and backward, 2 under the reference (2 more forwards with several
micro-batches).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from rewardft_plugins.dpo.diffusion_dpo import check_anchor, check_beta
from rewardft_plugins.dpo.noised import (
    Noised,
    Parts,
    Space,
    Visits,
    add_noise,
    clean_samples,
    interleave,
    pair_slices,
    reference_error,
    squared_error,
    timestep_draws,
)
from torch import Tensor

from rewardft import Context
from rewardft.errors import ComponentError
from rewardft.recipe.bounds import NotNegative, Positive
from rewardft.types import Batch, Loss


@dataclass(frozen=True)
class DiffusionKTO:
    """Learn from wanted and unwanted images.

    Args:
        beta: strength against the reference, > 0; the released code's `beta_dpo`.
        wanted, unwanted: weights w_D and w_U >= 0.
        space: as in `diffusion_dpo`.
        column, parts, antithetic, t_range: as in `diffusion_dpo`.
        anchor: weight of the wanted samples' own denoising loss, >= 0.
    """

    beta: Positive = 1000.0
    wanted: NotNegative = 1.0
    unwanted: NotNegative = 1.0
    space: Space = "epsilon"
    column: str = "image"
    anchor: NotNegative = 0.0
    parts: Parts | None = None
    antithetic: bool = False
    t_range: tuple[float, float] = (0.0, 1.0)

    needs = frozenset({"denoiser", "pairs"})
    needs_reference = True

    def __post_init__(self) -> None:
        check_beta(self.beta)
        check_anchor(self.anchor)
        _ = self.visits  # raises for bad options
        if self.wanted < 0 or self.unwanted < 0 or self.wanted + self.unwanted == 0:
            raise ComponentError(
                f"wanted and unwanted must not be negative, nor both 0: got {self.wanted} and "
                f"{self.unwanted}"
            )

    @property
    def visits(self) -> Visits:
        return Visits(self.space, self.parts, self.antithetic, self.t_range)

    def losses(self, ctx: Context, batch: Batch) -> Iterator[Loss]:
        slices = list(pair_slices(ctx, len(batch)))
        # Drawn for the whole batch, so that micro-batches see the same timesteps.
        draw = timestep_draws(ctx, batch.repeat(2), "kto", self.visits)
        parts = [
            self.noised(ctx, batch.select(rows), draw[2 * rows.start : 2 * rows.stop])
            for rows in slices
        ]
        references = [reference_error(ctx, at) for at in parts]
        # The reference point is the whole batch's, so a batch in parts needs a forward pass first.
        point = None if len(parts) == 1 else self.reference_point(ctx, parts, references)
        for i, (at, reference) in enumerate(zip(parts, references)):
            error = squared_error(ctx, at)
            # (2 pairs, parts).
            h = self.gain(error, reference)
            q = self.mean_gain(ctx, h) if point is None else point
            weights = self.visits.weights(error)
            loss = (self.loss(h, q) * weights).sum(1)
            if self.anchor:
                wanted = torch.zeros_like(loss)
                # Only wanted samples: denoising unwanted ones well is not the goal.
                wanted[0::2] = self.anchor * (error[0::2] * weights).sum(1)
                loss = loss + wanted
            ctx.record("loss", loss)
            ctx.record("reference_point", q)
            yield Loss(loss.sum() / (2 * len(batch)), step=i == len(parts) - 1)

    def noised(self, ctx: Context, batch: Batch, draw: Tensor) -> Noised:
        """Rows 2i and 2i + 1 are the wanted and the unwanted sample of pair i, under ids of their
        own."""
        winner, loser = (
            clean_samples(ctx, batch, self.column, name) for name in ("winner", "loser")
        )
        # `repeat` and not `twice`: different ids, hence different timesteps and noise.
        return add_noise(
            ctx, batch.repeat(2), interleave(winner, loser), "kto", self.visits, draw=draw
        )

    def gain(self, policy: Tensor, reference: Tensor) -> Tensor:
        """h `(2 pairs, parts)`."""
        return -self.beta * (policy - reference)

    def reference_point(
        self, ctx: Context, parts: list[Noised], references: list[Tensor]
    ) -> Tensor:
        with torch.no_grad():
            gains = [
                self.gain(squared_error(ctx, at), reference)
                for at, reference in zip(parts, references)
            ]
        return self.mean_gain(ctx, torch.cat(gains))

    def mean_gain(self, ctx: Context, h: Tensor) -> Tensor:
        """Q `(parts,)`, the same for all samples of this batch on all processes."""
        # Clamped at 0, as a KL divergence is; no gradient runs through it.
        return ctx.gather(h.detach()).mean(0).clamp(min=0)

    def loss(self, h: Tensor, q: Tensor) -> Tensor:
        """`(2 pairs, parts)`; 1 - sigmoid(z) is sigmoid(-z)."""
        # (pairs, parts) each.
        wanted, unwanted = h.unflatten(0, (-1, 2)).unbind(1)
        losses = [
            self.wanted * torch.sigmoid(q - wanted),
            self.unwanted * torch.sigmoid(unwanted - q),
        ]
        return torch.stack(losses, dim=1).flatten(0, 1)
