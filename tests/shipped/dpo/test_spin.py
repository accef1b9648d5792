"""SPIN: the opponent is the previous iteration's policy, swapped in exactly, and the reference at
the same time."""

import math

import pytest
import torch
from rewardft_plugins.dpo.diffusion_dpo import preference_loss
from rewardft_plugins.dpo.noised import add_noise, interleave, squared_error, twice
from rewardft_plugins.dpo.spin import Spin

from rewardft.errors import ComponentError
from rewardft.policy.snapshots import swapped_in, take_snapshot
from rewardft.testing import check_algorithm
from rewardft.types import Plan
from tests.gradients import T, make_test_batch, move, relative_error, run_backward, take_gradients
from tests.shipped.dpo.cases import context


def total(ctx, algorithm, step, batch=None):
    ctx.start_step(step)
    losses = list(
        run_backward(algorithm.losses(ctx, make_test_batch() if batch is None else batch))
    )
    return float(sum(loss.value.detach() for loss in losses))


def test_the_loss_is_log_2_at_the_first_step_of_every_iteration_and_only_there():
    ctx, algorithm = context(), Spin(iteration=2, beta=3.0)
    values = []
    for step in range(5):
        values.append(total(ctx, algorithm, step))
        move(ctx)
    at_start = [abs(v - math.log(2)) < 1e-12 for v in values]
    assert at_start == [True, False, True, False, True]


def test_every_batch_of_an_optimizer_step_meets_the_same_opponent():
    ctx, algorithm = context(), Spin(iteration=1)
    total(ctx, algorithm, 0)
    opponent = {n: v.clone() for n, v in ctx.memory["spin/opponent"].items()}
    move(ctx)
    total(ctx, algorithm, 0)
    assert all(torch.equal(ctx.memory["spin/opponent"][n], opponent[n]) for n in opponent)
    total(ctx, algorithm, 1)
    assert all(torch.equal(ctx.memory["spin/opponent"][n], p) for n, p in ctx.adapter.named.items())


def test_the_loser_is_a_sample_of_the_opponent_and_the_opponent_is_the_reference():
    ctx, algorithm, batch = context(), Spin(iteration=9, beta=3.0), make_test_batch()
    total(ctx, algorithm, 0)
    old = {n: v.clone() for n, v in ctx.memory["spin/opponent"].items()}
    move(ctx)
    take_gradients(ctx)
    value = total(ctx, algorithm, 1)
    ours = take_gradients(ctx)
    with swapped_in(ctx.adapter, old):
        sample = ctx.rollout(batch, Plan(stop=T)).x0
    data = (batch["image"].clamp(0.02, 0.98).logit() / 2).double()
    at = add_noise(ctx, twice(batch), interleave(data, sample), "spin")
    with swapped_in(ctx.adapter, old):
        reference = squared_error(ctx, at)
    loss = preference_loss(ctx, at, 3.0, reference=reference).mean()
    loss.backward()
    assert value == pytest.approx(float(loss.detach()), rel=1e-12)
    assert relative_error(ours, take_gradients(ctx)) < 1e-12
    assert abs(value - math.log(2)) > 1e-6


def test_the_policy_is_untouched_by_playing():
    ctx = context()
    before = take_snapshot(ctx.adapter)
    addresses = [p.data_ptr() for p in ctx.adapter.parameters]
    total(ctx, Spin(), 0)
    assert all(torch.equal(before[n], p) for n, p in ctx.adapter.named.items())
    assert addresses == [p.data_ptr() for p in ctx.adapter.parameters]


def test_the_promises():
    """At the second step, against an opponent that the policy has left behind."""

    def make(size):
        ctx = context(micro_batch=size)
        total(ctx, algorithm, 0, make_test_batch(5))
        move(ctx)
        ctx.start_step(1)
        return ctx

    algorithm = Spin(iteration=9, beta=3.0)
    check_algorithm(algorithm, make, make_test_batch(5))


def test_bad_options_are_refused():
    with pytest.raises(ComponentError, match=r"^iteration must be at least 1 step, got 0$"):
        Spin(iteration=0)
