"""DDPO and DPOK: what is theirs alone, whole runs, and resuming. The shared parts: tests/maths/test_policy_gradient.py."""

import json
import math

import numpy as np
import pytest
import torch
from rewardft_plugins.ddpo.ddpo import DDPO
from rewardft_plugins.ddpo.dpok import DPOK
from rewardft_plugins.ddpo.value import ValueHead, state_features
from safetensors.torch import load_file

from rewardft.errors import ComponentError, RecipeError
from rewardft.samplers.ddim import DDIM
from rewardft.testing import check_resume, run_recipe
from rewardft.types import Scores
from tests.bench import line_of
from tests.gradients import (
    T,
    make_context,
    make_test_batch,
    relative_error,
    run_backward,
    take_gradients,
)
from tests.maths.test_policy_gradient import log_ratio_rounding, reinforce, single_precision

RECIPE = """
plugins: [rewardft.testing.tiny, rewardft_plugins.ddpo]
seed: 3
model: {use: tiny, prediction: v_prediction, guidance: 2.0, width: 12}
sampler: {use: ddim, steps: 5, eta: 1.0}
data: {use: tiny_blobs, size: 10, batch_size: 4}
rewards: [{use: tiny_brightness}]
algorithm: {use: ddpo, group_by: group, buffer: 4, min_count: 2, updates: 2, timestep_fraction: 0.75}
adapter: {kind: lora, rank: 3}
optimizer: {use: adamw, lr: 5e-2, eps: 0.1}
train: {steps: 8, log_every: 2}
save: {every: 2, keep: 9}
"""
ALGORITHMS = {
    "ddpo": [],
    "score_function": [
        "algorithm={use: ddpo, form: score_function, group_by: label, min_count: 2}"
    ],
    "one_pass": ["algorithm={use: ddpo, group_by: group}", "train.micro_batch=1"],
    "dpok": [
        "algorithm={use: dpok, value_head: true, inner_epochs: 2}",
        "regularizers=[{use: kl, form: gaussian, weight: 0.01}]",
    ],
}


def weights(run):
    return load_file(run.folder / "adapter" / "adapter_model.safetensors")


@pytest.mark.parametrize("name", ALGORITHMS)
def test_resuming_continues_to_the_same_bits(recipe, tmp_path, name):
    """Statistics per prompt, the value head and the steps with noise are part of the checkpoint."""
    columns = ("loss", "reward", "gradient_norm", "ratio")
    whole = check_resume(recipe, tmp_path, *ALGORITHMS[name], stop=4, columns=columns)
    assert len(whole.column("loss")) == 8
    # A batch may feed two steps.
    assert len(whole.column("reward")) in (4, 8)
    assert whole.column("loss")[0] != whole.column("loss")[-1]


def test_one_pass_follows_the_same_weights(recipe, tmp_path):
    """Chosen when replays take one sample at a time; half of the forwards."""
    algorithm = ["algorithm={use: ddpo, group_by: group}", "train.steps=6"]
    two = run_recipe(recipe, tmp_path / "two", *algorithm, "train.micro_batch=2")
    one = run_recipe(recipe, tmp_path / "one", *algorithm, "train.micro_batch=1")
    mine, theirs = weights(one), weights(two)
    assert max(float((mine[n] - theirs[n]).abs().max()) for n in mine) < 2e-5
    assert one.column("reward") == pytest.approx(two.column("reward"), abs=1e-6)
    assert one.summary["denoiser_forwards"] == 6 * 4 * 5
    assert one.summary["denoiser_backwards"] == 6 * 4 * 4


def test_a_deterministic_sampler_is_refused_before_anything_is_made(recipe, tmp_path):
    with pytest.raises(RecipeError) as error:
        run_recipe(recipe, tmp_path / "out", "sampler.eta=0")
    assert str(error.value) == (
        f"{recipe}: 1 problem\n"
        f"  - {recipe}:{line_of(recipe, 'algorithm:')}: algorithm 'ddpo' needs 'log_prob', which sampler 'ddim' "
        f"({recipe}:{line_of(recipe, 'sampler:')}, plugin 'builtin') does not provide. Write there eta: 1.0, or use: ddpm. "
        f"Algorithms of the listed plugins that would work here: alignprop, denoising, direct, draft, draft_k, draft_lv, drtune, refl."
    )
    assert not (tmp_path / "out").exists()


