"""Policy gradients in one pass: the gradients are taken while rolling out.

A batch that feeds one update has ratio 1 throughout. The gradient is then sum_i slope_i * grad
sum_k log p_ik, and the slopes are known once the rewards are: it takes the gradient of each sample,
and no replay, which would only repeat the rollout's calls.
"""

from __future__ import annotations

import math
from contextlib import nullcontext

import torch
from torch import Tensor

from rewardft.noise import Noise
from rewardft.policy.context import Context
from rewardft.policy.rollout_weights import is_large
from rewardft.policy.sample_gradients import SampleGradients, flat_gradient
from rewardft.types import Batch, Plan, Rollout, micro_slices


def one_pass_applies(ctx: Context, count: int) -> bool:
    """Whether `count` samples that feed one update are best rolled out with their gradients.

    Not with regularizers, as each step would need two backward passes instead of one, and not with
    adapter dropout, which makes the replay another policy.
    """
    if ctx.regularizers or getattr(ctx.adapter, "dropouts", []):
        return False
    sizes = {len(range(count)[rows]) for rows in micro_slices(count, ctx.micro_batch)}
    # On a device that is full with the base, the replays of a large batch need less.
    if max(sizes) > 1 and (count + max(sizes)) * adapter_bytes(ctx) > base_bytes(ctx):
        return False
    # Of one sample the gradient is its own, and costs nothing more.
    return all(
        size == 1 or (ctx.memory.get(verdict(size), True) and by_rows(ctx, size) is not None)
        for size in sizes
    )


def adapter_bytes(ctx: Context) -> int:
    """Of the trained parameters in float32."""
    return sum(4 * p.numel() for p in ctx.adapter.parameters)


def base_bytes(ctx: Context) -> int:
    """Of the network that is trained."""
    network = ctx.policy.model.trainable
    return sum(p.numel() * p.element_size() for p in network.parameters())


def verdict(count: int) -> str:
    """The key in `ctx.memory` of whether `SampleGradients.belongs`, for calls of so many samples:
    a resumed run must go on in the same way."""
    return f"policy_gradient/rows_of_{count}"


def by_rows(ctx: Context, count: int) -> SampleGradients | None:
    """What takes the gradients of several samples of a large network at once; None where nothing
    does."""
    # What a checkpointed block keeps is its input alone, and this would keep that of each layer.
    if count == 1 or ctx.policy.checkpointed or not is_large(ctx.policy.model.trainable):
        return None
    found: SampleGradients | None = getattr(ctx.adapter, "sample_gradients", lambda _: None)(count)
    return found


def roll_out_with_gradients(
    ctx: Context, batch: Batch, steps: list[int], noise: Noise | None
) -> tuple[Rollout, Tensor, list[int]]:
    """Run each micro-batch step by step; those of `steps` are differentiated at once and their
    graph is dropped. Returns the finished samples, the gradients of their summed log-probabilities
    `(b, p)`, and the steps that had one.

    Memory: a float32 copy of the trained parameters for each sample of the batch, and for each of
    the micro-batch.
    """
    # No step at all: only the conditions and the initial noise.
    whole = ctx.rollout(batch, Plan(stop=0, keep=frozenset({0})), noise)
    size = sum(p.numel() for p in ctx.adapter.parameters)
    gradients = torch.zeros(len(batch), size, dtype=ctx.dtype, device=ctx.device)
    finished, trained = [], set()
    for rows in micro_slices(len(batch), ctx.micro_batch):
        part = whole.select(rows)
        of_rows = by_rows(ctx, len(part.noise))
        with nullcontext() if of_rows is None else of_rows.watched():
            for k in range(ctx.sampler.steps):
                state, found = visit(ctx, part, k, of_rows, differentiated=k in steps)
                if found is not None:
                    gradients[rows] += found
                    trained.add(k)
                # One state at a time: nothing is visited twice.
                part.states = {k + 1: state}
        finished.append(part.states[ctx.sampler.steps])
    rollout = ctx.show(whole.with_x0(torch.cat(finished)))
    return rollout, gradients, sorted(trained)


def visit(
    ctx: Context, part: Rollout, k: int, rows: SampleGradients | None, differentiated: bool
) -> tuple[Tensor, Tensor | None]:
    """The state after step k, by `replay`, as a rollout never runs with autograd; and the gradients
    of its log-probabilities `(b, p)`, None where it has no density."""
    if not differentiated:
        with torch.no_grad():
            return ctx.replay(part, k).next, None
    with torch.enable_grad():
        step = ctx.replay(part, k)
        state = step.next.detach()  # the step's graph ends with this call
        if step.log_prob is None:  # a window may hold a deterministic step
            return state, None
        if rows is None:
            return state, each_alone(ctx, step.log_prob)
        return state, at_once(ctx, rows, step.log_prob)


def each_alone(ctx: Context, log_prob: Tensor) -> Tensor:
    """A backward pass for each sample."""
    last = len(log_prob) - 1
    return torch.stack(
        [flat_gradient(x, ctx.adapter.parameters, keep=i < last) for i, x in enumerate(log_prob)]
    )


def at_once(ctx: Context, rows: SampleGradients, log_prob: Tensor) -> Tensor:
    """One backward pass for all samples, if the first of its size shows that it can be trusted."""
    key = verdict(rows.count)
    # A layer of this call alone may have other rows than those of the first.
    if key in ctx.memory and not (ctx.memory[key] and rows.fits):
        return each_alone(ctx, log_prob)
    found = rows.of(log_prob, keep=key not in ctx.memory)
    if key not in ctx.memory:
        same = rows.belongs(log_prob, found)
        said = torch.tensor([math.nan if same is None else float(same)], device=ctx.device)
        # Of all processes: one that went on alone would wait in the next exchange.
        answers = ctx.gather(said)
        if answers.isnan().any():  # of a gradient that is zero: the next one will tell
            return each_alone(ctx, log_prob)
        ctx.memory[key] = bool(answers.all())
    return found if ctx.memory[key] else each_alone(ctx, log_prob)


def weighted(ctx: Context, gradients: Tensor, slope: Tensor, count: int) -> Tensor:
    """A number that is linear in the parameters, with the gradient sum_i slope_i * gradients_i /
    count."""
    total = (slope @ gradients.to(slope)) / count
    # sum_j theta_j g_j has the gradient g: the engine's backward then adds it like any other.
    flat = torch.cat([p.flatten() for p in ctx.adapter.parameters])
    return (flat * total.to(flat)).sum()
