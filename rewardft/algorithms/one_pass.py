"""Policy gradients in one pass: the gradients are taken while rolling out.

A batch that feeds one update has ratio 1 throughout. The gradient is then sum_i slope_i * grad
sum_k log p_ik, and the slopes are known once the rewards are: it takes the gradient of each sample,
and no replay, which would only repeat the rollout's calls.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rewardft.noise import Noise
from rewardft.policy.context import Context
from rewardft.policy.rollout_weights import is_large
from rewardft.policy.sample_gradients import SampleGradients, flat_gradient
from rewardft.types import Batch, Plan, Rollout, Transition, micro_slices


def one_pass_applies(ctx: Context, count: int) -> bool:
    """Whether `count` samples that feed one update are best rolled out with their gradients.

    Not with regularizers, as each step would need two backward passes instead of one, and not with
    adapter dropout, which makes the replay another policy.
    """
    if ctx.regularizers or getattr(ctx.adapter, "dropouts", []):
        return False
    sizes = {len(range(count)[rows]) for rows in micro_slices(count, ctx.micro_batch)}
    # Of one sample the gradient is its own, and costs nothing more.
    return all(
        size == 1 or (ctx.memory.get(verdict(size), True) and by_rows(ctx, size) is not None)
        for size in sizes
    )


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

    Memory: a float32 copy of the trained parameters for each sample of the batch.
    """
    # No step at all: only the conditions and the initial noise.
    whole = ctx.rollout(batch, Plan(stop=0, keep=frozenset({0})), noise)
    size = sum(p.numel() for p in ctx.adapter.parameters)
    gradients = torch.zeros(len(batch), size, dtype=ctx.dtype, device=ctx.device)
    finished, trained = [], set()
    for rows in micro_slices(len(batch), ctx.micro_batch):
        part = whole.select(rows)
        for k in range(ctx.sampler.steps):
            step, found = visit(ctx, part, k, differentiated=k in steps)
            if found is not None:
                gradients[rows] += found
                trained.add(k)
            # One state at a time: nothing is visited twice.
            part.states = {k + 1: step.next.detach()}
        finished.append(part.states[ctx.sampler.steps])
    rollout = ctx.show(whole.with_x0(torch.cat(finished)))
    return rollout, gradients, sorted(trained)


def visit(
    ctx: Context, part: Rollout, k: int, differentiated: bool
) -> tuple[Transition, Tensor | None]:
    """Step k, by `replay`, as a rollout never runs with autograd; and the gradients of its
    log-probabilities `(b, p)`, None where it has no density."""
    if not differentiated:
        with torch.no_grad():
            return ctx.replay(part, k), None
    rows = by_rows(ctx, len(part.noise))
    with torch.enable_grad():
        if rows is None:
            step = ctx.replay(part, k)
            return step, None if step.log_prob is None else each_alone(ctx, step.log_prob)
        with rows.watched():
            step = ctx.replay(part, k)
            # A window may hold a deterministic step.
            return step, None if step.log_prob is None else at_once(ctx, rows, step.log_prob)


def each_alone(ctx: Context, log_prob: Tensor) -> Tensor:
    """A backward pass for each sample."""
    keep = len(log_prob) > 1
    return torch.stack([flat_gradient(one, ctx.adapter.parameters, keep) for one in log_prob])


def at_once(ctx: Context, rows: SampleGradients, log_prob: Tensor) -> Tensor:
    """One backward pass for all samples, if the first of its size shows that it can be trusted."""
    key = verdict(rows.count)
    found = rows.of(log_prob, keep=not ctx.memory.get(key))
    if key not in ctx.memory:
        same = torch.tensor([float(rows.belongs(log_prob, found))], device=ctx.device)
        # Of all processes: one that went on alone would wait in the next exchange.
        ctx.memory[key] = bool(ctx.gather(same).all())
    return found if ctx.memory[key] else each_alone(ctx, log_prob)


def weighted(ctx: Context, gradients: Tensor, slope: Tensor, count: int) -> Tensor:
    """A number that is linear in the parameters, with the gradient sum_i slope_i * gradients_i /
    count."""
    total = (slope @ gradients.to(slope)) / count
    # sum_j theta_j g_j has the gradient g: the engine's backward then adds it like any other.
    flat = torch.cat([p.flatten() for p in ctx.adapter.parameters])
    return (flat * total.to(flat)).sum()
