"""D3PO (Yang et al. 2023, 2311.13231): the preference between two samples, applied to every
denoising step.

Two samples of one prompt are drawn by a stochastic sampler; the better one's steps are all
preferred to the other's:

    d_k  = log pi(x_{k+1} | x_k) - log pi_ref(x_{k+1} | x_k)
    loss = -log sigmoid( beta * log clip(exp(d_k^w), 1 - c, 1 + c)
                         - beta * log clip(exp(d_k^l), 1 - c, 1 + c) )

averaged over the steps; log-probabilities are means over the dimensions. Pairs with equal rewards
have weight 0. Defaults of the released code: beta 0.1, c 0.1 (there with 20 steps, eta 1, guidance
5, learning rate 3e-5). In the paper people state the preferences; here a reward does.

The clip comes before the logarithm, so a step whose ratio has left [1 - c, 1 + c] gets no gradient
at all, even where the gradient would lead back: it does not learn until the other steps move it.
`clipped` logs the fraction; `clip: null` turns the clip off.

Steps without noise (DDIM's last one, where the final variance is 0) have no log-probability and are
left out.

Cost per pair: 2 T forwards, then 2 forward and backward and 2 under the reference at each of
`train_steps` steps.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from rewardft_plugins.dpo.diffusion_dpo import check_beta, record_preference
from rewardft_plugins.dpo.noised import pair_slices
from rewardft_plugins.dpo.online_dpo import choose_pairs, comparable_rewards
from torch import Tensor
from torch.nn.functional import logsigmoid

from rewardft import Context
from rewardft.errors import ComponentError
from rewardft.recipe.bounds import Count, Inside, Positive
from rewardft.types import Batch, Loss, Plan, Rollout


@dataclass(frozen=True)
class D3PO:
    """Learn from two samples of each prompt, step by step.

    Args:
        beta: strength of the preference against the reference, > 0.
        clip: c in (0, 1): the ratio to the reference is clipped to [1 - c, 1 + c]; null: not
            clipped.
        train_steps: how many steps learn per optimizer step, drawn at random; null: all that have a
            log-probability.
    """

    beta: Positive = 0.1
    clip: Inside | None = 0.1
    train_steps: Count | None = None

    needs = frozenset({"log_prob"})
    needs_reference = True

    def __post_init__(self) -> None:
        check_beta(self.beta)
        if self.clip is not None and not 0 < self.clip < 1:
            raise ComponentError(f"clip must be within (0, 1) or null, got {self.clip}")

    def losses(self, ctx: Context, batch: Batch) -> Iterator[Loss]:
        # Rows 2i and 2i + 1 are the two samples of prompt i.
        samples, steps = batch.repeat(2), ctx.sampler.steps
        rollout = ctx.rollout(samples, Plan(stop=steps, keep=frozenset(range(steps))))
        scores = ctx.score(rollout, samples)
        winner, _, decided = choose_pairs(comparable_rewards(scores, 2))
        ctx.record("ties", (~decided).float())
        # Micro-batches outside, steps inside: only one pair's graphs of one step exist at a time.
        chosen = self.choose_steps(ctx, rollout)
        parts = [(rows, k) for rows in pair_slices(ctx, len(batch)) for k in chosen]
        for rows, k in parts:
            both = slice(2 * rows.start, 2 * rows.stop)
            part, kept = rollout.select(both), scores.applies[both]
            loss = self.step_loss(ctx, part, k, winner[rows], decided[rows], kept)
            yield Loss(loss / (len(batch) * len(chosen)), step=(rows, k) == parts[-1])

    def choose_steps(self, ctx: Context, rollout: Rollout) -> list[int]:
        """The steps that learn; the same on every process and for every batch of an optimizer
        step."""
        # Deterministic steps have no log-probability, hence no ratio.
        able = sorted(rollout.log_probs)
        count = len(able) if self.train_steps is None else self.train_steps
        if not 1 <= count <= len(able):
            raise ComponentError(
                f"train_steps must be within 1 and the {len(able)} steps that draw noise, got "
                f"{count}"
            )
        # From the run's seed and step: all processes choose the same.
        return sorted(ctx.rng.sample(able, count))

    def step_loss(
        self,
        ctx: Context,
        rollout: Rollout,
        k: int,
        winner: Tensor,
        decided: Tensor,
        kept: Tensor,
    ) -> Tensor:
        """Sum over the pairs of one step's loss and half its two samples' regularizers; rows 2i, 2i
        + 1 are a pair. Samples that are not `kept`, to which no reward applies, have none."""
        reference = ctx.reference(rollout, k)
        new = ctx.replay(rollout, k)
        assert new.log_prob is not None and reference.log_prob is not None
        # (pairs, 2), log-ratios of the first and the second sample.
        ratio = self.log_ratio(ctx, new.log_prob - reference.log_prob).view(-1, 2)
        sign = 1 - 2 * winner  # the winner is the first (0) or the second (1) of its pair
        # (pairs,).
        inside = self.beta * sign * (ratio[:, 0] - ratio[:, 1])
        # Not decided: which of two equals is called the winner is an accident of argmax.
        loss = -logsigmoid(inside) * decided
        record_preference(ctx, inside, loss)
        # Halved: losses are means over pairs, and a pair has two samples.
        return loss.sum() + (kept * ctx.penalty(new, rollout, k)).sum() / 2

    def log_ratio(self, ctx: Context, difference: Tensor) -> Tensor:
        """log clip(exp(d), 1 - c, 1 + c)."""
        if self.clip is None:
            return difference
        # The clamped logarithm is the logarithm of the clamped ratio, and needs no exp to overflow.
        low, high = math.log1p(-self.clip), math.log1p(self.clip)
        ctx.record("clipped", ((difference < low) | (difference > high)).float())
        return difference.clamp(low, high)
