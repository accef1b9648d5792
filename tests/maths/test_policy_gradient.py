"""What the policy-gradient algorithms share, against hand-written references and plain autograd in float64."""

import math
import random
from collections import deque
from functools import partial

import numpy as np
import pytest
import torch

from rewardft.algorithms.advantages import group_advantages, prompt_advantages, prompt_keys
from rewardft.algorithms.policy_gradient import Schedule, draw_steps, learn, roll_out
from rewardft.algorithms.surrogates import clipped_ratio_loss, score_function_loss
from rewardft.errors import ComponentError
from rewardft.policy import rollout_weights
from rewardft.samplers.ddim import DDIM
from rewardft.testing.tiny import TinyModel
from tests.gradients import (
    T,
    make_context,
    make_test_batch,
    relative_error,
    run_backward,
    take_gradients,
)
from tests.policy.test_sample_gradients import side_by_side

CLIP = 1e-4
importance = partial(clipped_ratio_loss, clip=CLIP)


def single_precision(micro_batch=None):
    """As float32 training does it, with an adapter away from its initialisation."""
    ctx = make_context(DDIM(T, eta=1.0), micro_batch=micro_batch, guidance=2.0)
    ctx.policy.trainable.float()
    ctx.dtype = torch.float32
    return ctx


def log_ratio_rounding(ctx, rollout):
    """What float32 alone can make of a log-ratio whose two sides are computed in different batches.

    Sums of n numbers are off by 6 sqrt(n) roundings of the largest, but for one in a million (Higham & Mary 2019). On
    its way to the mean of a step a number goes through sums as long as all fan-ins of the network; a log-density is
    a mean over dimensions whose slope in the mean is (taken - mean) / std^2, and their roundings are independent.
    """
    eps = torch.finfo(torch.float32).eps
    fan_ins = sum(p[0].numel() for p in ctx.policy.trainable.parameters() if p.ndim > 1)
    worst = 0.0
    for k in rollout.log_probs:
        with torch.no_grad():
            step = ctx.replay(rollout, k)
        taken = rollout.states.get(k + 1, rollout.x0)
        off = (taken - step.mean).abs().flatten(1)
        largest = max(float(rollout.states[k].abs().max()), float(step.mean.abs().max()))
        slope = float((off / step.std**2).norm(dim=1).max()) / off.shape[1]
        terms = float(((off / step.std) ** 2 / 2).mean(1).max() + step.std.log().abs() + 1)
        moved = fan_ins**0.5 * largest * slope
        worst = max(worst, 6 * eps * (moved + off.shape[1] ** 0.5 * terms))
    return worst


def gradients(ctx, batch, surrogate, advantage, schedule=None):
    ctx.rng = random.Random(11)
    schedule = schedule or Schedule()
    experience = roll_out(ctx, batch, schedule)
    list(run_backward(learn(ctx, experience, advantage, surrogate, schedule)))
    return take_gradients(ctx)


def reinforce(ctx, batch, advantage):
    """The score-function estimator by plain autograd, from DDIM's equations 12 and 16 and torch.distributions."""
    noise, cond, alphas = ctx.noise(batch), ctx.encode(batch), ctx.sampler.schedule.alphas
    x, total = noise.draw("initial", (3, 8, 8)), 0.0
    for k in range(T - 1):  # the last step is deterministic
        a, b = alphas[k], alphas[k + 1]
        epsilon = ctx.policy.denoise(x, torch.full((len(x),), ctx.sampler.timesteps[k]), cond)
        std = math.sqrt((1 - b) / (1 - a)) * math.sqrt(1 - a / b)
        mean = (
            math.sqrt(b) * (x - math.sqrt(1 - a) * epsilon) / math.sqrt(a)
            + math.sqrt(1 - b - std**2) * epsilon
        )
        after = (mean + std * noise.draw(f"step{k}", (3, 8, 8))).detach()
        total = total + torch.distributions.Normal(mean, std).log_prob(after).mean(dim=(1, 2, 3))
        x = after
    (-(advantage * total).mean() / (T - 1)).backward()
    return take_gradients(ctx)


