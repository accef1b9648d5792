"""DiffusionNFT: the optimum in closed form, the gradient by hand, the old policy, and how good a sample is."""

import copy
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from rewardft_plugins.nft.diffusion_nft import DiffusionNFT, Noised, complete_rewards, estimate
from rewardft_plugins.nft.weight_sets import nft_decay

from rewardft.errors import ComponentError
from rewardft.policy.snapshots import swapped_in, take_snapshot
from rewardft.policy.weighted_reward import WeightedReward
from rewardft.samplers.ddim import DDIM
from rewardft.samplers.flow import FlowEuler
from rewardft.testing import check_algorithm
from rewardft.types import Plan, Scores
from tests.gradients import (
    T,
    make_context,
    make_test_batch,
    move,
    relative_error,
    run_losses,
    take_gradients,
)

NAN = float("nan")
PREDICTIONS = ["epsilon", "v_prediction", "sample", "flow"]


def context(prediction="flow", **options):
    ctx = make_context(
        FlowEuler(T) if prediction == "flow" else DDIM(T), prediction=prediction, **options
    )
    ctx.rewards = [WeightedReward("r", plain)]
    return ctx


def plain(rollout, batch):
    with torch.no_grad():
        return rollout.x0.flatten(1).sin().mean(1)


def run(ctx, algorithm, step=0, batch=None):
    ctx.start_step(step)
    return run_losses(ctx, algorithm, make_test_batch() if batch is None else batch)


# -- the optimum -----------------------------------------------------------------------------------------------------


def minimiser(r, v, v_old, beta):
    """argmin over v_theta of mean[r (v_plus - v)^2 + (1 - r) (v_minus - v)^2], by Newton's method (it is quadratic)."""
    theta = torch.zeros((), dtype=torch.float64, requires_grad=True)
    plus, minus = (1 - beta) * v_old + beta * theta, (1 + beta) * v_old - beta * theta
    loss = (r * (plus - v) ** 2 + (1 - r) * (minus - v) ** 2).mean()
    (slope,) = torch.autograd.grad(loss, theta, create_graph=True)
    (curvature,) = torch.autograd.grad(slope, theta)
    return float((theta - slope / curvature).detach())


@pytest.mark.parametrize("beta", [0.1, 0.5, 1.0, 2.0])
def test_the_optimum_is_the_papers_when_the_old_policy_is_the_mean_of_its_samples(beta):
    generator = torch.Generator().manual_seed(1)
    v = torch.randn(1000, generator=generator, dtype=torch.float64) + 0.3
    r = torch.sigmoid(2 * v)
    old = float(v.mean())
    good = float((r * v).sum() / r.sum())  # E[v | good]
    delta = float(r.mean()) * (good - old)
    assert minimiser(r, v, old, beta) == pytest.approx(old + 2 / beta * delta, rel=1e-9)


@pytest.mark.parametrize("beta", [0.1, 1.0])
@pytest.mark.parametrize("old", [-1.0, 0.2])
def test_the_optimum_for_any_old_policy_is_that_of_the_docstring(beta, old):
    """The paper's form holds for an old policy that is the mean of its samples; the general one needs no such thing."""
    generator = torch.Generator().manual_seed(2)
    v = torch.randn(1000, generator=generator, dtype=torch.float64) + 0.3
    r = torch.sigmoid(2 * v)
    expected = old + 2 / beta * float(((r - 0.5) * (v - old)).mean())
    assert minimiser(r, v, old, beta) == pytest.approx(expected, rel=1e-9)
    papers = old + 2 / beta * float((r * (v - old)).mean())
    assert abs(papers - expected) > 0.05
    flat = torch.full_like(r, 0.5)  # a reward that says nothing moves nothing
    assert minimiser(flat, v, old, beta) == pytest.approx(old, rel=1e-9)


class OneNumber(torch.nn.Module):
    """A flow model of one dimension whose velocity is one number, whatever it is given."""

    def __init__(self, value):
        super().__init__()
        self.value = torch.nn.Parameter(torch.tensor(value, dtype=torch.float64))