def test_rewards_need_no_gradient(recipe, tmp_path):
    plugin = tmp_path / "size.py"
    plugin.write_text(
        "from rewardft import hookimpl\n\n\ndef dark(rollout, batch):\n"
        "    return -(rollout.decoded.detach() > 0.5).float().flatten(1).mean(1)\n\n\ndark.differentiable = False\n\n\n"
        "@hookimpl\ndef register_rewards():\n    return {'dark': dark}\n"
    )
    plugins = f"plugins=[rewardft.testing.tiny, rewardft_plugins.ddpo, {plugin}]"
    run = run_recipe(recipe, tmp_path / "out", plugins, "rewards=[{use: dark}]")
    assert min(run.column("gradient_norm")) > 0


def test_the_first_update_is_reinforce_with_normalised_rewards():
    """The whole algorithm against plain autograd: rewards, batch statistics, clipped advantage, gradient."""
    ctx, batch = make_context(DDIM(T, eta=1.0)), make_test_batch(3)
    ctx.score = lambda rollout, batch: Scores(
        torch.tensor([1.0, 2.0, 40.0], dtype=torch.float64), {}
    )
    list(run_backward(DDPO(advantage_clip=1.0).losses(ctx, batch)))
    rewards = np.array([1.0, 2.0, 40.0])
    advantage = np.clip((rewards - rewards.mean()) / (rewards.std() + 1e-6), -1, 1)
    expected = reinforce(make_context(DDIM(T, eta=1.0)), batch, torch.tensor(advantage))
    assert relative_error(take_gradients(ctx), expected) < 1e-10


@pytest.mark.parametrize("algorithm", [DDPO(), DDPO("score_function"), DPOK(inner_epochs=1)])
def test_ratios_are_one_at_the_first_update(algorithm):
    ctx = single_precision()
    list(run_backward(algorithm.losses(ctx, make_test_batch(4))))
    worst = torch.cat(ctx._records["log_ratio_squared"]).max().sqrt()
    assert worst < log_ratio_rounding(ctx, ctx.last_rollout)


@pytest.mark.parametrize(
    ("ratio", "slope"), [(0.9, 0.0), (1.0, 1.0), (1.00005, 1.00005), (1.1, 0.0)]
)
@pytest.mark.parametrize("advantage", [2.0, -2.0])
def test_dpok_clamps_plainly(ratio, slope, advantage):
    """Outside the range the gradient is zero for either sign of the advantage, unlike PPO's."""
    log_prob = torch.tensor([math.log(ratio)], dtype=torch.float64, requires_grad=True)
    loss = DPOK(reward_weight=3.0).surrogate(
        log_prob, torch.zeros(1, dtype=torch.float64), torch.tensor([advantage])
    )
    loss.sum().backward()
    assert loss.item() == pytest.approx(-3 * advantage * min(max(ratio, 1 - 1e-4), 1 + 1e-4))
    assert log_prob.grad.item() == pytest.approx(-3 * advantage * slope)


def test_dpok_adds_the_kl_of_the_recipe():
    """At ratio 1 the gradient is w_r REINFORCE plus the gradient of the regularizer."""
    batch = make_test_batch(3)
    rewards = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64)

    def run(form):
        ctx = make_context(DDIM(T, eta=1.0), form)
        ctx.score = lambda rollout, batch: Scores(rewards, {})
        list(run_backward(DPOK(10.0, inner_epochs=1).losses(ctx, batch)))
        return take_gradients(ctx)

    plain = reinforce(make_context(DDIM(T, eta=1.0)), batch, 10 * (rewards - rewards.mean()))
    assert relative_error(run(None), plain) < 1e-10
    assert (
        relative_error([a - b for a, b in zip(run("gaussian"), plain)], kl_gradient(batch)) < 1e-9
    )


def kl_gradient(batch):
    """0.37 times the mean over samples and steps of torch's own divergence of the two transition densities."""
    from rewardft.types import Plan

    ctx, total = make_context(DDIM(T, eta=1.0), "gaussian"), 0.0
    rollout = ctx.rollout(batch, Plan(stop=T, keep=frozenset(range(T))))
    for k in range(T - 1):
        new, reference = ctx.replay(rollout, k), ctx.reference(rollout, k)
        pair = (torch.distributions.Normal(s.mean, s.std) for s in (new, reference))
        total = total + torch.distributions.kl_divergence(*pair).mean(dim=(1, 2, 3))
    (0.37 * total.mean() / (T - 1)).backward()
    return take_gradients(ctx)


