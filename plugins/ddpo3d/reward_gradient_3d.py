"""`reward_gradient_3d`: SDS, and the gradient of a reward through the renderer.

    loss = sds_weight L_SDS - reward_weight R(x(theta))

for rewards that are differentiable: a point of comparison for `ddpo3d`, which needs no gradient.
DreamReward (Ye et al. 2024, 2403.14613) adds such a term to SDS.

Cost per item: 1 forward; none with `sds_weight: 0`.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from rewardft_plugins.ddpo3d.noised import visit
from rewardft_plugins.ddpo3d.sds import SDS, Weighting
from torch import Tensor

from rewardft import Batch, Context, Loss
from rewardft.errors import ComponentError
from rewardft.recipe.bounds import CountOrZero, NotNegative
from rewardft.types import Rollout, micro_slices


class RewardGradient3D:
    """The reward's own gradient, beside SDS.

    Args:
        reward_weight, sds_weight: of the two terms, >= 0 and not both 0.
        t_range, t_end, anneal_steps, weighting: see `SDS`.
    """

    needs = frozenset({"renders", "reward_gradient"})

    def __init__(
        self,
        reward_weight: NotNegative = 1.0,
        sds_weight: NotNegative = 1.0,
        t_range: Sequence[float] = (0.02, 0.98),
        t_end: Sequence[float] | None = None,
        anneal_steps: CountOrZero = 0,
        weighting: Weighting = "variance",
    ) -> None:
        if min(reward_weight, sds_weight) < 0 or max(reward_weight, sds_weight) == 0:
            raise ComponentError(
                "expected reward_weight and sds_weight >= 0 and not both 0, got "
                f"{reward_weight} and {sds_weight}"
            )
        self.reward_weight, self.sds_weight = reward_weight, sds_weight
        self.sds = SDS(t_range, t_end, anneal_steps, weighting)

    def calls(self, steps: int, rng: random.Random, reference: bool) -> tuple[int, int]:
        """Per item of a batch."""
        return int(self.sds_weight > 0), 0

    def losses(self, ctx: Context, batch: Batch) -> Iterator[Loss]:
        rollout = visit(ctx, batch)
        parts = list(micro_slices(len(batch), ctx.micro_batch))
        for rows in parts:
            loss = self.loss(ctx, rollout.select(rows), batch.select(rows))
            ctx.record("loss", loss)
            yield Loss(loss.sum() / len(batch), step=rows == parts[-1])

    def loss(self, ctx: Context, rollout: Rollout, batch: Batch) -> Tensor:
        """`(b,)`."""
        slope = ctx.score(rollout, batch, gradient=True).gradient
        assert slope is not None
        # The sample once more, with the scene's graph: the reward's slope goes on through it.
        picture = ctx.replay(rollout, 0).x0
        assert picture is not None
        loss = -self.reward_weight * (slope * picture).flatten(1).sum(1)
        if self.sds_weight == 0:
            return loss
        return loss + self.sds_weight * self.sds.loss(ctx, rollout, batch)
