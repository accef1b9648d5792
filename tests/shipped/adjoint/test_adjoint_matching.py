"""Adjoint matching: adjoint states and gradient against autograd, and the optimum of a problem with a known solution."""

import copy
import itertools
import math
import random
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from rewardft_plugins.adjoint.adjoint_matching import AdjointMatching, lean_adjoint, matching_loss

from rewardft.errors import ComponentError
from rewardft.samplers.ddim import DDIM
from rewardft.samplers.ddpm import DDPM
from rewardft.testing import check_algorithm
from rewardft.testing.conformance import curved_reward
from rewardft.types import Plan, Transition
from tests.gradients import (
    T,
    at_initialisation,
    make_context,
    make_test_batch,
    relative_error,
    run_backward,
    take_gradients,
)

KEEP = Plan(stop=T, keep=frozenset(range(T)))


def context(sampler=None, **options):
    return make_context(sampler or DDIM(T, eta=1.0), **options)


def terminal(ctx, rollout, batch, scale):
    """-lambda grad of the weighted reward, by autograd."""
    x0 = rollout.x0.detach().requires_grad_(True)
    (slope,) = torch.autograd.grad(1.3 * curved_reward(rollout.with_x0(x0), batch).sum(), x0)
    return -scale * slope


# -- adjoint states --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize(
    "sampler", [lambda: DDIM(T, eta=1.0), lambda: DDPM(T)], ids=["ddim", "ddpm"]
)
def test_on_the_base_itself_the_adjoint_is_the_gradient_through_the_unrolled_chain(kind, sampler):
    ctx, batch = at_initialisation(context(sampler(), prediction=kind)), make_test_batch()
    rollout = ctx.rollout(batch, KEEP)
    found = lean_adjoint(ctx, rollout, terminal(ctx, rollout, batch, 7.0), [0, 2, 4])
    assert found.keys() == {0, 2, 4}
    for k, (mean, adjoint) in found.items():
        x = start = rollout.states[k + 1].clone().requires_grad_(True)
        for j in range(k + 1, T):
            output = ctx.policy.denoise(x, torch.full((3,), ctx.sampler.timesteps[j]), rollout.cond)
            x = ctx.sampler.transition(j, x, output, rollout.noise).next
        assert torch.allclose(x, rollout.x0, atol=1e-12)
        loss = -7.0 * 1.3 * curved_reward(rollout.with_x0(x), batch).sum()
        (expected,) = torch.autograd.grad(loss, start)
        assert relative_error([adjoint], [expected]) < 1e-9
        assert torch.allclose(mean, ctx.reference(rollout, k).mean)


def test_off_the_base_the_adjoint_goes_back_through_the_bases_jacobians_at_the_policys_states():
    """The lean adjoint: no derivative of the policy enters. Jacobians by torch.autograd.functional, sample by sample."""
    ctx, batch = context(), make_test_batch(2)
    rollout = ctx.rollout(batch, KEEP)
    a = terminal(ctx, rollout, batch, 7.0)
    found = lean_adjoint(ctx, rollout, a, list(range(T - 1)))
    base = copy.deepcopy(ctx.policy.model)
    with torch.no_grad():
        for name, parameter in base.trainable.named_parameters():
            parameter.mul_(0.0 if ".lora_B." in name else 1.0)
    for k in reversed(range(T)):
        if k in found:
            assert relative_error([found[k][1]], [a]) < 1e-9
        before = []
        for i in range(2):
            one = slice(i, i + 1)

            def mean(x, k=k, one=one):
                output = base.denoise(
                    x, torch.full((1,), ctx.sampler.timesteps[k]), {"label": batch["label"][one]}
                )
                return ctx.sampler.transition(k, x, output, rollout.noise.select(one)).mean

            jacobian = torch.autograd.functional.jacobian(mean, rollout.states[k][one]).reshape(
                192, 192
            )
            before.append(jacobian.T @ a[i].flatten())
        a = torch.stack(before).view_as(a)


def test_the_adapter_is_on_again_and_no_gradient_of_a_weight_is_left():
    ctx, batch = context(), make_test_batch()
    rollout = ctx.rollout(batch, KEEP)
    lean_adjoint(ctx, rollout, terminal(ctx, rollout, batch, 1.0), [1, 3])
    assert not any(layer.disable_adapters for layer in ctx.adapter.layers)
    assert all(p.grad is None for p in ctx.policy.model.trainable.parameters())