@pytest.mark.parametrize("surrogate", [score_function_loss, importance])
@pytest.mark.parametrize("micro_batch", [None, 2])
def test_the_gradient_at_ratio_one_is_reinforce(surrogate, micro_batch):
    batch, advantage = make_test_batch(3), torch.tensor([0.7, -1.3, 0.4], dtype=torch.float64)
    expected = reinforce(make_context(DDIM(T, eta=1.0)), batch, advantage)
    ctx = make_context(DDIM(T, eta=1.0), micro_batch=micro_batch)
    assert relative_error(gradients(ctx, batch, surrogate, advantage), expected) < 1e-10


@pytest.mark.parametrize("micro_batch", [None, 1, 2])
def test_ratios_are_one_at_the_first_update_in_float32(micro_batch):
    ctx, batch = single_precision(micro_batch), make_test_batch(4)
    experience = roll_out(ctx, batch, Schedule(), one_pass=False)
    assert sorted(experience.rollout.log_probs) == list(range(T - 1))
    list(run_backward(learn(ctx, experience, torch.randn(4), importance, Schedule())))
    worst = torch.cat(ctx._records["log_ratio_squared"]).max().sqrt()
    assert len(torch.cat(ctx._records["ratio"])) == 4 * (T - 1)
    bound = log_ratio_rounding(ctx, experience.rollout)
    assert worst < bound < 1e-3


@pytest.mark.parametrize(
    "ratio", [0.5, 1 - 1.5 * CLIP, 1 - 0.5 * CLIP, 1.0 + 0.5 * CLIP, 1 + 1.5 * CLIP, 2.0]
)
@pytest.mark.parametrize("advantage", [1.7, -0.6])
def test_clipping_on_both_sides(ratio, advantage):
    log_prob = torch.tensor([math.log(ratio) - 0.3], dtype=torch.float64, requires_grad=True)
    a = torch.tensor([advantage], dtype=torch.float64)
    loss = importance(log_prob, torch.tensor([-0.3], dtype=torch.float64), a)
    loss.sum().backward()
    low, high = 1 - CLIP, 1 + CLIP
    assert loss.item() == pytest.approx(
        max(-advantage * ratio, -advantage * min(max(ratio, low), high)), abs=1e-12
    )
    clipped = (
        ratio > high if advantage > 0 else ratio < low
    )  # only where going on would raise the objective
    assert log_prob.grad.item() == pytest.approx(0.0 if clipped else -advantage * ratio, abs=1e-12)


def test_prompt_statistics_against_numpy():
    """Three batches of two prompts; the buffer overflows, and a prompt with too few rewards takes the batch's."""
    ctx, generator = make_context(DDIM(T, eta=1.0)), np.random.default_rng(0)
    history = {0: deque(maxlen=5), 1: deque(maxlen=5)}
    for prompts in ([0, 0, 0, 1], [0, 0, 1, 1], [0, 0, 0, 1]):
        rewards, expected = generator.normal(size=4), []
        for prompt in (0, 1):
            history[prompt].extend(r for p, r in zip(prompts, rewards) if p == prompt)
        for prompt, reward in zip(prompts, rewards):
            seen = np.array(history[prompt]) if len(history[prompt]) >= 3 else rewards
            expected.append((reward - seen.mean()) / (seen.std() + 1e-6))
        got = prompt_advantages(
            ctx, torch.tensor(rewards), torch.tensor(prompts), buffer=5, min_count=3
        )
        assert got.tolist() == pytest.approx(expected, abs=1e-9)
    assert len(history[0]) == 5 == len(ctx.memory["policy_gradient/prompt_rewards"]["0"])
    assert len(ctx.memory["policy_gradient/prompt_rewards"]["1"]) == 4


def test_without_prompts_the_batch_is_normalised():
    rewards = torch.tensor([1.0, 2.0, 6.0])
    got = prompt_advantages(make_context(DDIM(T, eta=1.0)), rewards, None, 8, 4)
    assert got.tolist() == pytest.approx(((rewards - 3) / (np.std([1, 2, 6]) + 1e-6)).tolist())


