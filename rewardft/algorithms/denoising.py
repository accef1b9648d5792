"""Supervised denoising: how a base model is pre-trained, as an ordinary recipe.

Loss: weight(t) * ||f(x_t, t) - target||^2 with x_t from the forward process of the model's own
    scheduler. `min_snr` weights by min(SNR, gamma) / SNR for epsilon and min(SNR, gamma) / (SNR +
    1) for v (Hang et al. 2023, 2303.09556).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from rewardft.errors import ComponentError
from rewardft.policy.context import Context
from rewardft.recipe.bounds import Fraction, Positive
from rewardft.samplers.prediction import target_output
from rewardft.types import Batch, Loss, micro_slices


class Denoising:
    """Train the denoiser on clean samples; needs no reward.

    The model gives the clean samples by a method `clean(batch) -> x0`, and may drop conditions for
    classifier-free guidance by a method `drop(cond, mask) -> cond`, mask `(b,)` bool.

    Args:
        min_snr: gamma of the min-SNR weighting; None weights all timesteps alike.
        condition_dropout: probability of dropping a sample's condition, in [0, 1].
    """

    needs = frozenset({"denoiser", "training_targets"})

    def __init__(self, min_snr: Positive | None = 5.0, condition_dropout: Fraction = 0.0) -> None:
        if not 0 <= condition_dropout <= 1:
            raise ComponentError(
                f"condition_dropout must be within [0, 1], got {condition_dropout}"
            )
        self.min_snr, self.condition_dropout = min_snr, condition_dropout

    def losses(self, ctx: Context, batch: Batch) -> Iterator[Loss]:
        parts = list(micro_slices(len(batch), ctx.micro_batch))
        for rows in parts:
            # Noise is keyed by sample, so micro-batches draw what the whole batch would.
            loss = self.loss(ctx, batch.select(rows))
            ctx.record("loss", loss)
            yield Loss(loss.sum() / len(batch), step=rows == parts[-1])

    def loss(self, ctx: Context, batch: Batch) -> Tensor:
        """`(b,)`: one timestep and one noise per sample."""
        noise = ctx.noise(batch)
        with torch.no_grad():
            x0 = ctx.policy.clean(batch).to(ctx.dtype)
            cond = self.drop(ctx, noise.uniform("condition"), ctx.encode(batch))
            # A stream of its own: the rollout's noise would tie training to sampling.
            epsilon = noise.draw("denoising", x0.shape[1:])
            t, alpha, sigma = forward_process(ctx.policy.scheduler, noise.uniform("timestep"), x0)
        # x_t = alpha * x0 + sigma * epsilon; t `(b,)`, alpha and sigma `(b, 1, ...)`.
        output = ctx.policy.denoise(alpha * x0 + sigma * epsilon, t, cond).to(x0.dtype)
        # Schedulers of flow matching have no such key: their networks predict epsilon - x0.
        kind = getattr(ctx.policy.scheduler.config, "prediction_type", "flow_prediction")
        error = (
            (output - target_output(kind, x0, epsilon, alpha, sigma)).square().flatten(1).mean(1)
        )
        # SNR = alpha^2 / sigma^2.
        return error * self.weight(kind, (alpha / sigma).flatten().square())

    def drop(self, ctx: Context, draw: Tensor, cond: Any) -> Any:
        if self.condition_dropout == 0:
            return cond
        return ctx.policy.drop(cond, draw < self.condition_dropout)

    def weight(self, kind: str, snr: Tensor) -> Tensor:
        """The min-SNR weight `(b,)` of the squared error; 1 for noise prediction without signal."""
        # The paper weights by min(SNR, gamma) in x0; these are its forms for the other two targets.
        if self.min_snr is None or kind not in ("epsilon", "v_prediction"):
            return torch.ones_like(snr)
        if kind == "epsilon":
            return (self.min_snr / snr).clamp(max=1.0)  # also where there is no signal, SNR 0
        return snr.clamp(max=self.min_snr) / (snr + 1)


def forward_process(scheduler: Any, draw: Tensor, x0: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Timesteps `(b,)` and the coefficients of x_t = alpha * x0 + sigma * epsilon,
    shaped to multiply x0."""
    shape = (-1, *[1] * (x0.ndim - 1))
    count = scheduler.config.num_train_timesteps
    # A draw just below 1 may round to `count`.
    index = (draw * count).long().clamp(max=count - 1)
    if hasattr(scheduler, "alphas_cumprod"):
        a = scheduler.alphas_cumprod.to(x0.device, x0.dtype)[index].view(shape)
        return index, a.sqrt(), (1 - a).sqrt()
    # A flow's grid runs from noise to data; sorted, index 0 is the cleanest as with betas. One copy
    # to the device, not one for each table.
    order = torch.argsort(scheduler.timesteps)
    table = torch.stack([scheduler.timesteps[order], scheduler.sigmas[order]]).to(x0.device)
    timestep, sigma = table[:, index]
    sigma = sigma.to(x0.dtype).view(shape)
    return timestep, 1 - sigma, sigma
