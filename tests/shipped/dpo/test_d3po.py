"""D3PO: the gradient against plain autograd with torch.distributions, and the clip before the logarithm."""

import math

import pytest
import torch
from rewardft_plugins.dpo.d3po import D3PO

from rewardft.errors import ComponentError
from rewardft.policy.weighted_reward import WeightedReward
from rewardft.testing import check_algorithm
from rewardft.types import Plan
from tests.gradients import (
    T,
    at_initialisation,
    make_test_batch,
    relative_error,
    run_backward,
    take_gradients,
)
from tests.shipped.dpo.cases import context, gradients, two_models


def score(rollout, batch):
    return rollout.x0.flatten(1).sin().mean(1)


def make(eta=1.0, **options):
    ctx = context(eta=eta, **options)
    ctx.rewards = [WeightedReward("r", score)]
    return ctx


def by_hand(ctx, batch, beta, clip):
    """Every step of every pair, with log-densities from torch.distributions, on two separate models."""
    policy, reference = two_models(ctx)
    double = batch.repeat(2)
    rollout = ctx.rollout(double, Plan(stop=T, keep=frozenset(range(T))))
    reward = score(rollout, double).view(-1, 2)
    alphas, steps, loss = ctx.sampler.schedule.alphas, sorted(rollout.log_probs), 0.0
    for k in steps:
        x, after = rollout.states[k], rollout.states.get(k + 1, rollout.x0)
        a, b = alphas[k], alphas[k + 1]
        std = math.sqrt((1 - b) / (1 - a) * (1 - a / b)) * ctx.sampler.eta
        log_probs = []
        for model in (policy, reference):
            epsilon = model.denoise(
                x, torch.full((len(x),), ctx.sampler.timesteps[k]), {"label": double["label"]}
            )
            mean = (
                math.sqrt(b) * (x - math.sqrt(1 - a) * epsilon) / math.sqrt(a)
                + math.sqrt(1 - b - std**2) * epsilon
            )
            log_probs.append(
                torch.distributions.Normal(mean, std).log_prob(after).flatten(1).mean(1)
            )
        ratio = (log_probs[0] - log_probs[1]).exp()
        clipped = (ratio if clip is None else ratio.clamp(1 - clip, 1 + clip)).log().view(-1, 2)
        for i in range(len(batch)):
            w = int(reward[i].argmax())
            loss = loss - torch.log(torch.sigmoid(beta * clipped[i, w] - beta * clipped[i, 1 - w]))
    (loss / (len(batch) * len(steps))).backward()
    return gradients(policy)


@pytest.mark.parametrize("clip", [None, 0.1, 0.02])
@pytest.mark.parametrize("eta", [1.0, 0.4])
def test_gradient_equals_plain_autograd(eta, clip):
    ctx, batch = make(eta), make_test_batch()
    list(run_backward(D3PO(beta=2.0, clip=clip).losses(ctx, batch)))
    assert relative_error(take_gradients(ctx), by_hand(ctx, batch, 2.0, clip)) < 1e-9
    if clip is not None:
        clipped, count = ctx.take_records()["clipped"].tolist()
        assert 0 < clipped < count, (
            "some are clipped and some are not, or the case would prove less"
        )


def test_the_loss_is_log_2_and_nothing_is_clipped_at_initialisation():
    ctx = at_initialisation(make())
    total = sum(
        float(loss.value.detach()) for loss in run_backward(D3PO().losses(ctx, make_test_batch()))
    )
    assert total == pytest.approx(math.log(2), abs=1e-12)
    records = ctx.take_records()
    assert float(records["clipped"][0]) == 0.0 and float(records["implicit_margin"][0]) == 0.0


def test_a_clipped_step_gets_no_gradient_and_an_unclipped_one_does():
    """The clamp before the logarithm: once all ratios are outside, training has stopped without a word but `clipped`."""
    ctx, free = make(), make()
    list(run_backward(D3PO(clip=1e-9).losses(ctx, make_test_batch())))
    assert not any(g.any() for g in take_gradients(ctx))
    clipped, count = ctx.take_records()["clipped"].tolist()
    assert clipped == count == 6 * (T - 1)  # every sample at every step that draws noise
    list(run_backward(D3PO(clip=None).losses(free, make_test_batch())))
    assert all(g.any() for g in take_gradients(free)) and "clipped" not in free.take_records()


def test_pairs_with_equal_rewards_have_weight_zero():
    ctx = make()
    ctx.rewards = [WeightedReward("r", lambda rollout, batch: torch.ones(len(batch)))]
    total = sum(
        abs(float(loss.value.detach()))
        for loss in run_backward(D3PO().losses(ctx, make_test_batch()))
    )
    assert total == 0.0 and not any(g.any() for g in take_gradients(ctx))
    assert ctx.take_records()["ties"].tolist() == [3.0, 3.0]


def test_regularizers_are_applied_at_the_visited_steps():
    ctx, batch = make(form="epsilon_mse"), make_test_batch()
    ctx.rewards = [
        WeightedReward("r", lambda rollout, batch: torch.ones(len(batch)))
    ]  # ties: the penalty alone
    list(run_backward(D3PO().losses(ctx, batch)))
    ours = take_gradients(ctx)
    rollout = ctx.rollout(batch.repeat(2), Plan(stop=T, keep=frozenset(range(T))))
    for k in sorted(rollout.log_probs):
        (ctx.penalty(ctx.replay(rollout, k), rollout, k).mean() / (T - 1)).backward()
    assert relative_error(ours, take_gradients(ctx)) < 1e-9


def test_the_promises():
    check_algorithm(D3PO(beta=2.0), lambda size: make(micro_batch=size), make_test_batch(5))


def test_a_random_subset_of_steps_is_the_same_for_every_batch_of_an_optimizer_step():
    ctx = make()
    seen = []
    for step in (0, 0, 1, 2, 3, 4, 5):
        ctx.start_step(step)
        visited = []
        ctx.replay = lambda rollout, k, v=visited: v.append(k) or type(ctx).replay(ctx, rollout, k)
        list(D3PO(train_steps=2).losses(ctx, make_test_batch(1)))
        seen.append(tuple(visited))
    assert seen[0] == seen[1] and len(set(seen)) > 2 and all(len(set(s)) == 2 for s in seen)


def test_bad_options_are_refused():
    with pytest.raises(ComponentError, match=r"^clip must be within \(0, 1\) or null, got 1.0$"):
        D3PO(clip=1.0)
    with pytest.raises(ComponentError) as error:
        list(D3PO(train_steps=9).losses(make(), make_test_batch()))
    assert (
        str(error.value)
        == f"train_steps must be within 1 and the {T - 1} steps that draw noise, got 9"
    )
