"""The gradient of a reward through a surrogate chain, made of a few steps of the real one.

With x_i and v_i the states and velocities of the rollout, a surrogate of the sample is

    x0^ = x_c + sum over i of a_i v_theta(x_i),        x_c = sg x_j + (x_j^ - sg x_j^)

and x_j^ a sum of the same kind over steps before the junction j; without a junction x_c is the
initial noise. The reward sees the true x0 (x0^ has its value swapped for it), the gradient takes
the surrogate. Inputs of the network are constants, except for the share alpha of x_c at step j. So
with g = dL/dx0, everything is one vector-Jacobian product per step that learns, last to first:

    steps from j on:   cotangent a_i s_i g            (s_i scales the gradient of single steps)
    step j also gives  u = J^T (a_j s_j g),  and then  g_j = g + alpha u
    steps before j:    cotangent a_i s_i g_j

which needs one graph at a time and the states of these steps alone, however long the chain is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from rewardft import Context
from rewardft.algorithms.direct import Direct
from rewardft.errors import ComponentError
from rewardft.samplers.flow import FlowEuler
from rewardft.types import Batch, Loss, Plan, Rollout, micro_slices


@dataclass(frozen=True)
class Leap:
    """A stretch of the chain in one step: x_end^ = x_start + sum over nodes of weight * v(x_node).

    nodes: weights by step; the first one is the start.
    end: the step that it arrives at.
    """

    nodes: Mapping[int, float]
    end: int

    @property
    def start(self) -> int:
        return min(self.nodes)


@dataclass(frozen=True)
class Chain:
    """What learns, and how.

    after, before: a_i s_i by step, from the junction on and before it.
    junction: j; None: all steps are in `after` and alpha plays no part.
    leaps: those whose errors weigh the loss; none: all samples weigh 1.
    tau: smaller errors count as tau.
    """

    after: Mapping[int, float]
    before: Mapping[int, float] = field(default_factory=dict)
    junction: int | None = None
    alpha: float = 0.0
    leaps: tuple[Leap, ...] = ()
    tau: float = 0.0

    @property
    def steps(self) -> list[int]:
        """The steps that learn, last to first."""
        return sorted({*self.before, *self.after}, reverse=True)

    @property
    def kept(self) -> frozenset[int]:
        """Steps whose state, and output, the rollout has to keep."""
        ends = {leap.end for leap in self.leaps}
        return frozenset({*self.steps, *(k for leap in self.leaps for k in leap.nodes), *ends})


def losses(ctx: Context, batch: Batch, chain: Chain, reward_loss: Direct) -> Iterator[Loss]:
    """The losses of one optimizer step. reward_loss: the loss as a function of the reward."""
    stop = ctx.sampler.steps
    # The end of the chain is no step: its state is the sample itself.
    rollout = ctx.rollout(batch, Plan(stop=stop, keep=chain.kept - {stop}))
    parts = list(micro_slices(len(batch), ctx.micro_batch))
    for rows in parts:
        part = rollout.select(rows)
        cotangent, applies = reward_loss.reward_cotangent(ctx, part, batch.select(rows))
        weight = error_weight(ctx, part, chain).view(-1, *[1] * (cotangent.ndim - 1))
        cotangent = cotangent * weight / len(batch)
        # Last to first, because the steps before j wait for the cotangent that j passes on.
        for k in chain.steps:
            step = ctx.replay(part, k, input_gradient=k == chain.junction)
            share = chain.after[k] if k in chain.after else chain.before[k]
            penalty = torch.where(applies, ctx.penalty(step, part, k), 0.0).sum() / len(batch)
            assert step.output is not None
            # The velocity is the network's output; its gradient is the vector-Jacobian product
            # wanted.
            value = (step.output * (share * cotangent)).sum() + penalty
            yield Loss(value, step=rows == parts[-1] and k == chain.steps[-1])
            if k == chain.junction:
                # Read after the engine's backward, which runs when the next loss is asked for: g_j.
                cotangent = cotangent + chain.alpha * step.state.grad


@torch.no_grad()
def error_weight(ctx: Context, rollout: Rollout, chain: Chain) -> Tensor:
    """1 / sum over leaps of max(d, tau), d = mean |x_end^ - x_end|, `(b,)`; ones without leaps."""
    if not chain.leaps:
        return torch.ones(len(rollout.noise), dtype=ctx.dtype, device=ctx.device)
    total = torch.zeros(len(rollout.noise), dtype=ctx.dtype, device=ctx.device)
    for leap in chain.leaps:
        # (b, ...): the leap as it would be with the rollout's own velocities.
        arrived = rollout.states[leap.start]
        for k, weight in leap.nodes.items():
            arrived = arrived + weight * rollout.outputs[k]
        truth = rollout.x0 if leap.end == ctx.sampler.steps else rollout.states[leap.end]
        error = (arrived - truth).abs().flatten(1).mean(1)
        ctx.record(f"leap_error/{'end' if leap.end == ctx.sampler.steps else 'junction'}", error)
        total = total + error.clamp(min=chain.tau)
    return 1 / total


def levels_of(sampler: object, algorithm: str) -> list[float]:
    """The noise levels of the chain, T + 1 numbers from high to 0.

    Raises ComponentError for a sampler that does not add velocities up.
    """
    if not isinstance(sampler, FlowEuler):
        raise ComponentError(
            f"{algorithm} adds up the Euler steps of a flow, and {type(sampler).__name__} takes "
            "others. Use the sampler `flow_euler`."
        )
    return [float(level) for level in sampler.sigmas]
