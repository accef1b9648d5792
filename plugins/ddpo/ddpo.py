"""DDPO: denoising as a decision process (Black et al. 2023, 2305.13301).

The policy is the sampler's step p(x_{k+1} | x_k, c) = N(mean, std^2 I); the reward comes at the end
of the chain.

    score_function (DDPO-SF), equation 3:
        grad J = E[ sum_k grad log p(x_{k+1} | x_k, c) * A ]
    importance (DDPO-IS), equation 4:
        loss = E[ max(-A rho_k, -A clip(rho_k, 1 - e, 1 + e)) ]

with the clip of section 4.3 (PPO's) and the advantage A = (r - mean) / std over the rewards of the
same prompt. DDPO-SF needs fresh samples for every update. Equation numbers and the form of DDPO-SF
have not been checked against the paper; DDPO-IS, the statistics and the defaults follow the
authors' PyTorch code: log-probabilities averaged over dimensions, e = 1e-4, statistics over the
last 16 or 32 rewards of a prompt once there are 16, A clipped to +-5, AdamW lr 3e-4, gradient norm
1, LoRA, 50 DDIM steps with eta 1, guidance 5 in sampling and training, 256 samples per batch;
compressibility: 4 updates per batch.

Cost per sample: T denoiser forwards to roll out, plus a forward and a backward for each of the K
trained steps in each inner epoch. With one update per batch and micro-batches of one sample it is
T forwards and K backwards in all.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Literal

from rewardft import Batch, Context, Loss
from rewardft.algorithms.advantages import prompt_advantages, prompt_keys
from rewardft.algorithms.policy_gradient import Schedule, learn, roll_out
from rewardft.algorithms.surrogates import clipped_ratio_loss, score_function_loss
from rewardft.errors import ComponentError
from rewardft.recipe.bounds import Count, Positive, Share


class DDPO:
    """Policy gradients over the denoising steps, with running reward statistics per prompt.

    Args:
        form: `importance` (DDPO-IS) or `score_function` (DDPO-SF, exactly one update per batch).
        clip: e, the half-width of the clip range of the ratio.
        advantage_clip: advantages are clamped to [-advantage_clip, advantage_clip].
        group_by: batch column that names the prompt; None takes the statistics of the whole batch.
        buffer, min_count: rewards remembered per prompt, and how many there must be before they are
            used.
        updates: optimizer steps per batch, which is cut into that many parts.
        inner_epochs: passes over each batch.
        timestep_fraction: fraction of the steps that learn, drawn at random for every update.
    """

    needs = frozenset({"log_prob"})

    def __init__(
        self,
        form: Literal["importance", "score_function"] = "importance",
        clip: Positive = 1e-4,
        advantage_clip: Positive = 5.0,
        group_by: str | None = None,
        buffer: Count = 32,
        min_count: Count = 16,
        updates: Count = 1,
        inner_epochs: Count = 1,
        timestep_fraction: Share = 1.0,
    ) -> None:
        self.schedule = Schedule(updates, inner_epochs, timestep_fraction)
        # The estimator has no ratio to correct for a policy that has moved since the rollout.
        if form == "score_function" and updates * inner_epochs != 1:
            raise ComponentError(
                "form score_function needs fresh samples: expected updates = inner_epochs = 1, "
                f"got {updates} and {inner_epochs}. Use `form: importance` to learn from a batch "
                "more than once."
            )
        # With min_count above the buffer no prompt would ever use its own statistics.
        if clip <= 0 or advantage_clip <= 0 or not 1 <= min_count <= buffer:
            raise ComponentError(
                "expected clip > 0, advantage_clip > 0 and 1 <= min_count <= buffer, got "
                f"clip={clip}, advantage_clip={advantage_clip}, min_count={min_count}, "
                f"buffer={buffer}"
            )
        self.advantage_clip, self.group_by, self.buffer, self.min_count = (
            advantage_clip,
            group_by,
            buffer,
            min_count,
        )
        self.surrogate = (
            score_function_loss
            if form == "score_function"
            else partial(clipped_ratio_loss, clip=clip)
        )

    def losses(self, ctx: Context, batch: Batch) -> Iterator[Loss]:
        # First, so that a misspelt column fails before any sample is drawn.
        keys = prompt_keys(batch, self.group_by, ctx.device)
        experience = roll_out(ctx, batch, self.schedule)
        rewards = ctx.score(experience.rollout, batch).rewards
        # Section 4.3, per prompt.
        advantage = prompt_advantages(ctx, rewards, keys, self.buffer, self.min_count)
        # A prompt whose rewards hardly vary divides by a tiny deviation; the clamp bounds that.
        advantage = advantage.clamp(-self.advantage_clip, self.advantage_clip)
        # Equations 3 and 4. Samples to which no reward applies learn nothing, penalties included.
        yield from learn(
            ctx, experience, advantage, self.surrogate, self.schedule, ~rewards.isnan()
        )
