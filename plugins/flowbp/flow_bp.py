"""FlowBP (2606.11075): the reward's gradient through a few velocities, the others as constants.

Three surrogates of the chain (surrogate_chain.py has their gradient), D_i = sigma_{i+1} - sigma_i:

sparse     x0^ = x_T + sum D_i v_i; K steps learn, drawn without replacement with p ~ (i + 1)^bias
bridge     split at a random step j, which always learns, with the share alpha of its input; K is
           split between the two sides by their lengths, at least 1 each
lagrange   two leaps k -> j -> 0; a leap [a, b) has `order` nodes, a first, evenly spaced by index,
           with the weights of its Lagrange polynomials, integral from sigma_a to sigma_b; the first
           two nodes learn, the second with a quarter of its gradient; the loss is weighed by
           w = sg 1 / (max(d_j, tau) + max(d_0, tau)) with the errors d of the leaps

The gradients of sparse and bridge are scaled by 1 + gamma (sum |D| / sum over learning |D| - 1),
on each side of the junction. The loss is relu(0.55 - r), 0.55 of HPSv2.1.

Lagrange draws (A, B, C) ~ Dirichlet(2.5, 6, 2) and splits the chain into steps after j, between,
and before k; at most 10 of 25 are after j, here 40 %. Weights may come out as 0 or negative: three
nodes in a leap of three equal steps have 1/4, 0 and 3/4, so that the second one learns nothing.

Defaults by variant, of the release for Stable Diffusion 3.5 medium (25 steps, guidance 3.5, all
weights, lr 1e-5); FLUX.1 in brackets: sparse K 4, bias 1, gamma 0.5 (3, 2, 1); bridge K 5, alpha
0.5, bias 4, gamma 0 (5, 0.1, 2, 1); lagrange order 3, alpha 0.1, tau 0.2. That release cuts the
gradient of the unconditional pass: the model's `guidance_gradient: outside`.

Cost per sample, T steps: T forwards, then K forwards and backwards (lagrange: at most 4).
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from rewardft_plugins.flowbp.surrogate_chain import Chain, Leap, levels_of, losses

from rewardft import Context
from rewardft.algorithms.direct import Direct
from rewardft.algorithms.loss_shapes import Shape
from rewardft.errors import ComponentError
from rewardft.recipe.bounds import Count, Fraction, NotNegative, Positive
from rewardft.types import Batch, Loss

SECOND_NODE = 0.25  # of the gradient of a leap's second node
DIRICHLET = (2.5, 6.0, 2.0)  # parts of the chain after j, between, and before k
MOST_AFTER = 0.4  # of the chain
OWN = {
    "sparse": {"train_steps": 4, "bias": 1.0, "gamma": 0.5, "alpha": 0.0},
    "bridge": {"train_steps": 5, "bias": 4.0, "gamma": 0.0, "alpha": 0.5},
    "lagrange": {"train_steps": 4, "bias": 0.0, "gamma": 0.0, "alpha": 0.1},
}


@dataclass(frozen=True)
class FlowBP:
    """Learn from a few velocities of the chain.

    Args:
        variant: sparse, bridge or lagrange.
        train_steps: K; lagrange has 4 at most, whatever this is. null: the variant's default, as
            for the next three.
        bias: of the draw towards late steps, >= 0.
        gamma: how far the gradient is scaled up for the steps that do not learn, in [0, 1].
        alpha: share of the gradient through the junction's input, in [0, 1].
        order: nodes of a leap, >= 1.
        tau: smaller errors of leaps count as tau, > 0.
        shape, target, scale: of the loss, as in `direct`.
    """

    variant: Literal["sparse", "bridge", "lagrange"] = "sparse"
    train_steps: Count | None = None
    bias: NotNegative | None = None
    gamma: Fraction | None = None
    alpha: Fraction | None = None
    order: Count = 3
    tau: Positive = 0.2
    shape: Shape = "hinge"
    target: float = 0.55
    scale: float = 1.0

    needs = frozenset({"differentiable_sampler", "reward_gradient"})

    def __post_init__(self) -> None:
        # A bridge has two sides, and each must learn.
        least = 2 if self.variant == "bridge" else 1
        if self.count < least or self.order < 1 or self.tau <= 0:
            raise ComponentError(
                f"expected train_steps >= {least}, order >= 1 and tau > 0, got {self.count}, "
                f"{self.order} and {self.tau}"
            )
        bias, gamma, alpha = (self.own(name) for name in ("bias", "gamma", "alpha"))
        if bias < 0 or not 0 <= gamma <= 1 or not 0 <= alpha <= 1:
            raise ComponentError(
                "expected bias >= 0, gamma in [0, 1] and alpha in [0, 1], got "
                f"{bias:g}, {gamma:g} and {alpha:g}"
            )

    def own(self, name: str) -> float:
        """The option's value, or the variant's default."""
        given = getattr(self, name)
        return float(OWN[self.variant][name] if given is None else given)

    @property
    def count(self) -> int:
        return int(self.own("train_steps"))

    def losses(self, ctx: Context, batch: Batch) -> Iterator[Loss]:
        chain = self.draw(levels_of(ctx.sampler, "flow_bp"), ctx.rng)
        reward_loss = Direct(shape=self.shape, target=self.target, scale=self.scale)
        yield from losses(ctx, batch, chain, reward_loss)

    def draw(self, levels: list[float], rng: random.Random) -> Chain:
        """The chain of one optimizer step. Raises ComponentError for too few steps."""
        steps = len(levels) - 1
        # Sparse needs as many steps as learn; the others a step on each side of the junction.
        least = self.count if self.variant == "sparse" else 2
        if steps < least or (self.variant == "bridge" and steps < self.count):
            raise ComponentError(
                f"flow_bp ({self.variant}) needs a sampler of at least {max(least, self.count)} "
                f"steps, got {steps}"
            )
        if self.variant == "lagrange":
            return self.draw_leaps(levels, rng)
        if self.variant == "sparse":
            return Chain(self.shares(levels, range(steps), self.count, (), rng))
        return self.draw_bridge(levels, rng)

    def draw_bridge(self, levels: list[float], rng: random.Random) -> Chain:
        steps = len(levels) - 1
        j = rng.randrange(1, steps)
        # At least one step on each side, and no more than the side has.
        before = min(max(round(self.count * j / steps), 1), self.count - 1, j)
        after = min(self.count - before, steps - j)
        first = self.shares(levels, range(j), before, (), rng)
        second = self.shares(levels, range(j, steps), after, (j,), rng)
        return Chain(second, first, j, self.own("alpha"))

    def shares(
        self,
        levels: list[float],
        stretch: range,
        count: int,
        always: tuple[int, ...],
        rng: random.Random,
    ) -> dict[int, float]:
        """D_i times the scale of the gradient, for `count` learning steps of a stretch."""
        chosen, left = set(always), [k for k in stretch if k not in always]
        while len(chosen) < count:
            # Without replacement, one at a time: the weights are those of the steps that are left.
            weights = [(k + 1) ** self.own("bias") for k in left]
            chosen.add(left.pop(rng.choices(range(len(left)), weights)[0]))
        widths = {k: levels[k + 1] - levels[k] for k in stretch}
        # Both are negative, as levels fall; their quotient is at least 1.
        whole, learning = sum(widths.values()), sum(widths[k] for k in chosen)
        scale = 1 + self.own("gamma") * (whole / learning - 1)
        return {k: scale * widths[k] for k in chosen}

    def draw_leaps(self, levels: list[float], rng: random.Random) -> Chain:
        steps = len(levels) - 1
        # Gamma draws over their sum are a Dirichlet draw, from the run's own generator.
        parts = [rng.gammavariate(concentration, 1.0) for concentration in DIRICHLET]
        most = max(int(MOST_AFTER * steps), 1)
        # j leaves a step on either side, and k < j always.
        after = min(max(round(parts[0] / sum(parts) * steps), 1), most, steps - 1)
        k = min(round(parts[2] / sum(parts) * steps), steps - after - 1)
        j = steps - after
        first = Leap(node_weights(levels, k, j, self.order), j)
        second = Leap(node_weights(levels, j, steps, self.order), steps)
        chain = (learning_nodes(second), learning_nodes(first))
        return Chain(*chain, j, self.own("alpha"), (first, second), self.tau)

    def calls(self, steps: int, rng: random.Random, reference: bool) -> tuple[int, int]:
        """(forwards, backwards) per sample; how many steps learn does not depend on the levels."""
        chain = self.draw([1 - k / steps for k in range(steps + 1)], rng)
        learning = len(chain.steps)
        return steps + learning * (1 + reference), learning


def node_weights(levels: Sequence[float], start: int, end: int, order: int) -> dict[int, float]:
    """Integrals from sigma_start to sigma_end of the nodes' Lagrange polynomials, by step.

    They add up to sigma_end - sigma_start; one of them may be 0 or have another sign.
    """
    # A short leap has fewer nodes than asked for; more would coincide.
    count = min(order, end - start)
    nodes = [start + i * (end - start) // count for i in range(count)]
    at = np.array([levels[k] for k in nodes])
    powers = np.arange(1, count + 1)
    # Integrals of sigma^0, sigma^1, ...: weights that are exact for them are exact for every
    # polynomial of the nodes' degree. float64, as the release computes them.
    moments = (levels[end] ** powers - levels[start] ** powers) / powers
    # (count, count) Vandermonde system: weights that integrate every power exactly.
    weights = np.linalg.solve(np.vander(at, increasing=True).T, moments)
    return {k: float(weight) for k, weight in zip(nodes, weights)}


def learning_nodes(leap: Leap) -> dict[int, float]:
    """The first two nodes of a leap, the second with a part of its gradient."""
    first, *rest = sorted(leap.nodes)
    second = {k: SECOND_NODE * leap.nodes[k] for k in rest[:1]}
    return {first: leap.nodes[first], **second}