class Scalar:
    """What the algorithm asks of a context, around `OneNumber`: policy, adapter and nothing else."""

    def __init__(self, value):
        from rewardft.testing.tiny import make_scheduler

        self.module, self.policy, self.adapter = OneNumber(value), self, self
        self.scheduler = make_scheduler("flow")
        self.named = {"value": self.module.value}

    def denoise(self, x, t, cond):
        return self.module.value.expand_as(x)

    def unguided(self):
        return nullcontext()

    def train_mode(self, on):
        pass

    def record(self, name, value):
        pass


@pytest.mark.parametrize("beta", [0.5, 1.0])
def test_gradient_descent_on_the_algorithms_own_loss_ends_at_the_closed_form(beta):
    """One dimension, one timestep, sigma = 1: x_t is pure noise, so the target velocity epsilon - x0 is all there is."""
    generator = torch.Generator().manual_seed(3)
    x0, epsilon = (torch.randn(4000, 1, generator=generator, dtype=torch.float64) for _ in range(2))
    r = torch.sigmoid(2 * x0[:, 0])
    v = (epsilon - x0)[:, 0]
    ctx = Scalar(float(v.mean()))
    old = {"value": ctx.module.value.detach().clone()}
    algorithm = DiffusionNFT(beta=beta, adaptive=False, reference_weight=0.0)
    one = torch.ones(len(x0), 1, dtype=torch.float64)
    at = Noised(x0, epsilon, epsilon, one[:, 0], 0 * one, one, None)
    for _ in range(2):  # a quadratic: Newton's step is exact, the second one changes nothing
        loss = algorithm.loss(ctx, at, r, old).mean()
        (slope,) = torch.autograd.grad(loss, ctx.module.value, create_graph=False)
        curvature = 2 * beta * algorithm.advantage_clip
        with torch.no_grad():
            ctx.module.value.sub_(slope / curvature)
    good = float((r * v).sum() / r.sum())
    expected = float(old["value"]) + 2 / beta * float(r.mean()) * (good - float(v.mean()))
    found = float(ctx.module.value.detach())
    assert found == pytest.approx(expected, rel=1e-9)
    assert found < float(old["value"]) - 0.1  # larger x0 is better, so the velocity falls


# -- the loss and its gradient ---------------------------------------------------------------------------------------


def x0_hat(kind, x, output, alpha, sigma):
    if kind == "epsilon":
        return (x - sigma * output) / alpha
    if kind == "v_prediction":
        return alpha * x - sigma * output
    return x - sigma * output if kind == "flow" else output


def by_hand(ctx, old, algorithm, batch, kind):
    """The formula on three separate models: the policy, the old policy and the base."""
    policy = copy.deepcopy(ctx.policy.model)
    with torch.no_grad():
        with swapped_in(ctx.adapter, old):
            before = copy.deepcopy(ctx.policy.model)
            x0 = ctx.rollout(batch.repeat(algorithm.group_size), Plan(stop=T)).x0
        base = copy.deepcopy(policy)
        for name, parameter in base.trainable.named_parameters():
            if ".lora_B." in name:
                parameter.zero_()
    samples = batch.repeat(algorithm.group_size)
    reward = x0.flatten(1).sin().mean(1).view(len(batch), -1)
    centred = reward - reward.mean(1, keepdim=True)
    advantage = (centred / (reward.std(correction=0) + 1e-4)).flatten()
    r = (
        advantage.clamp(-algorithm.advantage_clip, algorithm.advantage_clip)
        / (2 * algorithm.advantage_clip)
    ) + 0.5
    noise, loss, b = ctx.noise(samples), 0.0, algorithm.beta
    epsilon, index = (
        noise.draw("nft0/noise", (3, 8, 8)),
        (noise.uniform("nft0/timestep") * 1000).long(),
    )
    for i in range(len(samples)):
        if kind == "flow":
            t, sigma = (
                (index[i] + 1).float(),
                ((index[i] + 1).float() / 1000).double(),
            )  # held in float32
            alpha = 1 - sigma
        else:
            t, a = index[i], ctx.policy.scheduler.alphas_cumprod.double()[index[i]]
            alpha, sigma = a.sqrt(), (1 - a).sqrt()
        x = alpha * x0[i][None] + sigma * epsilon[i][None]
        cond = {"label": samples["label"][i : i + 1]}
        new, was, ref = (
            x0_hat(kind, x, m.denoise(x, t[None], cond), alpha, sigma)
            for m in (policy, before, base)
        )
        terms = []
        for mixed in ((1 - b) * was.detach() + b * new, (1 + b) * was.detach() - b * new):
            error = mixed - x0[i][None]
            if algorithm.adaptive:
                terms.append((error**2).mean() / error.detach().abs().mean())
            else:
                terms.append(((error / sigma) ** 2).mean())
        loss = loss + (r[i] * terms[0] + (1 - r[i]) * terms[1]) * algorithm.advantage_clip / b
        loss = loss + algorithm.reference_weight * (((new - ref.detach()) / sigma) ** 2).mean()
    loss = loss / len(samples)
    loss.backward()
    return float(loss.detach()), [
        p.grad for n, p in policy.trainable.named_parameters() if ".lora_" in n
    ]


