"""`pose_sft`: supervised training of words and poses, the first stage of Pose-RFT (2508.07804).

    loss = -mean_t log pi(a_t | q, a_<t) - weight / D * log N(p; mean(q, a), Sigma(q, a))

over given answers. The paper does not say how its first stage weighs the two.

With a learned deviation, the likelihood gives a dimension that is still badly fitted a large
deviation, and so a small gradient: the mean of hard samples stops learning. `beta` multiplies each
dimension by its deviation^(2 beta), without a gradient through it (beta-NLL, Seitzer et al. 2022,
2203.09168, eq. 7): 0 is the likelihood, at 1 the mean learns as under squared error.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import torch
from rewardft_plugins.posert.hybrid import Hybrid
from torch import Tensor
from torch.distributions import Normal

from rewardft import Batch, Context, Loss
from rewardft.errors import ComponentError
from rewardft.recipe.bounds import Fraction, NotNegative
from rewardft.types import Plan, Rollout, Transition, micro_slices


class PoseSFT:
    """Needs the columns `answer` (texts) and `pose` `(b, 132)`; no reward.

    Args:
        pose_weight: of the pose's part, >= 0; an answer without a pose has none.
        beta: in [0, 1]; above 0 for a diagonal covariance alone (`rank: 0` of the model).
    """

    needs = frozenset({"hybrid", "training_targets"})

    def __init__(self, pose_weight: NotNegative = 1.0, beta: Fraction = 0.0) -> None:
        if pose_weight < 0 or not 0 <= beta <= 1:
            raise ComponentError(
                f"expected pose_weight >= 0 and beta in [0, 1], got {pose_weight} and {beta}"
            )
        self.pose_weight, self.beta = pose_weight, beta

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
        own = -pose.log_prob if self.beta == 0 else beta_nll(pose, self.beta)
        # An answer without a pose has none to learn from.
        return -tokens.log_prob + self.pose_weight * torch.where(valid, own, 0.0)


def beta_nll(pose: Transition, beta: float) -> Tensor:
    """Mean over dimensions of deviation^(2 beta) times the negative log-likelihood, `(b,)`."""
    if not isinstance(getattr(pose.density, "base_dist", None), Normal):
        raise ComponentError("pose_sft: `beta` is for a diagonal covariance, `rank: 0` of pose_lm")
    assert pose.mean is not None and pose.std is not None
    # Per dimension, (b, 132).
    nll = -Normal(pose.mean, pose.std, validate_args=False).log_prob(pose.next)
    return (pose.std.detach() ** (2 * beta) * nll).mean(1)


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