@pytest.mark.parametrize("std", ["global", "group"])
def test_group_statistics_against_numpy(std):
    ctx, rewards = (
        make_context(DDIM(T, eta=1.0)),
        np.array([1.0, 2.0, 4.0, 3.0, 3.0, 3.0, -1.0, 0.0, 5.0]),
    )
    got, kept = group_advantages(ctx, torch.tensor(rewards), 3, std)
    groups = rewards.reshape(3, 3)
    spread = rewards.std() if std == "global" else groups.std(1, keepdims=True)
    expected = (groups - groups.mean(1, keepdims=True)) / (spread + 1e-4)
    assert got.tolist() == pytest.approx(expected.flatten().tolist(), abs=1e-12)
    assert kept.tolist() == [True] * 3 + [False] * 3 + [True] * 3
    assert torch.cat(ctx._records["groups_without_variance"]).mean() == pytest.approx(1 / 3)


def test_statistics_are_those_of_all_processes():
    """`gather` stands for the other process's half, which is handed to it in place."""
    mine, other = torch.tensor([1.0, 3.0]), torch.tensor([5.0, 9.0])
    ctx = make_context(DDIM(T, eta=1.0))
    ctx.gather = lambda x: torch.cat([x, other if x.is_floating_point() else x])
    everyone = np.array([1.0, 3.0, 5.0, 9.0])
    got, _ = group_advantages(ctx, mine, 2)
    assert got.tolist() == pytest.approx(
        [-1 / (everyone.std() + 1e-4), 1 / (everyone.std() + 1e-4)]
    )
    got = prompt_advantages(ctx, mine, torch.tensor([7, 7]), 8, 4)
    assert got.tolist() == pytest.approx(((mine.numpy() - 4.5) / (everyone.std() + 1e-6)).tolist())


def test_samples_that_are_not_kept_contribute_nothing():
    """Neither through their advantage nor through the penalty."""
    batch, advantage = make_test_batch(4), torch.tensor([0.5, -1.0, 2.0, 0.3], dtype=torch.float64)
    kept = torch.tensor([True, False, True, False])
    ctx = make_context(DDIM(T, eta=1.0), form="gaussian")
    list(
        run_backward(
            learn(ctx, roll_out(ctx, batch, Schedule()), advantage, importance, Schedule(), kept)
        )
    )
    got, expected = take_gradients(ctx), None
    for rows in (slice(0, 1), slice(2, 3)):
        part = gradients(ctx, batch.select(rows), importance, advantage[rows])
        expected = part if expected is None else [a + b for a, b in zip(expected, part)]
    assert relative_error(got, [g / 4 for g in expected]) < 1e-10


def test_updates_cut_the_batch_and_epochs_repeat_it():
    """Every `updates`-th sample makes a part; each part closes once per inner epoch."""
    ctx, batch = make_context(DDIM(T, eta=1.0)), make_test_batch(4)
    schedule = Schedule(updates=2, inner_epochs=3, fraction=0.5)
    experience = roll_out(ctx, batch, schedule)
    seen, replay = [], ctx.replay
    ctx.replay = lambda rollout, k: (seen.append((rollout.noise.ids, k)), replay(rollout, k))[1]
    losses = list(
        run_backward(learn(ctx, experience, torch.randn(4).double(), importance, schedule))
    )
    assert [loss.step for loss in losses] == [False, True] * 6  # 2 of 5 steps for each update
    assert [ids for ids, _ in seen] == [batch.ids[0::2]] * 2 + [batch.ids[1::2]] * 2 + (
        [batch.ids[0::2]] * 2 + [batch.ids[1::2]] * 2
    ) * 2
    assert {k for _, k in seen} <= set(range(T - 1)) and len({k for _, k in seen}) > 2


def test_drawn_steps_are_a_part_of_those_with_a_density():
    ctx = make_context(DDIM(T, eta=1.0))
    ctx.rng = random.Random(0)
    draws = [draw_steps(ctx, [0, 1, 2, 4], Schedule(fraction=0.6)) for _ in range(50)]
    assert all(len(d) == 2 and d == sorted(d) for d in draws)
    assert {k for d in draws for k in d} == {0, 1, 2, 4}
    assert draw_steps(ctx, [0, 1, 2, 4], Schedule(skip_last=T - 2)) == [0, 1]
    assert draw_steps(ctx, [1, 3], Schedule(fraction=0.1)) in ([1], [3])
    assert draw_steps(ctx, [1, 3], Schedule()) == [1, 3]


