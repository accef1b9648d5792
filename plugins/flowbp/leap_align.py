"""LeapAlign (2604.15311): the reward's gradient through two leaps.

Two steps k < j of the chain are drawn. From each, one leap goes on (surrogate_chain.py has the
gradient):

    x_j^ = x_k + (sigma_j - sigma_k) v(x_k)
    x0^  = x_c - sigma_j v(alpha x_c + (1 - alpha) sg x_c),        x_c = sg x_j + (x_j^ - sg x_j^)
    loss = w relu(target - r(x0)),     w = sg 1 / (max(d_j, tau) + max(d_0, tau))

d is the mean distance of a leap's end from the truth. w scales the loss, so that the learning rate
depends on tau.

As coded in the release of FlowBP (leapalign.py), with alpha 0.3, tau 0.1 and target 0.55 (of
HPSv2.1); the authors' own repository was not read. That release keeps the gradient of the
unconditional pass for this algorithm alone, which is `guidance_gradient` of the model here. Its
defaults: Stable Diffusion 3.5 medium, 25 steps, guidance 3.5, all weights, lr 1e-5.

Cost per sample, T steps: T forwards, then 2 forwards and backwards.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from rewardft_plugins.flowbp.surrogate_chain import Chain, Leap, levels_of, losses

from rewardft import Context
from rewardft.algorithms.direct import Direct
from rewardft.algorithms.loss_shapes import Shape
from rewardft.errors import ComponentError
from rewardft.recipe.bounds import Fraction, Positive
from rewardft.types import Batch, Loss


@dataclass(frozen=True)
class LeapAlign:
    """Two leaps from two random steps.

    Args:
        alpha: share of the gradient through the second step's input, in [0, 1].
        tau: smaller errors of leaps count as tau, > 0.
        shape, target, scale: of the loss, as in `direct`.
    """

    alpha: Fraction = 0.3
    tau: Positive = 0.1
    shape: Shape = "hinge"
    target: float = 0.55
    scale: float = 1.0

    needs = frozenset({"differentiable_sampler", "reward_gradient"})

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1 or self.tau <= 0:
            raise ComponentError(
                f"expected alpha in [0, 1] and tau > 0, got {self.alpha} and {self.tau}"
            )

    def losses(self, ctx: Context, batch: Batch) -> Iterator[Loss]:
        chain = self.draw(levels_of(ctx.sampler, "leap_align"), ctx.rng)
        reward_loss = Direct(shape=self.shape, target=self.target, scale=self.scale)
        yield from losses(ctx, batch, chain, reward_loss)

    def draw(self, levels: list[float], rng: random.Random) -> Chain:
        """Two leaps; raises ComponentError for a chain of one step."""
        steps = len(levels) - 1
        if steps < 2:
            raise ComponentError("leap_align needs a sampler of at least 2 steps")
        k, j = sorted(rng.sample(range(steps), 2))
        # The chain ends at level 0, so the second leap has the width -sigma_j.
        first, second = {k: levels[j] - levels[k]}, {j: -levels[j]}
        leaps = (Leap(first, j), Leap(second, steps))
        return Chain(second, first, j, self.alpha, leaps, self.tau)

    def calls(self, steps: int, _rng: random.Random, reference: bool) -> tuple[int, int]:
        """(forwards, backwards) per sample."""
        return steps + 2 + 2 * reference, 2
