"""Forks: steps that are taken more than once from the same kept state.

Branches differ by the noise of their step alone, so the network is called once for a state, however
many branches leave it: in the rollout, and again in the replay. Rows of a parent's branches stand
in a row, as `Batch.repeat` has them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rewardft.algorithms.policy_gradient import record
from rewardft.algorithms.surrogates import Surrogate
from rewardft.errors import ComponentError
from rewardft.noise import Noise
from rewardft.policy.context import Context
from rewardft.types import Loss, Rollout, Transition, micro_slices


@dataclass(frozen=True)
class Fork:
    """Step k, taken m times from each of n states.

    parents: a rollout of n samples that holds `states[k]`.
    noise: of the n * m branches; its ids name them.
    taken: the states that they led to, `(n * m, ...)`.
    log_prob: `(n * m,)`; None for a step without a density.
    """

    k: int
    parents: Rollout
    noise: Noise
    taken: Tensor
    log_prob: Tensor | None

    @property
    def branches(self) -> int:
        """m."""
        return len(self.noise) // len(self.parents.noise)


@dataclass(frozen=True)
class JudgedFork:
    """A fork whose branches have an advantage, `(n * m,)`.

    kept: `(n * m,)` bool; other branches contribute nothing.
    """

    fork: Fork
    advantage: Tensor
    kept: Tensor


@torch.no_grad()
def fork(ctx: Context, parents: Rollout, k: int, noise: Noise) -> Fork:
    """Take step k from `parents.states[k]`, once for each row of `noise`.

    Costs one call a parent; none where the parents keep the output of step k.
    """
    output = parents.outputs[k] if k in parents.outputs else ctx.replay(parents, k).output
    assert output is not None
    step = branch(ctx, k, parents.states[k], output, noise)
    return Fork(k, parents, noise, step.next, step.log_prob)


def branch(
    ctx: Context, k: int, state: Tensor, output: Tensor, noise: Noise, taken: Tensor | None = None
) -> Transition:
    """Step k of all branches, from the states and outputs `(n, ...)` of their parents."""
    count = len(noise) // len(state)
    states, outputs = (x.repeat_interleave(count, 0) for x in (state, output))
    step: Transition = ctx.sampler.transition(k, states, outputs, noise, taken=taken)
    return step


@torch.no_grad()
def walk(
    ctx: Context, rollout: Rollout, start: int, stop: int, keep: Collection[int] = ()
) -> Rollout:
    """Go on from `rollout.states[start]`: steps start .. stop - 1, without autograd.

    keep: steps whose state and output the result holds, beside the state that enters `stop`. After
    the sampler's last step it is finished with that state as x0.
    """
    at = replace(rollout, states={start: rollout.states[start]}, outputs={}, log_probs={})
    kept = replace(at, states={}, outputs={})
    for k in range(start, stop):
        step = ctx.replay(at, k)
        if k in keep:
            assert step.output is not None
            kept.states[k], kept.outputs[k] = step.state, step.output
        # One state at a time: nothing is visited twice.
        at.states = {k + 1: step.next}
    kept.states[stop] = at.states[stop]
    return kept.with_x0(at.states[stop]) if stop == ctx.sampler.steps else kept


def learn_from_forks(
    ctx: Context, judged: Sequence[JudgedFork], surrogate: Surrogate
) -> Iterator[Loss]:
    """One optimizer step: the mean of the surrogate, and of the regularizers at the parents, over
    the branches of all forks.

    Cost: a forward and a backward a parent. `micro_batch` counts parents. Raises ComponentError for
    a fork without a density.
    """
    total = sum(len(one.advantage) for one in judged)
    parts = [
        (one, rows)
        for one in judged
        for rows in micro_slices(len(one.fork.parents.noise), ctx.micro_batch)
    ]
    for place, (one, rows) in enumerate(parts):
        loss = fork_loss(ctx, one, rows, surrogate)
        yield Loss(loss.sum() / total, step=place == len(parts) - 1)


def fork_loss(ctx: Context, judged: JudgedFork, rows: slice, surrogate: Surrogate) -> Tensor:
    """Of the branches of some parents, `(n * m,)`."""
    made = judged.fork
    if made.log_prob is None:
        raise ComponentError(
            f"step {made.k} draws no noise, so its branches have no density to learn from. Fork at "
            "another step, or give the sampler more noise (eta or noise_level above 0)."
        )
    part, count = made.parents.select(rows), made.branches
    own = slice(rows.start * count, rows.stop * count)
    visit = ctx.replay(part, made.k)
    assert visit.output is not None
    noise, taken = made.noise.select(own), made.taken[own]
    step = branch(ctx, made.k, part.states[made.k], visit.output, noise, taken)
    assert step.log_prob is not None
    old = made.log_prob[own]
    loss = surrogate(step.log_prob, old, judged.advantage[own])
    # All branches of a state share its penalty.
    penalty = ctx.penalty(visit, part, made.k).repeat_interleave(count)
    loss = judged.kept[own].to(loss) * (loss + penalty)
    record(ctx, loss, step.log_prob.detach() - old)
    return loss
