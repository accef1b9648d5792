"""`pose_sft`: supervised training of words and poses, the first stage of Pose-RFT (2508.07804).

    loss = -mean_t log pi(a_t | q, a_<t) - weight / D * log N(p; mean(q, a), Sigma(q, a))

over given answers. The paper does not say how its first stage weighs the two.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import torch
from rewardft_plugins.posert.hybrid import Hybrid
from torch import Tensor

from rewardft import Batch, Context, Loss
from rewardft.errors import ComponentError
from rewardft.types import Plan, Rollout, micro_slices


class PoseSFT:
    """Needs the columns `answer` (texts) and `pose` `(b, 132)`; no reward.

    Args:
        pose_weight: of the pose's part, >= 0; an answer without a pose has none.
    """

    needs = frozenset({"hybrid", "training_targets"})

    def __init__(self, pose_weight: float = 1.0) -> None:
        if pose_weight < 0:
            raise ComponentError(f"pose_weight must not be negative, got {pose_weight}")
        self.pose_weight = pose_weight

    def calls(self, steps: int, rng: random.Random, reference: bool) -> tuple[int, int]:
        """One pass, differentiated."""
        return 1, 1

    def losses(self, ctx: Context, batch: Batch) -> Iterator[Loss]:
        parts = list(micro_slices(len(batch), ctx.micro_batch))
        for rows in parts:
            loss = self.loss(ctx, batch.select(rows))
            ctx.record("loss", loss)
            yield Loss(loss.sum() / len(batch), step=rows == parts[-1])

    def loss(self, ctx: Context, batch: Batch) -> Tensor:
        """`(b,)`."""
        given = given_answers(ctx, batch)
        tokens, pose = ctx.replay_all(given)
        assert tokens.log_prob is not None and pose.log_prob is not None
        valid = given.x0["valid"]
        ctx.record("nll/tokens", -tokens.log_prob)
        ctx.record("nll/pose", torch.where(valid, -pose.log_prob, torch.nan))
        # An answer without a pose has none to learn from.
        return -tokens.log_prob - self.pose_weight * torch.where(valid, pose.log_prob, 0.0)


def given_answers(ctx: Context, batch: Batch) -> Rollout:
    """A rollout that holds the data set's answers."""
    tokens, mask = ctx.policy.spell(batch["answer"], ctx.device)
    # As if the policy had drawn them, so that its own replay gives the likelihoods.
    x0 = {
        "tokens": tokens,
        "mask": mask,
        "pose": ctx.policy.clean(batch).to(ctx.dtype),
        "valid": ctx.policy.is_valid(tokens, mask),
    }
    return Rollout(ctx.encode(batch), ctx.noise(batch), Plan(stop=Hybrid.steps), x0=x0)