def test_a_chain_without_densities_is_refused():
    """DDIM's last step has no noise; a chain of one step has nothing else."""
    with pytest.raises(ComponentError) as error:
        roll_out(make_context(DDIM(1, eta=1.0)), make_test_batch(2), Schedule())
    assert str(error.value) == (
        "policy gradients need steps that draw noise, and none of the sampler's 1 steps does: their densities are "
        "deterministic. Give the sampler more steps or more noise (eta or noise_level above 0)."
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"updates": 0}, "updates and inner_epochs must be at least 1, got 0 and 1"),
        ({"fraction": 0.0}, "timestep_fraction must be in (0, 1], got 0.0"),
    ],
)
def test_schedules_are_checked(options, message):
    with pytest.raises(ComponentError) as error:
        Schedule(**options)
    assert str(error.value) == message


def test_more_updates_than_samples_are_refused():
    ctx = make_context(DDIM(T, eta=1.0))
    experience = roll_out(ctx, make_test_batch(2), Schedule(updates=3))
    with pytest.raises(ComponentError) as error:
        next(learn(ctx, experience, torch.ones(2), importance, Schedule(updates=3)))
    assert str(error.value) == "updates: cannot cut a batch of 2 samples into 3 parts"


def test_prompt_keys_name_values_alike_everywhere():
    batch = make_test_batch(5)
    device = torch.device("cpu")
    groups, labels = prompt_keys(batch, "group", device), prompt_keys(batch, "label", device)
    assert groups[0] == groups[4] != groups[1] and labels[0] == labels[4] != labels[1]
    assert prompt_keys(batch, None, device) is None
    with pytest.raises(ComponentError) as error:
        prompt_keys(batch, "grop", device)
    assert str(error.value) == "group_by: the data set has no column 'grop'. Did you mean 'group'?"


# -- one pass --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("surrogate", [score_function_loss, importance])
@pytest.mark.parametrize("fraction", [1.0, 0.5])
def test_one_pass_equals_two(surrogate, fraction):
    """Gradients are taken while rolling out, from the first batch on, with micro-batches of one sample."""
    batch, advantage = make_test_batch(3), torch.tensor([0.7, -1.3, 0.4], dtype=torch.float64)
    two = gradients(
        make_context(DDIM(T, eta=1.0), guidance=2.0),
        batch,
        surrogate,
        advantage,
        Schedule(fraction=fraction),
    )
    ctx = make_context(DDIM(T, eta=1.0), guidance=2.0, micro_batch=1)
    ctx.rng = random.Random(11)
    experience = roll_out(ctx, batch, Schedule(fraction=fraction))
    assert experience.gradients is not None and experience.gradients.shape[0] == 3
    (loss,) = run_backward(
        learn(ctx, experience, advantage, surrogate, Schedule(fraction=fraction))
    )
    assert loss.step and relative_error(take_gradients(ctx), two) < 1e-10
    plain = make_context(DDIM(T, eta=1.0), guidance=2.0)
    assert torch.allclose(
        experience.rollout.x0, roll_out(plain, batch, Schedule()).rollout.x0, atol=1e-12
    )


def one_pass_gradients(ctx, batch, advantage):
    """The gradients of a batch, and whether they were taken in one pass."""
    ctx.rng = random.Random(11)
    experience = roll_out(ctx, batch, Schedule())
    list(run_backward(learn(ctx, experience, advantage, importance, Schedule())))
    return take_gradients(ctx), experience.gradients is not None


@pytest.mark.parametrize("guidance_gradient", ["inside", "outside"])
@pytest.mark.parametrize("micro_batch", [None, 2])
def test_a_large_network_takes_several_samples_in_one_pass(
    monkeypatch, micro_batch, guidance_gradient
):
    """Of five samples, two at a time leave one alone. The first call of each size is differentiated
    once more, to see whose rows are whose."""
    batch, advantage = make_test_batch(5), torch.tensor([0.7, -1.3, 0.4, 2.0, -0.2]).double()
    how = {"guidance": 2.0, "guidance_gradient": guidance_gradient}
    two, once = one_pass_gradients(make_context(DDIM(T, eta=1.0), **how), batch, advantage)
    assert not once
    monkeypatch.setattr(rollout_weights, "LARGE", 0)
    ctx = make_context(DDIM(T, eta=1.0), micro_batch=micro_batch, **how)
    got, once = one_pass_gradients(ctx, batch, advantage)
    assert once and relative_error(got, two) < 1e-10
    calls = 1 if micro_batch is None else 3
    assert (ctx.policy.forwards, ctx.policy.backwards) == (calls * T, calls * (T - 1) + 1)
    key = "policy_gradient/rows_of_5" if micro_batch is None else "policy_gradient/rows_of_2"
    assert ctx.memory[key] is True
    got, once = one_pass_gradients(ctx, batch, advantage)
    assert once and relative_error(got, two) < 1e-10
    assert ctx.policy.backwards == 2 * calls * (T - 1) + 1