# -- the loss --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_the_gradient_is_that_of_the_formula(kind):
    ctx, batch = context(prediction=kind), make_test_batch()
    list(
        run_backward(AdjointMatching(7.0, train_steps=None, mask_quantile=None).losses(ctx, batch))
    )
    ours = take_gradients(ctx)
    rollout = ctx.rollout(batch, KEEP)
    adjoints = lean_adjoint(ctx, rollout, terminal(ctx, rollout, batch, 7.0), list(range(T - 1)))
    alphas, loss = ctx.sampler.schedule.alphas, 0.0
    for k in range(T - 1):
        a, b = alphas[k], alphas[k + 1]
        sigma = math.sqrt((1 - b) / (1 - a) * (1 - a / b))
        output = ctx.policy.denoise(
            rollout.states[k], torch.full((3,), ctx.sampler.timesteps[k]), rollout.cond
        )
        mean = ctx.sampler.transition(k, rollout.states[k], output, rollout.noise).mean
        with torch.no_grad(), ctx.adapter.disabled():
            output = ctx.policy.denoise(
                rollout.states[k], torch.full((3,), ctx.sampler.timesteps[k]), rollout.cond
            )
            base = ctx.sampler.transition(k, rollout.states[k], output, rollout.noise).mean
        loss = (
            loss
            + ((mean - base) / sigma + sigma * adjoints[k][1]).square().flatten(1).mean(1).mean()
        )
    loss.backward()
    assert relative_error(ours, take_gradients(ctx)) < 1e-9


def test_at_initialisation_the_policy_has_no_control_and_the_gradient_raises_the_reward():
    """The loss's slope along the adapter is the reward's, through the mean of each step: same sign as a direct gradient."""
    ctx, batch = at_initialisation(context()), make_test_batch()
    list(
        run_backward(AdjointMatching(7.0, train_steps=None, mask_quantile=None).losses(ctx, batch))
    )
    assert float(ctx.take_records()["control"][0]) == 0.0
    gradients = take_gradients(ctx)

    def reward():
        return float(1.3 * curved_reward(ctx.rollout(batch, KEEP), batch).mean())

    before, size = reward(), math.sqrt(sum(float(g.square().sum()) for g in gradients))
    with torch.no_grad():
        for parameter, gradient in zip(ctx.adapter.parameters, gradients):
            parameter.sub_(1e-3 * gradient / size)
    assert reward() > before + 1e-9


def test_guidance_is_for_sampling_alone():
    """Same trajectories, guidance on: the adjoint and the loss are those of the model without it."""
    ctx, batch = context(guidance=4.0), make_test_batch()
    algorithm = AdjointMatching(7.0, train_steps=None, mask_quantile=None)
    list(run_backward(algorithm.losses(ctx, batch)))
    ours, guided = take_gradients(ctx), ctx.rollout(batch, KEEP)
    assert ctx.policy.guidance == 4.0
    bare = context()
    bare.rollout = lambda batch, plan: guided
    list(run_backward(algorithm.losses(bare, batch)))
    assert relative_error(ours, take_gradients(bare)) < 1e-12
    assert not torch.allclose(guided.x0, context().rollout(batch, KEEP).x0, atol=1e-2)


# -- a problem with a known solution -----------------------------------------------------------------------------------

SLOPES, NOISE, WANTED, PULL = (
    (0.9, 0.7, 1.1),
    (0.8, 0.5, 0.3),
    1.5,
    2.0,
)  # x' = slope * x + u + noise; reward -(x - 1.5)^2


class Linear:
    """A chain of three linear steps in one dimension whose policy adds u_k(x) = gain_k * x + shift_k to the base's mean."""

    steps = 3

    def __init__(self, gain, shift):
        self.control = torch.tensor([gain, shift], dtype=torch.float64, requires_grad=True)
        self.off = False

    @contextmanager
    def disabled(self):
        self.off = True
        yield
        self.off = False

    def replay(self, policy, rollout, k, input_gradient):
        state = rollout.states[k].detach().requires_grad_(input_gradient)
        u = 0.0 if self.off else self.control[0, k] * state + self.control[1, k]
        return Transition(
            state, mean=SLOPES[k] * state + u, std=torch.tensor(NOISE[k], dtype=torch.float64)
        )


def optimal_control():
    """Gains and shifts by dynamic programming: V_k(x) = q/2 x^2 + slant x + const, V_T = PULL/2 (x - WANTED)^2."""
    q, slant, gains, shifts = PULL, -PULL * WANTED, [], []
    for slope, sigma in zip(SLOPES[::-1], NOISE[::-1]):
        # u minimises u^2 / (2 sigma^2) + q/2 (slope x + u)^2 + slant (slope x + u)
        factor = 1 / (1 / sigma**2 + q)
        gains.append(-factor * q * slope)
        shifts.append(-factor * slant)
        q, slant = slope**2 * q * (1 - factor * q), slope * slant * (1 - factor * q)
    return gains[::-1], shifts[::-1]