@pytest.mark.parametrize("adaptive", [True, False])
@pytest.mark.parametrize("kind", PREDICTIONS)
def test_loss_and_gradient_equal_the_formula_on_three_separate_models(kind, adaptive):
    algorithm = DiffusionNFT(
        group_size=4, beta=0.7, advantage_clip=1.5, adaptive=adaptive, reference_weight=0.3
    )
    ctx, batch = context(kind), make_test_batch()
    run(ctx, algorithm, 0, batch)
    move(ctx)
    value, ours = run(ctx, algorithm, 1, batch)
    old = {name: tensor.clone() for name, tensor in ctx.memory["nft/old"].items()}
    expected, theirs = by_hand(ctx, old, algorithm, batch, kind)
    assert value == pytest.approx(expected, rel=1e-8)
    assert relative_error(ours, theirs) < 1e-8


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_the_plain_residual_is_the_error_of_the_velocity(kind):
    """(x0_hat - x0) / sigma = v - v_hat for variance-preserving models, in the sense of v = alpha epsilon - sigma x0."""
    ctx, batch = context(kind), make_test_batch()
    x0 = torch.randn(3, 3, 8, 8, dtype=torch.float64)
    epsilon = torch.randn_like(x0)
    a = ctx.policy.scheduler.alphas_cumprod.double()[500]
    alpha, sigma = a.sqrt().expand(3, 1, 1, 1), (1 - a).sqrt().expand(3, 1, 1, 1)
    at = Noised(
        x0,
        epsilon,
        alpha * x0 + sigma * epsilon,
        torch.full((3,), 500),
        alpha,
        sigma,
        ctx.encode(batch),
    )
    hat = estimate(ctx, at).detach()
    epsilon_hat = (at.x - alpha * hat) / sigma
    velocity, velocity_hat = alpha * epsilon - sigma * x0, alpha * epsilon_hat - sigma * hat
    assert torch.allclose((hat - x0) / sigma, velocity - velocity_hat, atol=1e-9)


def test_on_the_old_policy_an_average_sample_has_no_gradient():
    """r = 1/2 and v_theta = v_old: both branches pull equally, so nothing moves."""
    ctx = context()
    ctx.rewards = [WeightedReward("r", lambda rollout, batch: torch.ones(len(batch)))]
    _, gradient = run(ctx, DiffusionNFT(group_size=3, reference_weight=0.0))
    assert all(g.abs().max() < 1e-12 for g in gradient)
    assert ctx.take_records()["zero_variance"].tolist() == [3.0, 3.0]


