"""DiffusionOPSD: targets, loss and gradient by hand on separate models, in float64."""

import copy

import pytest
import torch
from rewardft_plugins.nft.opsd import OPSD

from rewardft.policy.weighted_reward import WeightedReward
from rewardft.samplers.ddim import DDIM
from rewardft.samplers.flow import FlowEuler
from rewardft.testing.conformance import check_algorithm, curved_reward
from tests.gradients import T, make_context, make_test_batch, move, relative_error
from tests.shipped.nft.test_diffusion_nft import run

GROUP = 4


def context(prediction="flow", **options):
    sampler = FlowEuler(T) if prediction == "flow" else DDIM(T)
    return make_context(sampler, prediction=prediction, **options)


class Finished:
    def __init__(self, x0):
        self.x0 = x0


def reward(x0, samples, i):
    return 1.3 * curved_reward(Finished(x0), samples.select(slice(i, i + 1)))


def ascend(y0, sign, steps, radius, slope):
    """`steps` normalised steps, each back into the ball around y0."""
    ball, y = radius * y0.norm(), y0
    for _ in range(steps):
        leaf = y.clone().requires_grad_()
        (g,) = torch.autograd.grad(slope(leaf).sum(), leaf)
        y = y + sign * ball / steps * g / g.norm()
        away = y - y0
        if away.norm() > ball:
            y = y0 + away * ball / away.norm()
    return y.detach()


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("beta", [1.0, 0.3])
def test_the_loss_is_the_released_one(beta, steps):
    """After a move, so that the old policy is not the one that learns."""
    algorithm = OPSD(GROUP, radius=0.2, ascents=steps, beta=beta)
    ctx, batch = context(), make_test_batch()
    old = copy.deepcopy(ctx.policy.model)
    run(ctx, algorithm, 0, batch)
    move(ctx)
    ctx.memory["opsd/old/step"] = 1  # as if it had followed by nothing
    value, gradient = run(ctx, algorithm, 1, batch)
    samples, levels, k = batch.repeat(GROUP), ctx.sampler.sigmas, algorithm.query(ctx)
    assert k == min(range(T), key=lambda n: abs(levels[n] - 0.278))
    learner, cases = copy.deepcopy(ctx.policy.model), []
    with torch.no_grad():
        for i in range(len(samples)):
            x, label = ctx.noise(samples).draw("initial", (3, 8, 8))[i : i + 1], samples["label"]
            for n in range(T):
                t, cond = torch.tensor([ctx.sampler.timesteps[n]]), {"label": label[i : i + 1]}
                v = old.denoise(x, t, cond)
                if n == k:
                    case = (i, x, t, cond, x - levels[n] * v)
                x = x + (levels[n + 1] - levels[n]) * v
            cases.append((*case, reward(x, samples, i)))
    rewards = torch.cat([case[-1] for case in cases]).view(-1, GROUP)
    centred = (rewards - rewards.mean(1, keepdim=True)).flatten()
    good = (centred / (rewards.std(correction=0) + 1e-4)).clamp(-5, 5) / 10 + 0.5
    loss = 0.0
    for r, (i, z, t, cond, y0, _) in zip(good, cases):
        up, down = (
            ascend(y0, sign, steps, 0.2, lambda y: reward(y, samples, i)) for sign in (1, -1)
        )
        theta = z - levels[k] * learner.denoise(z, t, cond)
        for share, end, target in (
            (r, (1 - beta) * y0 + beta * theta, up),
            (1 - r, (1 + beta) * y0 - beta * theta, down),
        ):
            error = end - target
            scaled = error.square().mean() / error.detach().abs().mean()
            loss = loss + 5 * share * scaled / len(samples)
    loss.backward()
    named = learner.trainable.named_parameters()
    expected = [p.grad for name, p in named if ".lora_" in name]
    assert value == pytest.approx(float(loss.detach()), rel=1e-8)
    assert relative_error(gradient, expected) < 1e-8


@pytest.mark.parametrize("form", [None, "epsilon_mse"])
@pytest.mark.parametrize("prediction", ["flow", "epsilon", "v_prediction"])
def test_the_promises(prediction, form):
    check_algorithm(
        OPSD(3), lambda size: context(prediction=prediction, form=form, micro_batch=size)
    )


@pytest.mark.parametrize("ascents", [1, 2, 4])
def test_calls_and_rewards_are_those_of_the_docstring(ascents):
    ctx, algorithm = context(), OPSD(3, ascents=ascents)
    run(ctx, algorithm)
    assert ctx.policy.forward_samples == 9 * (T + 1) and ctx.policy.backward_samples == 9
    assert ctx.reward_evaluations == 9 * (1 + 2 * ascents - 1)
    assert set(ctx.last_rollout.states) == {algorithm.query(ctx)}


def test_a_group_without_variance_goes_up_the_reward():
    """R is 1/2 there, and both branches pull the same way."""
    ctx, algorithm = context(), OPSD(3)
    flat = WeightedReward("flat", lambda rollout, batch: rollout.x0.flatten(1).mean(1) * 0 + 1)
    ctx.rewards = [flat]
    _, still = run(ctx, algorithm)
    assert max(float(g.abs().max()) for g in still) < 1e-6
    # The same value for all finished samples, with a slope.
    rise = WeightedReward(
        "rise", lambda rollout, batch: (lambda m: m - m.detach())(rollout.x0.flatten(1).mean(1))
    )
    ctx = context()
    ctx.rewards = [rise]
    _, gradient = run(ctx, algorithm)
    assert max(float(g.abs().max()) for g in gradient) > 1e-4


def test_a_sample_without_a_reward_takes_no_part():
    ctx, algorithm = context(), OPSD(3)

    def absent(rollout, batch):
        # Only one sample is asked for where a micro-batch holds it alone.
        gone = torch.tensor([name.endswith("#0") for name in batch.ids])
        return torch.where(gone, torch.nan, rollout.x0.flatten(1).sin().mean(1))

    ctx.rewards = [WeightedReward("r", absent)]
    _, gradient = run(ctx, algorithm)
    assert all(bool(g.isfinite().all()) for g in gradient)
    assert max(float(g.abs().max()) for g in gradient) > 0


def test_the_level_picks_the_state():
    ctx = context()
    assert [OPSD(level=level).query(ctx) for level in (1.0, 0.5, 0.0)] == [0, T // 2, T - 1]
