"""Roll out and replay for samplers whose step is arithmetic around one network call."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rewardft.types import Plan, Rollout, Transition

if TYPE_CHECKING:
    from rewardft.noise import Noise


def roll_out(sampler: Any, model: Any, cond: Any, plan: Plan, noise: Noise) -> Rollout:
    """Execute steps 0 .. plan.stop-1 without autograd, keeping what the plan asks for."""
    rollout = Rollout(cond=cond, noise=noise, plan=plan, decoder=model.decode)
    with torch.no_grad():
        # Keyed by the sample and not by its place in the batch, so that a batch may be cut
        # anywhere.
        state = noise.draw("initial", model.sample_shape(cond))
        # As if a step had led to the initial state: the loop needs no special first case.
        last = Transition(state=state, next=state)
        for k in range(plan.stop):
            # Guidance is applied inside: the stored output is what the arithmetic used.
            output = call_network(sampler, model, k, last.next, cond)
            last = sampler.transition(k, last.next, output, noise)
            if k in plan.keep:
                keep_step(rollout, k, last)
    if plan.stop in plan.keep:
        # The chain stops before a step that the algorithm will run itself, with its graph.
        rollout.states[plan.stop] = last.next
    else:
        rollout.x0 = last.x0 if plan.estimate else last.next
    return rollout


def keep_step(rollout: Rollout, k: int, step: Transition) -> None:
    """Store what replaying step k needs."""
    rollout.states[k] = step.state
    if step.output is not None:
        rollout.outputs[k] = step.output
    if step.log_prob is not None:
        rollout.log_probs[k] = step.log_prob


def replay_step(
    sampler: Any, model: Any, rollout: Rollout, k: int, input_gradient: bool
) -> Transition:
    """Visit step k again.

    The log-probability is that of the stored next state where it was kept.
    """
    state = rollout.states[k].detach()
    # A leaf: the gradient at the step's input is read off it after backward.
    if input_gradient and torch.is_grad_enabled():
        state = state.requires_grad_(True)
    # The same arithmetic as in the rollout, so that on-policy ratios are exactly 1.
    output = call_network(sampler, model, k, state, rollout.cond)
    return sampler.transition(k, state, output, rollout.noise, taken=state_after(rollout, k))


def taken_step(sampler: Any, rollout: Rollout, k: int) -> Transition:
    """Step k as the rollout took it, without a call: the step's arithmetic on the output that was
    kept, to the state that was kept."""
    state, output = rollout.states[k], rollout.outputs[k]
    taken = state_after(rollout, k)
    step: Transition = sampler.transition(k, state, output, rollout.noise, taken=taken)
    return step


def state_after(rollout: Rollout, k: int) -> Any:
    """The stored state that step k led to;
    None when it was not kept (or step k is about to be run live)."""
    # After an early stop x0 is an estimate, not the state that the last step led to.
    if k + 1 in rollout.states or k + 1 != rollout.plan.stop or rollout.plan.estimate:
        return rollout.states.get(k + 1)
    return rollout.x0


def call_network(sampler: Any, model: Any, k: int, state: Tensor, cond: Any) -> Tensor:
    """The network's raw output in the precision of the state (sampler arithmetic is never below
    float32)."""
    t = torch.full(state.shape[:1], sampler.timesteps[k], device=state.device)
    return model.denoise(state, t, cond).to(state.dtype)


def gaussian_step(
    k: int,
    state: Tensor,
    output: Tensor,
    mean: Tensor,
    std: float,
    x0: Tensor,
    epsilon: Tensor,
    noise: Noise,
    taken: Tensor | None,
) -> Transition:
    """x_{k+1} ~ N(mean, std^2 I).
    std = 0 makes the step deterministic and leaves it without a log-probability."""
    if std == 0.0:
        # A density of width 0 would make every ratio 0 / 0.
        zero = state.new_zeros(())
        return Transition(state, mean, output, mean, zero, x0, epsilon)
    # Keyed by the step: a replay draws the same noise again without its being stored.
    after = mean + std * noise.draw(f"step{k}", state.shape[1:])
    scale = torch.as_tensor(std, dtype=state.dtype, device=state.device)
    # The density is that of the state that was taken, held fixed: its gradient is by the mean
    # alone.
    log_prob = gaussian_log_prob(after.detach() if taken is None else taken, mean, std)
    return Transition(state, after, output, mean, scale, x0, epsilon, log_prob)


def gaussian_log_prob(value: Tensor, mean: Tensor, std: float) -> Tensor:
    """log N(value; mean, std^2 I),
    averaged over the dimensions of a sample: `(b,)` (Black et al. 2023, 2305.13301)."""
    log_density = (
        -((value - mean) ** 2) / (2 * std**2) - math.log(std) - 0.5 * math.log(2 * math.pi)
    )
    # A mean and no sum: ratios of high-dimensional samples would be 0 or infinite.
    return log_density.flatten(1).mean(1)