def test_good_and_bad_samples_pull_in_opposite_directions():
    ctx, algorithm = context(), DiffusionNFT(group_size=3, reference_weight=0.0)
    run(ctx, algorithm)
    old, samples = ctx.memory["nft/old"], make_test_batch().repeat(1)
    from rewardft_plugins.nft.virtual_steps import add_noise

    at, gradients = add_noise(ctx, samples, torch.ones(3, 3, 8, 8, dtype=torch.float64), "x"), []
    for r in (1.0, 0.0):
        algorithm.loss(ctx, at, torch.full((3,), r, dtype=torch.float64), old).sum().backward()
        gradients.append(take_gradients(ctx))
    assert relative_error(gradients[0], [-g for g in gradients[1]]) < 1e-9


def test_guidance_is_for_sampling_alone():
    guided, plain = context(guidance=4.0), context()
    value, gradient = run(guided, DiffusionNFT(group_size=2))
    rollout = guided.last_rollout
    plain.rollout = lambda batch, plan: rollout
    expected, bare = run(plain, DiffusionNFT(group_size=2))
    assert value == pytest.approx(expected, rel=1e-12) and relative_error(gradient, bare) < 1e-12
    assert guided.policy.model.guidance == 4.0


# -- the old policy --------------------------------------------------------------------------------------------------


def test_samples_come_from_the_old_policy_and_the_policy_is_untouched():
    ctx, algorithm = context(), DiffusionNFT(group_size=2, schedule="fast")
    run(ctx, algorithm, 0)
    old = {n: v.clone() for n, v in ctx.memory["nft/old"].items()}
    move(ctx)
    ctx.memory["nft/old/step"] = 1
    before = take_snapshot(ctx.adapter)
    run(ctx, algorithm, 1)
    sampled = ctx.last_rollout.x0
    assert all(torch.equal(before[n], p) for n, p in ctx.adapter.named.items())
    with swapped_in(ctx.adapter, old):
        assert torch.equal(ctx.rollout(make_test_batch().repeat(2), Plan(stop=T)).x0, sampled)
    assert not torch.equal(ctx.rollout(make_test_batch().repeat(2), Plan(stop=T)).x0, sampled)


def test_the_decay_schedules_are_the_released_ones():
    assert [nft_decay("slow", s) for s in (0, 1, 100, 500, 9000)] == [0.0, 0.001, 0.1, 0.5, 0.5]
    assert [round(nft_decay("fast", s), 6) for s in (0, 75, 77, 208, 209, 9000)] == [
        0.0,
        0.0,
        0.015,
        0.9975,
        0.999,
        0.999,
    ]


def test_the_old_policy_follows_once_per_optimizer_step():
    ctx, algorithm = context(), DiffusionNFT(group_size=2)
    for step in (0, 300, 300, 300):
        before = {n: v.clone() for n, v in ctx.memory.get("nft/old", {}).items()}
        stepped = ctx.memory.get("nft/old/step") != step
        run(ctx, algorithm, step)
        for name, parameter in ctx.adapter.named.items():
            if before and stepped:
                expected = 0.3 * before[name] + 0.7 * parameter.detach()
                assert torch.allclose(ctx.memory["nft/old"][name], expected, atol=1e-14)
            elif before:
                assert torch.equal(ctx.memory["nft/old"][name], before[name])
        if not stepped or not before:
            move(ctx)


# -- how good a sample is --------------------------------------------------------------------------------------------


def scores(*values):
    values = [torch.tensor(v, dtype=torch.float64) for v in values]
    return Scores(sum(v.nan_to_num(0.0) for v in values), {str(i): v for i, v in enumerate(values)})


def released_goodness(rewards, size, limit, std="global"):
    """DiffusionNFT's tracker in numpy: group means, the deviation of the rewards themselves."""
    groups = np.array(rewards).reshape(-1, size)
    own = groups.std(1, keepdims=True)
    spread = (np.std(rewards) if std == "global" else own) + 1e-4
    advantage = (groups - groups.mean(1, keepdims=True)) / spread
    return (np.clip(advantage, -limit, limit) / limit / 2 + 0.5).flatten()