def test_a_model_with_its_rows_in_another_order_takes_two_passes_later(monkeypatch):
    """The first batch is right as well: it takes a backward pass for each sample."""
    batch, advantage = make_test_batch(3), torch.tensor([0.7, -1.3, 0.4]).double()
    two, _ = one_pass_gradients(make_context(DDIM(T, eta=1.0), guidance=2.0), batch, advantage)
    monkeypatch.setattr(rollout_weights, "LARGE", 0)
    monkeypatch.setattr(TinyModel, "denoise", side_by_side)
    ctx = make_context(DDIM(T, eta=1.0), guidance=2.0)
    got, once = one_pass_gradients(ctx, batch, advantage)
    assert once and relative_error(got, two) < 1e-10
    assert ctx.memory["policy_gradient/rows_of_3"] is False
    got, once = one_pass_gradients(ctx, batch, advantage)
    assert not once and relative_error(got, two) < 1e-10


def test_several_samples_of_a_checkpointed_network_take_two_passes(monkeypatch):
    monkeypatch.setattr(rollout_weights, "LARGE", 0)
    ctx, batch = make_context(DDIM(T, eta=1.0)), make_test_batch(2)
    ctx.policy.checkpointed = True
    assert roll_out(ctx, batch, Schedule()).gradients is None
    ctx.micro_batch = 1
    assert roll_out(ctx, batch, Schedule()).gradients is not None


def test_one_pass_takes_no_call_twice():
    ctx, batch = make_context(DDIM(T, eta=1.0), micro_batch=1), make_test_batch(3)
    advantage = torch.ones(3).double()
    gradients(ctx, batch, importance, advantage)
    # also in the first batch: which steps draw noise is seen without a call; the last one draws none
    assert (ctx.policy.forwards, ctx.policy.backwards) == (3 * T, 3 * (T - 1))


def test_one_pass_is_left_alone_where_it_would_be_wrong_or_slow():
    batch = make_test_batch(3)

    def takes_one_pass(schedule=None, form=None, micro_batch=1, dropout=False, one_pass=True):
        ctx = make_context(DDIM(T, eta=1.0), form=form, micro_batch=micro_batch)
        ctx.adapter.dropouts = ["dropout"] if dropout else []
        return roll_out(ctx, batch, schedule or Schedule(), one_pass=one_pass).gradients is not None

    assert takes_one_pass()
    refusals = [
        {"schedule": Schedule(updates=2)},
        {"schedule": Schedule(inner_epochs=2)},
        {"form": "gaussian"},
    ]
    refusals += [{"micro_batch": None}, {"micro_batch": 2}, {"dropout": True}, {"one_pass": False}]
    assert [takes_one_pass(**options) for options in refusals] == [False] * 7


def test_members_that_are_not_valid_take_no_part_in_their_group():
    ctx, nan = make_context(DDIM(T, eta=1.0)), math.nan
    rewards = torch.tensor([1.0, 2.0, 9.0, 4.0, 7.0, 8.0, 5.0, 5.0, 1.0])
    valid = torch.tensor([1, 1, 0, 0, 0, 1, 1, 1, 0]).bool()
    got, kept = group_advantages(ctx, rewards, 3, "group", epsilon=0.0, valid=valid)
    assert got.tolist() == [-1.0, 1.0, 0, 0, 0, 0, 0, 0, 0]  # of V = 2, V = 1, and V = 2 equal ones
    assert kept.tolist() == [True, True, *[False] * 7]
    without = torch.where(valid, rewards, nan)
    assert torch.equal(group_advantages(ctx, without, 3, "group", epsilon=0.0)[0], got)
