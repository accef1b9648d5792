"""GRPO-Guard, Flow-DPPO and Flow-GRPO-Fast: losses and gradients against the released formulas on the same tensors."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from rewardft_plugins.grpo.cps import CPS
from rewardft_plugins.grpo.flow_dppo import FlowDPPO
from rewardft_plugins.grpo.flow_grpo_fast import FlowGRPOFast
from rewardft_plugins.grpo.flow_sde import FlowSDE
from rewardft_plugins.grpo.grpo_guard import GRPOGuard
from rewardft_plugins.grpo.step_ratio import DivergenceMask, Guard, PlainDistance

from rewardft.errors import ComponentError
from rewardft.noise import Noise
from rewardft.testing.tiny import TinyModel
from tests.gradients import (
    T,
    make_context,
    make_test_batch,
    relative_error,
    run_backward,
    take_gradients,
)

NOISE = Noise(3, ["a", "b", "c", "d"], [0] * 4, dtype=torch.float64)
ADVANTAGE = torch.tensor([1.5, -0.7, 2.0, -2.0], dtype=torch.float64)


def two_policies(sampler, k, distance):
    """A step as the old policy took it, and as a policy with other outputs would; the latter has a gradient."""
    sampler.setup(TinyModel(prediction="flow"))
    x, output, move = (NOISE.draw(name, (3, 4, 4)) for name in ("x", "v", "move"))
    old = sampler.transition(k, x, output, NOISE)
    velocity = (output + distance * move).requires_grad_()
    new = sampler.transition(k, x, velocity, NOISE, taken=old.next)
    return velocity, new, old


def released_step(x, v, sigma, sigma_next, sigma_max, taken, level):
    """flow_grpo's step with log-probability, from the released formulas."""
    dt = sigma_next - sigma
    std = level * (sigma / (1 - (sigma_max if sigma == 1 else sigma))) ** 0.5
    mean = x * (1 + std**2 / (2 * sigma) * dt) + v * (1 + std**2 * (1 - sigma) / (2 * sigma)) * dt
    s = std * (-dt) ** 0.5
    log_prob = -((taken - mean) ** 2) / (2 * s**2)
    return mean, s, log_prob.flatten(1).mean(1)


@pytest.mark.parametrize("k", [0, 3])
@pytest.mark.parametrize("distance", [1e-4, 0.02])
def test_guard_is_the_released_loss_for_each_sample(k, distance):
    sampler = FlowSDE(6)
    velocity, new, old = two_policies(sampler, k, distance)
    ours = Guard(2e-3).of_step(sampler, k, new, old, ADVANTAGE)
    (gradient,) = torch.autograd.grad(ours.sum(), velocity)
    levels = [sampler.sigmas[i] for i in (k, k + 1, 1)]
    v = velocity.detach().requires_grad_()
    mean, s, log_prob = released_step(old.state, v, *levels, old.next, 0.7)
    before, _, old_log_prob = released_step(old.state, old.output, *levels, old.next, 0.7)
    bias = ((mean - before) ** 2).flatten(1).mean(1) / (2 * s**2)
    ratio = torch.exp((log_prob - old_log_prob + bias) * s)
    unclipped, bounded = -ADVANTAGE * ratio, -ADVANTAGE * ratio.clamp(1 - 2e-3, 1 + 2e-3)
    expected = torch.maximum(unclipped, bounded) / (levels[0] - levels[1])
    (theirs,) = torch.autograd.grad(expected.sum(), v)
    assert torch.allclose(ours, expected, rtol=1e-9, atol=0)
    assert torch.allclose(gradient, theirs, rtol=1e-8, atol=1e-15)
    noise = NOISE.draw(f"step{k}", (3, 4, 4))
    centred = torch.exp(((mean - before) * noise).flatten(1).mean(1))
    assert torch.allclose(ratio, centred, rtol=1e-9)
    plain = Guard(2e-3, weigh=False).of_step(sampler, k, new, old, ADVANTAGE)
    assert torch.allclose(plain, expected * (levels[0] - levels[1]), rtol=1e-9)


@pytest.mark.parametrize("threshold", [1e-9, 1.0])
def test_flow_dppo_drops_by_divergence(threshold):
    sampler, k = FlowSDE(6), 2
    advantage = ADVANTAGE * torch.tensor([1, -1, 1, -1])  # two samples come back to the old policy
    velocity, new, old = two_policies(sampler, k, 0.02)
    ours = DivergenceMask(threshold).of_step(sampler, k, new, old, advantage)
    (gradient,) = torch.autograd.grad(ours.sum(), velocity)
    levels = [sampler.sigmas[i] for i in (k, k + 1, 1)]
    v = velocity.detach().requires_grad_()
    mean, s, log_prob = released_step(old.state, v, *levels, old.next, 0.7)
    before, _, old_log_prob = released_step(old.state, old.output, *levels, old.next, 0.7)
    kl = ((mean - before) ** 2 / (2 * s**2)).flatten(1).mean(1)
    ratio = torch.exp(log_prob - old_log_prob)
    moves_on = ((ratio > 1) & (advantage > 0)) | ((ratio < 1) & (advantage < 0))
    dropped = (kl >= threshold) & moves_on
    expected = torch.where(dropped, torch.zeros_like(ratio), -advantage * ratio)
    (theirs,) = torch.autograd.grad(expected.sum(), v)
    assert torch.allclose(ours, expected, rtol=1e-9, atol=0)
    assert torch.allclose(gradient, theirs, rtol=1e-8, atol=1e-15)
    assert bool(dropped.any()) == (threshold < 1.0) and bool((~dropped).any())