def test_goodness_is_the_clipped_group_advantage():
    ctx, algorithm = context(), DiffusionNFT(group_size=2, advantage_clip=0.5)
    rewards = [1.0, 3.0, 5.0, 5.2]
    r = algorithm.goodness(ctx, scores(rewards))
    assert r.tolist() == pytest.approx(released_goodness(rewards, 2, 0.5))
    assert ctx.take_records()["advantage_clipped"].tolist() == [2.0, 4.0]


def test_the_deviation_is_that_of_the_rewards_and_not_of_their_distances_from_the_group():
    """Groups far apart: the deviation over the batch is ten times that within a group."""
    rewards = [0.0, 0.1, 1.0, 1.1]
    r = DiffusionNFT(group_size=2).goodness(context(), scores(rewards))
    assert r.tolist() == pytest.approx([0.490, 0.510, 0.490, 0.510], abs=5e-4)
    assert r.tolist() == pytest.approx(released_goodness(rewards, 2, 5.0))
    own = DiffusionNFT(group_size=2, std="group").goodness(context(), scores(rewards))
    assert own.tolist() == pytest.approx(released_goodness(rewards, 2, 5.0, "group"))


def test_the_deviation_is_that_of_all_processes():
    ctx, algorithm = context(), DiffusionNFT(group_size=2, advantage_clip=5.0)
    ctx.gather = lambda x: torch.cat([x, torch.tensor([-3.0, 3.0], dtype=torch.float64)])
    std = np.std([1.0, 3.0, -3.0, 3.0]) + 1e-4
    assert algorithm.goodness(ctx, scores([1.0, 3.0])).tolist() == pytest.approx(
        [0.5 - 0.1 / std, 0.5 + 0.1 / std]
    )


def test_a_sample_that_a_reward_does_not_apply_to_is_neither_good_nor_bad():
    """It has no part in the group's mean and deviation either."""
    given = scores([-1.0, -3.0, NAN], [1.0, 1.0, 1.0])
    assert complete_rewards(given, 3).nan_to_num(9.0).tolist() == [[0.0, -2.0, 9.0]]
    r = DiffusionNFT(group_size=3).goodness(context(), given)
    assert r.tolist() == pytest.approx([*released_goodness([0.0, -2.0], 2, 5.0), 0.5])


def test_a_reward_without_spread_makes_every_sample_average():
    assert (
        DiffusionNFT(group_size=2).goodness(context(), scores([2.0, 2.0, 3.0, 3.0])).tolist()
        == [0.5] * 4
    )


# -- cost and options --------------------------------------------------------------------------------------------------


def test_the_promises():
    """At the second step, when the old policy is another one."""

    def make(size):
        ctx = context(micro_batch=size)
        run(ctx, algorithm, 0)
        move(ctx)
        ctx.start_step(1)
        return ctx

    algorithm = DiffusionNFT(group_size=2, timesteps=2, reference_weight=0.1)
    check_algorithm(algorithm, make)


@pytest.mark.parametrize(("weight", "extra"), [(0.0, 0), (0.1, 1)])
def test_calls_are_those_of_the_docstring(weight, extra):
    ctx = context()
    run(ctx, DiffusionNFT(group_size=2, timesteps=3, reference_weight=weight))
    assert (ctx.policy.forwards, ctx.policy.backwards) == (T + 3 * (2 + extra), 3)


def test_a_noise_prediction_without_signal_is_refused():
    """At its last timestep x0_hat would be infinite, once in a thousand samples."""
    from diffusers import DDIMScheduler

    ctx = context("epsilon")
    ctx.policy.model.scheduler = DDIMScheduler(rescale_betas_zero_snr=True)
    with pytest.raises(ComponentError) as error:
        list(DiffusionNFT(group_size=2).losses(ctx, make_test_batch()))
    assert str(error.value) == (
        "diffusion_nft: the model predicts noise on a schedule that ends without signal (alpha = 0, "
        "`rescale_betas_zero_snr`), where the noise says nothing about the sample. Use a network that predicts v, or a "
        "schedule that keeps some signal."
    )
