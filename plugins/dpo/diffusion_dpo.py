"""Diffusion-DPO (Wallace et al. 2023, 2311.12908): learn from given pairs of a better and a worse
image.

Equation 14 of the paper, as its released code has it, with the expectation over t and epsilon of
one draw per pair:

    l(x0)  = mean over the dimensions of (epsilon - epsilon_hat(alpha_t x0 + sigma_t epsilon, t))^2
    inside = -beta / 2 * [ (l_w - l_l) of the policy - (l_w - l_l) of the reference ]
    loss   = -log sigmoid(inside)

w and l, winner and loser, share the timestep t AND the noise epsilon. T and omega(lambda_t) of the
paper are folded into beta, whose size therefore depends on l being a mean (not a sum) over
dimensions. The reference is the adapter switched off, so the loss is log 2 at initialisation.
Defaults: beta 5000 in the released scripts for SD 1.5 and SDXL. Not checked against the paper: that
it gives 2000 for SD 1.5, and the equation's number.

For networks that predict v, flow or the sample, `space: epsilon` converts their error to that of
the noise prediction (`noised.py` has the factors), so that the objective is the paper's whatever
the network predicts; `space: output` takes the error of the network's own output, which is how flow
models are usually trained.

A sample of named parts (`noised.py`) has an l and a log-sigmoid for each part, summed with the
parts' weights, as ADHMR has it for joints and twists (Shen et al. 2025, 2505.10250; its released
code: beta 100, t and T - 1 - t in the two halves of a batch, which `antithetic` gives). `anchor`
adds that many times the winner's own l. The log-sigmoid sees only the difference of the two, and
would be content if the policy unlearned the winner as long as it unlearned the loser faster.

Cost per pair: 2 samples forward and backward, 2 forward under the reference; one stacked call each.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from rewardft_plugins.dpo.noised import (
    WHOLE,
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
    twice,
)
from torch import Tensor
from torch.nn.functional import logsigmoid

from rewardft import Context
from rewardft.errors import ComponentError
from rewardft.recipe.bounds import Fraction, NotNegative, Positive
from rewardft.types import Batch, Loss


@dataclass(frozen=True)
class DiffusionDPO:
    """Learn from pairs of images.

    Args:
        beta: strength of the preference against the reference, > 0.
        space: in which the squared errors are taken: of the noise prediction (the paper) or the
            network's own output.
        condition_dropout: probability of dropping the condition, of both images of a pair at once;
            needs the model's `drop(cond, mask)`.
        column: the column that the model's `clean(batch)` reads; winner and loser take its place in
            turn.
        anchor: weight of the winner's own denoising loss, >= 0.
        parts: weights of the sample's named parts, each with a log-sigmoid of its own; null: the
            sample as a whole.
        antithetic: the second half of a batch has the first half's timesteps, mirrored.
        t_range: which training timesteps are visited, as two fractions of their number.
    """

    beta: Positive = 5000.0
    space: Space = "epsilon"
    condition_dropout: Fraction = 0.0
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
        if not 0 <= self.condition_dropout <= 1:
            raise ComponentError(
                f"condition_dropout must be within [0, 1], got {self.condition_dropout}"
            )

    @property
    def visits(self) -> Visits:
        return Visits(self.space, self.parts, self.antithetic, self.t_range)

    def losses(self, ctx: Context, batch: Batch) -> Iterator[Loss]:
        # For the whole batch: antithetic timesteps pair its halves, whatever the micro-batch.
        draw = timestep_draws(ctx, batch, "dpo", self.visits)
        parts = list(pair_slices(ctx, len(batch)))
        for rows in parts:
            part = batch.select(rows)
            winner, loser = (
                clean_samples(ctx, part, self.column, name) for name in ("winner", "loser")
            )
            # Winner and loser share the timestep; with equal ids (`twice`) they share the noise
            # too.
            pairs, places = interleave(winner, loser), draw[rows].repeat_interleave(2)
            at = add_noise(
                ctx, twice(part), pairs, "dpo", self.visits, self.condition_dropout, places
            )
            loss = preference_loss(ctx, at, self.beta, self.visits, self.anchor)
            yield Loss(loss.sum() / len(batch), step=rows == parts[-1])


def preference_loss(
    ctx: Context,
    at: Noised,
    beta: float,
    visits: Visits = WHOLE,
    anchor: float = 0.0,
    reference: Tensor | None = None,
) -> Tensor:
    """`(pairs,)`: -log sigmoid(inside), summed over the weighted parts, plus `anchor` times the
    winner's errors.

    Rows 2i and 2i + 1 of `at` are the winner and the loser of pair i.
    reference: squared errors `(2 pairs, parts)` of the reference policy; None: the adapter switched
        off.
    """
    if reference is None:
        reference = reference_error(ctx, at)
    error = squared_error(ctx, at)
    # inside (pairs, parts), weights (parts,).
    inside, weights = preference_logit(error, reference, beta), visits.weights(error)
    loss = -(logsigmoid(inside) * weights).sum(1)
    if anchor:
        # Not relative to the reference: the winner must be denoised well, not merely better.
        winner = (error[0::2] * weights).sum(1)
        ctx.record("anchor", winner)
        loss = loss + anchor * winner
    record_preference(ctx, inside, loss)
    record_changes(ctx, ((error - reference) * weights).sum(1))
    return loss


def preference_logit(policy: Tensor, reference: Tensor, beta: float) -> Tensor:
    """`inside` `(pairs, parts)` from squared errors `(2 pairs, parts)` in the order winner, loser,
    winner, loser, ..."""
    # (2 pairs, parts) -> (pairs, parts) each.
    winner, loser = (policy - reference).unflatten(0, (-1, 2)).unbind(1)
    # The half is the released code's, and beta's default goes with it.
    return -0.5 * beta * (winner - loser)


def record_preference(ctx: Context, inside: Tensor, loss: Tensor) -> None:
    """Implicit accuracy: how often the policy prefers the winner more than the reference does; a
    tie counts as 1/2."""
    ctx.record("loss", loss)
    ctx.record("implicit_accuracy", (torch.sign(inside) + 1) / 2)
    ctx.record("implicit_margin", inside)


def record_changes(ctx: Context, change: Tensor) -> None:
    """How much the policy's errors exceed the reference's, for winners and for losers.

    Both above 0: the policy unlearns both, the loser faster, which the log-sigmoid counts as
    success.
    """
    ctx.record("winner_error_change", change[0::2])
    ctx.record("loser_error_change", change[1::2])


def check_beta(beta: float) -> None:
    """Raises ComponentError unless beta > 0."""
    # Not `beta <= 0`: a NaN must be refused as well.
    if not beta > 0:
        raise ComponentError(f"beta must be above 0, got {beta}")


def check_anchor(anchor: float) -> None:
    """Raises ComponentError unless anchor >= 0."""
    # Likewise for a NaN.
    if not anchor >= 0:
        raise ComponentError(f"anchor must not be negative, got {anchor}")