def test_the_value_head_learns_the_reward_of_a_state():
    """Rewards that the states determine: the error falls, and advantages shrink to what is left of it."""
    ctx, batch = make_context(DDIM(T, eta=1.0)), make_test_batch(4)
    from rewardft.algorithms.policy_gradient import Schedule, roll_out

    rollout = roll_out(ctx, batch, Schedule()).rollout
    rewards, head = torch.tensor([0.0, 1.0, 2.0, 3.0]), ValueHead(lr=1e-2, steps=20)
    all_ = torch.ones(4, dtype=torch.bool)
    advantages = [head.advantage(ctx, rollout, rewards, all_) for _ in range(12)]
    errors = torch.stack([e[0] for e in ctx._records["value_error"]])
    assert advantages[0].shape == (4, T) and errors[0] > 1 and errors[-1] < 0.05
    assert advantages[-1].square().mean() == pytest.approx(float(errors[-1]), rel=1e-5)


def test_features_of_a_state():
    ctx, batch = make_context(DDIM(T, eta=1.0)), make_test_batch(2)
    from rewardft.algorithms.policy_gradient import Schedule, roll_out

    rollout = roll_out(ctx, batch, Schedule()).rollout
    rollout.cond = {
        "label": torch.tensor([3, 1]),
        "text": [torch.arange(12.0).view(2, 3, 2)],
        "name": "no tensor",
    }
    got, state = state_features(rollout, 2), rollout.states[2].flatten(2)
    expected = [
        state.mean(2),
        state.std(2, unbiased=False),
        torch.full((2, 1), 2.0),
        torch.tensor([[3.0], [1.0]]),
    ]
    assert torch.allclose(
        got, torch.cat([*expected, torch.tensor([[2.0, 3.0], [8.0, 9.0]])], dim=1).float()
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"form": "score_function", "updates": 2},
            "form score_function needs fresh samples: expected updates = inner_epochs = 1, got 2 and 1. Use `form: importance` to learn from a batch more than once.",
        ),
        (
            {"min_count": 40},
            "expected clip > 0, advantage_clip > 0 and 1 <= min_count <= buffer, got clip=0.0001, advantage_clip=5.0, min_count=40, buffer=32",
        ),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(ComponentError) as error:
        DDPO(**options)
    assert str(error.value) == message


def test_prompt_statistics_fill_up_over_batches(recipe, tmp_path):
    run = run_recipe(recipe, tmp_path / "out", "train.steps=8")
    path = sorted((run.folder / "checkpoints").iterdir())[-1]
    history = torch.load(path / "training.pt", weights_only=True)["context"]["memory"][
        "policy_gradient/prompt_rewards"
    ]
    assert len(history) == 4 and sorted(len(v) for v in history.values()) == [
        3,
        3,
        4,
        4,
    ]  # 16 draws, the buffer holds 4
    assert json.loads((path / "state.json").read_text())["step"] == 8


def test_the_value_head_does_not_learn_from_samples_without_a_reward():
    """As if they had never been drawn: a head that saw only the others has the same weights."""
    from rewardft.algorithms.policy_gradient import Schedule, roll_out

    rewards, kept = torch.tensor([0.0, 1.0, 0.0, 3.0]), torch.tensor([True, True, False, True])
    ctx, batch = make_context(DDIM(T, eta=1.0)), make_test_batch(4)
    rollout = roll_out(ctx, batch, Schedule()).rollout
    rollout.cond = None
    heads = [ValueHead(lr=1e-2, steps=3) for _ in range(2)]
    heads[0].advantage(ctx, rollout, rewards, kept)
    index = torch.tensor([0, 1, 3])
    rollout.states = {k: state[index] for k, state in rollout.states.items()}
    ctx.memory.clear()
    heads[1].advantage(ctx, rollout, rewards[index], torch.ones(3, dtype=torch.bool))
    weights = [torch.cat([p.flatten() for p in head.network.parameters()]) for head in heads]
    torch.testing.assert_close(*weights)
