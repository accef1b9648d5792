"""BranchGRPO (2509.06040): one tree of samples for each prompt, and advantages per depth.

From one initial noise, every branch splits in two at the steps `splits`; branches share the steps
before they part, and differ by the noise of their steps. With r the rewards of the leaves:

    r_node = mean of r over the leaves below a node
    A_node = (r_node - mean) / (std + 1e-8)        over the nodes of that depth in the same tree
    loss   = max(-A rho, -A clip(rho, 1 - c, 1 + c))

averaged over the edges of the tree, rho the ratio of the densities of an edge and A that of the
node it leads to.

Defaults of the released code for FLUX: 20 steps of `dance_sde` at 0.3, splits at 0, 3, 6 and 9 (16
leaves), the unbiased deviation, c 1e-3, advantages clipped to +-5, no KL, lr 1e-5. `pruned` leaves
the edges of some steps out, its depth pruning; the released script names no step, and its window
that slides is left out. That code draws the noise of a split 4 times as wide and takes the
log-probability without that factor; here both have the sampler's deviation. Its options
`use_group`, with which the leaves alone get an advantage, and the softmax-weighted r_node are left
out, and all edges feed one update.

Cost per prompt of a tree with n_k nodes before step k: sum n_k forwards to roll out, and as many
forwards and backwards over the steps that learn. The default has 16 samples for 203 forwards, and
the plain chains of a group of 16 would take 320.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from torch import Tensor

from rewardft import Batch, Context, Loss, Plan, Rollout
from rewardft.algorithms.advantages import group_advantages
from rewardft.algorithms.forks import Fork, JudgedFork, fork, learn_from_forks
from rewardft.algorithms.surrogates import clipped_ratio_loss
from rewardft.errors import ComponentError
from rewardft.recipe.bounds import Count, Pair, Positive


class BranchGRPO:
    """GRPO on trees.

    Args:
        splits: steps at which every branch splits, ascending.
        branches: into how many, >= 2.
        pruned: steps whose edges do not learn.
        clip, advantage_clip, inner_epochs, floor: as in `grpo`.
    """

    needs = frozenset({"log_prob"})

    def __init__(
        self,
        splits: tuple[int, ...] = (0, 3, 6, 9),
        branches: Pair = 2,
        pruned: tuple[int, ...] = (),
        clip: Positive = 1e-3,
        advantage_clip: Positive = 5.0,
        inner_epochs: Count = 1,
        floor: Positive = 1e-8,
    ) -> None:
        if not splits or splits[0] < 0 or list(splits) != sorted(set(splits)):
            raise ComponentError(f"expected splits as ascending steps, got {list(splits)}")
        if branches < 2 or clip <= 0 or advantage_clip <= 0 or inner_epochs < 1 or floor <= 0:
            raise ComponentError(
                "expected branches >= 2, clip > 0, advantage_clip > 0, inner_epochs >= 1 and floor "
                f"> 0, got {branches}, {clip}, {advantage_clip}, {inner_epochs} and {floor}"
            )
        self.splits, self.branches, self.pruned = splits, branches, pruned
        self.advantage_clip, self.inner_epochs, self.floor = advantage_clip, inner_epochs, floor
        self.surrogate = partial(clipped_ratio_loss, clip=clip)

    @property
    def leaves(self) -> int:
        """Samples per prompt."""
        return int(self.branches ** len(self.splits))

    def check_steps(self, steps: int) -> None:
        """Raises ComponentError for a split or a pruned step that a sampler of `steps` steps does
        not come to."""
        if self.splits[-1] >= steps:
            raise ComponentError(
                f"a split at step {self.splits[-1]} is past the sampler's {steps} steps, 0 to "
                f"{steps - 1}. Split earlier, or give the sampler more steps."
            )
        if strange := [k for k in self.pruned if not 0 <= k < steps]:
            raise ComponentError(
                f"pruned: there is no step {strange[0]}; the sampler's {steps} steps are 0 to "
                f"{steps - 1}."
            )

    def losses(self, ctx: Context, batch: Batch) -> Iterator[Loss]:
        self.check_steps(ctx.sampler.steps)
        samples = batch.repeat(self.leaves)
        # No step at all: only the conditions and the initial noise.
        whole = ctx.rollout(samples, Plan(stop=0, keep=frozenset({0})))
        edges, x0 = self.grow(ctx, whole)
        rewards = ctx.score(ctx.show(whole.with_x0(x0)), samples).rewards
        judged = [self.judge(ctx, e, rewards, len(batch)) for e in edges if self.learns(e, batch)]
        if not judged:
            raise ComponentError(
                "no edge is left to learn from: `pruned` names every step from the first split on, "
                "or the sampler draws no noise there"
            )
        for _ in range(self.inner_epochs):
            yield from learn_from_forks(ctx, judged, self.surrogate)

    def grow(self, ctx: Context, leaves: Rollout) -> tuple[list[Fork], Tensor]:
        """The edges of each step, and the finished samples. leaves: a row for each, not begun."""
        # A node is the first of its leaves: its condition, its noise and its name.
        below = self.leaves
        edges, state = [], leaves.states[0][::below]
        for k in range(ctx.sampler.steps):
            parents = leaves.select(slice(None, None, below))
            parents.states = {k: state}
            below = below // self.branches if k in self.splits else below
            edges.append(fork(ctx, parents, k, leaves.noise.select(slice(None, None, below))))
            state = edges[-1].taken
        return edges, state

    def learns(self, edges: Fork, batch: Batch) -> bool:
        # Before the first split a tree has one node, which is compared with nothing.
        alone = len(edges.noise) == len(batch)
        return edges.k not in self.pruned and not alone and edges.log_prob is not None

    def judge(self, ctx: Context, edges: Fork, rewards: Tensor, trees: int) -> JudgedFork:
        nodes = len(edges.noise)
        # (nodes,): a leaf without a reward has no part in the mean.
        value = rewards.view(nodes, -1).nanmean(1)
        advantage, kept = group_advantages(
            ctx, value, nodes // trees, std="group", epsilon=self.floor, unbiased=True
        )
        return JudgedFork(edges, advantage.clamp(-self.advantage_clip, self.advantage_clip), kept)
