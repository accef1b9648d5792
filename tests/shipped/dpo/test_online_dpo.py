"""Online DPO: which samples make a pair, and that the loss is then that of Diffusion-DPO on them."""

import math

import numpy as np
import pytest
import torch
from rewardft_plugins.dpo.online_dpo import OnlineDPO, choose_pairs, comparable_rewards

from rewardft.errors import ComponentError
from rewardft.policy.weighted_reward import WeightedReward
from rewardft.testing import check_algorithm
from rewardft.types import Plan, Scores
from tests.gradients import (
    T,
    at_initialisation,
    make_test_batch,
    relative_error,
    run_backward,
    take_gradients,
)
from tests.shipped.dpo.cases import context, epsilon_hat, gradients, schedule, two_models

NAN = float("nan")


def scores(total, *others):
    values = [torch.tensor(v, dtype=torch.float64) for v in (total, *others)]
    return Scores(sum(v.nan_to_num(0.0) for v in values), {str(i): v for i, v in enumerate(values)})


@pytest.mark.parametrize("seed", range(5))
def test_pairs_are_numpys_argmax_and_argmin(seed):
    rewards = np.random.default_rng(seed).normal(size=(7, 5)).round(1)
    rewards[3] = 0.5
    best, worst, decided = choose_pairs(torch.from_numpy(rewards))
    values = np.take_along_axis(rewards, np.stack([best.numpy(), worst.numpy()], 1), 1)
    assert (
        values[:, 0].tolist() == rewards.max(1).tolist()
        and values[:, 1].tolist() == rewards.min(1).tolist()
    )
    distinct = [i for i in range(7) if len(set(rewards[i])) == 5]
    assert best[distinct].tolist() == rewards.argmax(1)[distinct].tolist()
    assert worst[distinct].tolist() == rewards.argmin(1)[distinct].tolist()
    assert decided.tolist() == (rewards.max(1) > rewards.min(1)).tolist() and not decided[3]


def test_a_sample_that_a_reward_does_not_apply_to_is_never_chosen():
    """Its total counts the missing reward as 0, which would beat every negative reward."""
    rewards = comparable_rewards(scores([NAN, -2.0, -1.0, -3.0, NAN, NAN, NAN, -1.0]), 4)
    best, worst, decided = choose_pairs(rewards)
    assert (best[0], worst[0]) == (2, 3) and decided.tolist() == [True, False]


def test_a_reward_that_applies_to_nobody_in_a_group_does_not_matter_there():
    first, second = [1.0, 2.0, 3.0, 1.0], [NAN, NAN, 5.0, NAN]
    assert comparable_rewards(scores(first, second), 2).nan_to_num(-9.0).tolist() == [
        [1.0, 2.0],
        [8.0, -9.0],
    ]


def rewarded(ctx, reward):
    ctx.rewards = [WeightedReward("r", reward)]
    return ctx


def plain(rollout, batch):
    """Neither differentiable nor linear."""
    with torch.no_grad():
        return rollout.x0.flatten(1).sin().mean(1)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "flow"])
def test_gradient_equals_the_formula_on_the_best_and_worst_sample(kind):
    beta, group, draws = 3.0, 4, 2
    ctx, batch = rewarded(context(kind), plain), make_test_batch()
    list(run_backward(OnlineDPO(group_size=group, beta=beta, timesteps=draws).losses(ctx, batch)))
    ours = take_gradients(ctx)
    policy, reference = two_models(ctx)
    x0 = ctx.rollout(batch.repeat(group), Plan(stop=T)).x0
    value = x0.flatten(1).sin().mean(1).numpy().reshape(3, group)
    loss = torch.zeros((), dtype=torch.float64)
    for n in range(draws):
        noise = ctx.noise(batch)
        epsilon = noise.draw(f"online_dpo{n}/noise", (3, 8, 8))
        t, alpha, sigma = schedule(ctx, noise.uniform(f"online_dpo{n}/timestep"))
        for i in range(3):
            one, cond, errors = slice(i, i + 1), {"label": batch["label"][i : i + 1]}, []
            for row in (value[i].argmax(), value[i].argmin()):
                x = alpha[one] * x0[i * group + row][None] + sigma[one] * epsilon[one]
                for model in (policy, reference):
                    output = epsilon_hat(
                        kind, x, model.denoise(x, t[one], cond), alpha[one], sigma[one]
                    )
                    errors.append(((output - epsilon[one]) ** 2).mean())
            inside = -0.5 * beta * ((errors[0] - errors[2]) - (errors[1] - errors[3]))
            loss = loss - torch.log(torch.sigmoid(inside)) / (3 * draws)
    loss.backward()
    assert relative_error(ours, gradients(policy)) < 1e-9


def test_tied_groups_are_skipped_and_logged_and_the_others_keep_their_weight():
    def tied_for_class_1(rollout, batch):
        return torch.where(batch["label"] == 1, 0.0, plain(rollout, batch))

    one, all_ = rewarded(context(), tied_for_class_1), rewarded(context(), plain)
    algorithm = OnlineDPO(group_size=4, beta=3.0)
    losses = list(run_backward(algorithm.losses(one, make_test_batch(2))))
    with_tie = take_gradients(one)
    assert one.take_records()["ties"].tolist() == [1.0, 2.0] and losses[-1].step
    list(run_backward(algorithm.losses(all_, make_test_batch(1))))
    assert relative_error(with_tie, [g / 2 for g in take_gradients(all_)]) < 1e-9


def test_a_batch_of_ties_has_no_gradient_and_is_closed():
    ctx = rewarded(context(), lambda rollout, batch: torch.zeros(len(batch)))
    (loss,) = run_backward(OnlineDPO(group_size=3).losses(ctx, make_test_batch()))
    assert (
        loss.step
        and float(loss.value.detach()) == 0.0
        and not any(g.any() for g in take_gradients(ctx))
    )


def test_the_loss_is_log_2_at_initialisation():
    ctx = rewarded(at_initialisation(context()), plain)
    (loss,) = run_backward(OnlineDPO(group_size=3).losses(ctx, make_test_batch()))
    assert float(loss.value.detach()) == pytest.approx(math.log(2), abs=1e-12)


def test_the_promises():
    algorithm = OnlineDPO(group_size=3, beta=3.0, timesteps=2)
    make = lambda size: rewarded(context(micro_batch=size), plain)
    check_algorithm(algorithm, make, make_test_batch(5))


def test_calls_are_those_of_the_docstring():
    ctx = rewarded(context(), plain)
    list(run_backward(OnlineDPO(group_size=3, timesteps=2).losses(ctx, make_test_batch())))
    assert (ctx.policy.forwards, ctx.policy.backwards) == (T + 2 * 2, 2)


def test_bad_options_are_refused():
    with pytest.raises(
        ComponentError, match=r"^expected group_size >= 2 and timesteps >= 1, got 1 and 1$"
    ):
        OnlineDPO(group_size=1)