def test_a_dropped_step_whose_ratio_overflows_has_no_gradient():
    sampler, k = FlowSDE(6), 2
    _, new, old = two_policies(sampler, k, 0.02)
    assert new.log_prob is not None and old.log_prob is not None
    far = (old.log_prob + 1e4).detach().requires_grad_()
    loss = DivergenceMask(1e-9).of_step(
        sampler, k, replace(new, log_prob=far), old, torch.ones_like(ADVANTAGE)
    )
    (gradient,) = torch.autograd.grad(loss.sum(), far)
    assert not loss.any() and not gradient.any()


def test_the_fast_ratio_is_that_of_plain_squared_distances():
    sampler, k = CPS(6), 1
    velocity, new, old = two_policies(sampler, k, 0.05)
    ours = PlainDistance(1e-2).of_step(sampler, k, new, old, ADVANTAGE)
    (gradient,) = torch.autograd.grad(ours.sum(), velocity)
    v = velocity.detach().requires_grad_()
    s, after = sampler.sigmas[k], sampler.sigmas[k + 1]
    std = after * torch.sin(torch.tensor(0.8 * torch.pi / 2, dtype=torch.float64))

    def log_prob(v):
        x0, x1 = old.state - s * v, old.state + (1 - s) * v
        mean = (1 - after) * x0 + (after**2 - std**2).sqrt() * x1
        return -((old.next - mean) ** 2).flatten(1).mean(1)

    ratio = torch.exp(log_prob(v) - log_prob(old.output))
    expected = torch.maximum(-ADVANTAGE * ratio, -ADVANTAGE * ratio.clamp(0.99, 1.01))
    (theirs,) = torch.autograd.grad(expected.sum(), v)
    assert torch.allclose(ours, expected, rtol=1e-6)
    assert torch.allclose(gradient, theirs, rtol=1e-6, atol=1e-12)


ALGORITHMS = {
    "grpo_guard": (GRPOGuard(3), FlowSDE(T), range(T - 1)),
    "flow_dppo": (FlowDPPO(3), FlowSDE(T), range(T - 1)),
    "flow_grpo_fast": (FlowGRPOFast(2, 4, 3), CPS(T), None),
}


@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize("micro_batch", [None, 1])
def test_calls_and_micro_batches(name, micro_batch):
    """One rollout, then one forward and backward for each step that learns, however the batch is cut."""
    algorithm, sampler, steps = ALGORITHMS[name]
    found = []
    for size in (None, micro_batch):
        ctx, batch = make_context(sampler, prediction="flow", micro_batch=size), make_test_batch(2)
        list(run_backward(algorithm.losses(ctx, batch)))
        found.append(take_gradients(ctx))
        count = len(steps) if steps else 2
        rows = 6 if size else 1
        updates = 1 if name == "flow_grpo_fast" else 2
        assert ctx.policy.forwards == T + count * max(rows, updates)
        assert ctx.policy.backwards == count * max(rows, updates)
    assert relative_error(found[1], found[0]) < 1e-9


def test_the_fast_window_lies_within_its_reach():
    import random

    ctx = SimpleNamespace(sampler=SimpleNamespace(steps=10), memory={}, rng=random.Random(0))
    drawn = {tuple(FlowGRPOFast().draw_window(ctx)) for _ in range(100)}
    assert drawn == {(0, 1, 2), (1, 2, 3), (2, 3, 4)}


def test_options_are_checked():
    with pytest.raises(ComponentError, match=r"^expected window <= reach, got 4 and 3$"):
        FlowGRPOFast(window=4, reach=3)
    with pytest.raises(ComponentError, match=r"^expected threshold > 0, got 0.0$"):
        FlowDPPO(threshold=0.0)
    with pytest.raises(ComponentError) as error:
        Guard(1e-3).of_step(SimpleNamespace(), 0, *two_policies(FlowSDE(4), 0, 0.1)[1:], ADVANTAGE)
    assert str(error.value) == (
        "grpo_guard divides by the width of a step in noise levels, and this sampler has none. "
        "Use `flow_sde`, or set `weigh` to false."
    )
