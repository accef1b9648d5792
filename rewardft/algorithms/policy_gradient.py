"""What policy-gradient algorithms share: the rollout, and the loop over replayed steps.

Notation: rho = p(x_{k+1} | x_k) / p_old(x_{k+1} | x_k), A the advantage. Log-probabilities are
means over the dimensions of a sample, so ratios stay near 1 and clip ranges are small (1e-4).
Losses are means over samples and trained steps where the papers sum over steps: the learning rate
then does not depend on the number of steps.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from rewardft.algorithms.one_pass import one_pass_applies, roll_out_with_gradients, weighted
from rewardft.algorithms.surrogates import StepSurrogate, Surrogate
from rewardft.errors import ComponentError
from rewardft.noise import Noise
from rewardft.policy.context import Context
from rewardft.samplers.steps import taken_step
from rewardft.types import Batch, Loss, Plan, Rollout, micro_slices

STEPS_WITH_NOISE = "policy_gradient/steps_with_noise"  # key in `ctx.memory`


@dataclass(frozen=True)
class Schedule:
    """How often a batch is learned from.

    Args:
        updates: optimizer steps per pass over the batch, which is cut into that many parts.
        inner_epochs: passes over the batch.
        fraction: part of the steps that may learn, drawn at random for every update.
        skip_last: steps at the end of the chain that never learn, >= 0.
    """

    updates: int = 1
    inner_epochs: int = 1
    fraction: float = 1.0
    skip_last: int = 0

    def __post_init__(self) -> None:
        if self.updates < 1 or self.inner_epochs < 1:
            raise ComponentError(
                f"updates and inner_epochs must be at least 1, got {self.updates} and "
                f"{self.inner_epochs}"
            )
        if not 0 < self.fraction <= 1:
            raise ComponentError(f"timestep_fraction must be in (0, 1], got {self.fraction}")
        if self.skip_last < 0:
            raise ComponentError(f"skip_last must not be negative, got {self.skip_last}")


@dataclass
class Experience:
    """Rolled out samples.

    `gradients` `(b, p)`: of each sample's summed log-probabilities, when taken in one pass.
    """

    rollout: Rollout
    gradients: Tensor | None = None
    steps: list[int] = field(default_factory=list)


def roll_out(
    ctx: Context,
    batch: Batch,
    schedule: Schedule,
    noise: Noise | None = None,
    one_pass: bool = True,
) -> Experience:
    """All steps, every state kept; in one pass with the gradients where that saves calls (see
    `one_pass.py`).

    one_pass: False for advantages that differ between the steps of a sample. Raises ComponentError
        when no step has a density.
    """
    once = one_pass and schedule.updates == schedule.inner_epochs == 1
    if once and one_pass_applies(ctx, len(batch)) and (known := known_steps(ctx)):
        steps = draw_steps(ctx, known, schedule)
        rollout, gradients, trained = roll_out_with_gradients(ctx, batch, steps, noise)
        check_steps(ctx, trained)
        return Experience(rollout, gradients, trained)
    count = ctx.sampler.steps
    rollout = ctx.rollout(batch, Plan(stop=count, keep=frozenset(range(count))), noise)
    check_steps(ctx, rollout.log_probs)
    # Noted for the next batches: a one-pass rollout must know the steps before it runs.
    ctx.memory[STEPS_WITH_NOISE] = sorted(rollout.log_probs)
    return Experience(rollout)


def check_steps(ctx: Context, trained: Collection[int]) -> None:
    """Raises ComponentError when no trained step has a density."""
    if not trained:
        steps, window = ctx.sampler.steps, getattr(ctx.sampler, "window", None)
        which = (
            f"the sampler's {steps} steps"
            if window is None
            else f"the window's steps {sorted(window)}"
        )
        raise ComponentError(
            f"policy gradients need steps that draw noise, and none of {which} does: their "
            "densities are deterministic. Give the sampler more steps or more noise (eta or "
            "noise_level above 0)."
        )


def known_steps(ctx: Context) -> list[int]:
    """The steps that have a density: a sampler's `window` where it has one, else what its
    arithmetic or earlier rollouts show."""
    window = getattr(ctx.sampler, "window", None)
    if window:
        return sorted(window)
    if STEPS_WITH_NOISE not in ctx.memory and hasattr(ctx.sampler, "transition"):
        ctx.memory[STEPS_WITH_NOISE] = noisy_steps(ctx)
    # Empty before the first rollout of a sampler without such arithmetic.
    return ctx.memory.get(STEPS_WITH_NOISE, [])


def noisy_steps(ctx: Context) -> list[int]:
    """The steps of a differentiable sampler that have a density, without a call of the network."""
    # Elementwise arithmetic: a sample of one number shows it as well as a picture.
    state = torch.zeros(1, 1, dtype=ctx.dtype, device=ctx.device)
    noise = Noise(ctx.seed, ("",), (0,), ctx.device, ctx.dtype)
    with torch.no_grad():
        steps = [ctx.sampler.transition(k, state, state, noise) for k in range(ctx.sampler.steps)]
    return [k for k, step in enumerate(steps) if step.log_prob is not None]


def draw_steps(ctx: Context, candidates: list[int], schedule: Schedule) -> list[int]:
    """A random part of the steps that may learn, ascending; at least one."""
    candidates = [k for k in candidates if k < ctx.sampler.steps - schedule.skip_last]
    if not candidates:
        raise ComponentError(
            f"skip_last {schedule.skip_last} leaves none of the sampler's {ctx.sampler.steps} "
            "steps to learn from. Lower skip_last, or give the sampler more steps."
        )
    # At least one, or a small fraction of few steps would train nothing.
    count = max(1, int(schedule.fraction * len(candidates)))
    return candidates if count == len(candidates) else sorted(ctx.rng.sample(candidates, count))


def learn(
    ctx: Context,
    experience: Experience,
    advantage: Tensor,
    surrogate: Surrogate | StepSurrogate,
    schedule: Schedule,
    kept: Tensor | None = None,
) -> Iterator[Loss]:
    """The losses of a scored batch, see `Schedule`.

    The parts take every `updates`-th sample, so that each has members of every group.

    Args:
        advantage: `(b,)`, or `(b, T)` when it differs between the steps of a sample.
        kept: `(b,)` bool; other samples contribute nothing, neither by their advantage nor by
            penalties.
    """
    rollout, count = experience.rollout, len(advantage)
    # Multiplied, not cut out: shapes and the divisor stay the same on every process.
    weight = torch.ones(count).to(advantage) if kept is None else kept.to(advantage)
    if schedule.updates > count:
        raise ComponentError(
            f"updates: cannot cut a batch of {count} samples into {schedule.updates} parts"
        )
    if experience.gradients is not None and not isinstance(surrogate, StepSurrogate):
        yield weighted_gradients(ctx, experience, advantage * weight, surrogate)
        return
    for _ in range(schedule.inner_epochs):
        for part in range(schedule.updates):
            rows = slice(part, None, schedule.updates)
            steps = draw_steps(ctx, sorted(rollout.log_probs), schedule)
            yield from one_update(
                ctx, rollout.select(rows), advantage[rows], weight[rows], surrogate, steps
            )


def one_update(
    ctx: Context,
    rollout: Rollout,
    advantage: Tensor,
    weight: Tensor,
    surrogate: Surrogate | StepSurrogate,
    steps: list[int],
) -> Iterator[Loss]:
    """Replay the trained steps one micro-batch at a time; the last loss closes the update."""
    parts = list(micro_slices(len(advantage), ctx.micro_batch))
    for rows in parts:
        part, own = rollout.select(rows), advantage[rows]
        for k in steps:
            new, old = ctx.replay(part, k), part.log_probs[k]
            assert new.log_prob is not None
            # `(b,)` for all steps alike, or `(b, T)` with one for each step.
            step_advantage = own if own.ndim == 1 else own[:, k]
            if isinstance(surrogate, StepSurrogate):
                taken = taken_step(ctx.sampler, part, k)
                loss = surrogate.of_step(ctx.sampler, k, new, taken, step_advantage)
            else:
                loss = surrogate(new.log_prob, old, step_advantage)
            loss = weight[rows] * (loss + ctx.penalty(new, part, k))
            record(ctx, loss, new.log_prob.detach() - old)
            yield Loss(
                # Mean over samples and trained steps, see the top of the file.
                loss.sum() / (len(advantage) * len(steps)),
                step=rows == parts[-1] and k == steps[-1],
            )


def record(ctx: Context, loss: Tensor, log_ratio: Tensor) -> None:
    """Log the loss, the ratio and how far it strays from 1."""
    ctx.record("loss", loss)
    ctx.record("ratio", log_ratio.exp())
    ctx.record("log_ratio_squared", log_ratio.square())


def weighted_gradients(
    ctx: Context, experience: Experience, advantage: Tensor, surrogate: Surrogate
) -> Loss:
    """A loss that is linear in the parameters and has the gradient of the surrogate at ratio 1."""
    assert experience.gradients is not None
    log_prob = torch.zeros_like(advantage, requires_grad=True)
    with torch.enable_grad():
        value = surrogate(log_prob, torch.zeros_like(advantage), advantage)
        # d loss / d log p at ratio 1, for any surrogate.
        (slope,) = torch.autograd.grad(value.sum(), log_prob)
    record(ctx, value.detach(), torch.zeros_like(advantage))
    count = len(advantage) * len(experience.steps)
    return Loss(weighted(ctx, experience.gradients, slope, count), step=True)