def expected_gradient(gain, shift, adjoint_before=False):
    """The exact expectation of the loss's gradient over initial state and noise, by Gauss-Hermite quadrature."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(6)
    grid = torch.tensor(list(itertools.product(nodes, repeat=4)), dtype=torch.float64)
    weight = torch.tensor(
        [math.prod(w) for w in itertools.product(weights / weights.sum(), repeat=4)],
        dtype=torch.float64,
    )
    sampler = Linear(gain, shift)
    states = {0: grid[:, :1]}
    with torch.no_grad():
        for k in range(3):
            mean = (SLOPES[k] + sampler.control[0, k]) * states[k] + sampler.control[1, k]
            states[k + 1] = mean + NOISE[k] * grid[:, k + 1 : k + 2]
    rollout = SimpleNamespace(states=states)

    def reference(rollout, k):
        with torch.no_grad(), sampler.disabled():
            return sampler.replay(None, rollout, k, False)

    ctx = SimpleNamespace(
        sampler=sampler,
        adapter=sampler,
        policy=SimpleNamespace(unguided=nullcontext),
        reference=reference,
        record=lambda *a: None,
        replay=lambda rollout, k: sampler.replay(None, rollout, k, False),
    )
    targets = lean_adjoint(ctx, rollout, PULL * (states[3] - WANTED), [0, 1, 2])
    loss = 0.0
    for k in range(3):
        mean, adjoint = targets[k]
        loss = (
            loss
            + (
                weight
                * matching_loss(
                    ctx, rollout, k, mean, adjoint * (SLOPES[k] if adjoint_before else 1)
                )
            ).sum()
        )
    (gradient,) = torch.autograd.grad(loss, sampler.control)
    return gradient


def test_the_gradient_vanishes_at_the_optimal_control_and_nowhere_near_it():
    gain, shift = optimal_control()
    assert expected_gradient(gain, shift).abs().max() < 1e-12
    assert expected_gradient([g + 0.1 for g in gain], shift).abs().min() > 1e-2


def test_the_costate_before_the_step_would_be_off_by_a_step():
    """Why the adjoint behind the step is taken: the other convention does not vanish at the optimum of a discrete chain."""
    assert expected_gradient(*optimal_control(), adjoint_before=True).abs().max() > 0.05


# -- choices, mask, cost -----------------------------------------------------------------------------------------------


def test_half_of_the_steps_come_from_the_first_60_percent():
    algorithm, early = AdjointMatching(train_steps=4), []
    for seed in range(400):
        chosen = algorithm.choose_steps(list(range(49)), 50, random.Random(seed))
        assert len(set(chosen)) == 4 and chosen == sorted(chosen) and chosen[-1] < 49
        early.append(sum(k < 30 for k in chosen))
    assert min(early) >= 2 and 2.8 < sum(early) / 400 < 3.6  # two for sure, the others as they fall


def test_more_steps_than_draw_noise_is_an_error():
    with pytest.raises(ComponentError) as error:
        list(AdjointMatching(train_steps=T).losses(context(), make_test_batch()))
    assert (
        str(error.value)
        == f"train_steps must be within 1 and the {T - 1} steps that draw noise, got {T}"
    )


def test_the_mask_leaves_out_what_lies_above_the_running_quantile():
    ctx, algorithm = context(), AdjointMatching(mask_quantile=0.5)
    assert algorithm.kept(ctx, torch.tensor([1.0, 9.0])).tolist() == [1.0, 1.0]
    algorithm.update_threshold(ctx, torch.tensor([1.0, 2.0, 3.0]))
    assert float(ctx.memory["adjoint/threshold"]) == 2.0
    assert algorithm.kept(ctx, torch.tensor([1.0, 2.0, 9.0])).tolist() == [1.0, 1.0, 0.0]
    algorithm.update_threshold(ctx, torch.tensor([12.0]))
    assert float(ctx.memory["adjoint/threshold"]) == pytest.approx(0.9 * 2 + 0.1 * 12)
    assert ctx.take_records()["masked"].tolist() == [1.0, 3.0]
    assert AdjointMatching(mask_quantile=None).kept(ctx, torch.tensor([99.0])).tolist() == [1.0]


def test_a_masked_sample_has_no_gradient():
    ctx = context()
    ctx.memory["adjoint/threshold"] = torch.tensor(-1.0)
    losses = list(run_backward(AdjointMatching().losses(ctx, make_test_batch())))
    assert all(float(loss.value.detach()) == 0.0 for loss in losses) and losses[-1].step
    assert not any(g.any() for g in take_gradients(ctx))


def test_the_promises():
    algorithm = AdjointMatching(7.0, train_steps=2)
    check_algorithm(algorithm, lambda size: context(micro_batch=size), make_test_batch(5))


def test_calls_are_those_of_the_docstring():
    """T forwards; behind the first chosen step a forward and a backward of the base each, at it a forward; K of the policy."""
    ctx, algorithm = context(), AdjointMatching(train_steps=None)
    list(run_backward(algorithm.losses(ctx, make_test_batch())))
    assert (ctx.policy.forwards, ctx.policy.backwards) == (T + T + (T - 1), (T - 1) + (T - 1))


def test_bad_options_are_refused():
    with pytest.raises(ComponentError, match=r"^reward_scale must be above 0, got 0.0$"):
        AdjointMatching(reward_scale=0.0)
    with pytest.raises(
        ComponentError, match=r"^mask_quantile must be within \(0, 1\) or null, got 1.0$"
    ):
        AdjointMatching(mask_quantile=1.0)
