"""DreamDPO: of two noises, towards the estimate that the reward prefers (Zhou et al. 2025,
2502.04370).

    x_t^i = alpha_t x + sigma_t epsilon^i,  i = 1, 2, of one picture x of a scene at one t
    r^i = R(x0_hat(x_t^i)),  win and lose: the higher and the lower of the two
    grad L = w(t) [ (eps_hat_win - epsilon_win) - (eps_hat_lose - epsilon_lose) ] dx/dtheta
                                                                       where r_win - r_lose >= beta
    grad L = w(t) eps_hat_win dx/dtheta                                otherwise

as the authors' code has it: eps_hat_win with guidance and eps_hat_lose the conditional prediction
alone, w = sigma^2, and no noise subtracted below beta, whose default 0 never gets there. The
equations have not been checked against the paper itself.

Cost per item: 3 forwards.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

import torch
from rewardft_plugins.ddpo3d.noised import (
    Level,
    as_prior,
    draw_fraction,
    judged,
    level_at,
    predict,
    rendered,
    time_range,
    visit,
)
from rewardft_plugins.ddpo3d.sds import Weighting, distillation
from torch import Tensor

from rewardft import Batch, Context, Loss
from rewardft.errors import ComponentError
from rewardft.recipe.bounds import CountOrZero, NotNegative
from rewardft.types import Rollout, micro_slices


class DreamDPO:
    """Pairs of noises, ranked by a reward that needs no gradient.

    Args:
        beta: the gap of two rewards from which the loser is pushed away, >= 0.
        sds_weight: of an SDS term of the better noise, which the paper does not have; >= 0.
        t_range, t_end, anneal_steps, weighting: see `SDS`.
    """

    needs = frozenset({"renders"})

    def __init__(
        self,
        beta: NotNegative = 0.0,
        sds_weight: NotNegative = 0.0,
        t_range: Sequence[float] = (0.02, 0.98),
        t_end: Sequence[float] | None = None,
        anneal_steps: CountOrZero = 0,
        weighting: Weighting = "variance",
    ) -> None:
        if min(beta, sds_weight) < 0:
            raise ComponentError(f"expected beta and sds_weight >= 0, got {beta} and {sds_weight}")
        self.beta, self.sds_weight = beta, sds_weight
        self.times = time_range(t_range, t_end, anneal_steps, "dreamdpo")
        self.weighting: Weighting = weighting

    def calls(self, steps: int, rng: random.Random, reference: bool) -> tuple[int, int]:
        """Per item of a batch."""
        return 3, 0

    def losses(self, ctx: Context, batch: Batch) -> Iterator[Loss]:
        rollout = visit(ctx, batch)
        parts = list(micro_slices(len(batch), ctx.micro_batch))
        for rows in parts:
            piece = rollout.select(rows)
            level, error = self.preference(ctx, piece, batch.select(rows))
            loss = distillation(rendered(ctx, piece), level, error, self.weighting)
            ctx.record("loss", loss)
            yield Loss(loss.sum() / len(batch), step=rows == parts[-1])

    @torch.no_grad()
    def preference(self, ctx: Context, rollout: Rollout, batch: Batch) -> tuple[Level, Tensor]:
        """The noise level, and what stands in the brackets of the gradient, like the pictures."""
        clean = as_prior(ctx, rollout.x0)
        level = level_at(ctx, draw_fraction(ctx, batch, self.times), clean)
        pairs, both = batch.repeat(2), level.repeat(2)
        noise = ctx.noise(pairs).draw("noising", clean.shape[1:])
        state = both.add_noise(clean.repeat_interleave(2, 0), noise)
        cond = ctx.encode(pairs)
        x0, guess = predict(ctx, state, both, cond)
        reward = judged(ctx, pairs, cond, x0).view(-1, 2)
        win = reward.argmax(1)
        with ctx.policy.unguided():
            _, plain = predict(ctx, two_of(state, 1 - win), level, rollout.cond)
        return level, self.bracket(reward, guess, plain, noise, win)

    def bracket(
        self, reward: Tensor, guess: Tensor, plain: Tensor, noise: Tensor, win: Tensor
    ) -> Tensor:
        """`(b, ...)`; no preference where a reward does not apply."""
        shape = (-1, *[1] * (guess.ndim - 1))
        best = two_of(guess, win)
        own = best - two_of(noise, win)
        apart = own - (plain - two_of(noise, 1 - win))
        gap = (reward[:, 0] - reward[:, 1]).abs()
        error = torch.where((gap >= self.beta).view(shape), apart, best)
        error = torch.where(gap.isnan().view(shape), torch.zeros_like(error), error)
        return error + self.sds_weight * own


def two_of(pairs: Tensor, which: Tensor) -> Tensor:
    """The first or second of each pair: `(2 b, ...)` and `(b,)` -> `(b, ...)`."""
    rows = 2 * torch.arange(len(which), device=which.device) + which
    return pairs[rows]
