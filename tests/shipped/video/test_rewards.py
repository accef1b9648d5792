"""Rewards of videos: closed forms, gradients, frozen and flickering videos, and the recipe's form."""

import math

import pytest
import torch
from rewardft_plugins.rewards.statistics import mean_brightness
from rewardft_plugins.video.frames import PerFrame
from rewardft_plugins.video.motion import motion_amount, temporal_consistency

from rewardft import Batch
from rewardft.errors import RecipeError, RewardError
from rewardft.testing import check_reward, make_rollout, run_recipe

BATCH = Batch(("a", "b"), (0, 0), {"prompt": ["one", "two"]})


def videos(frames=6, size=16, seed=0):
    return torch.rand(2, frames, 3, size, size, generator=torch.Generator().manual_seed(seed))


def frozen():
    return videos(1).expand(-1, 6, -1, -1, -1).clone()


def score(reward, x0, batch=BATCH):
    return reward(make_rollout(x0, batch), batch)


def mean(rollout, batch):
    return rollout.decoded.flatten(1).mean(1)


def test_a_frozen_video_is_consistent_and_does_not_move():
    assert torch.equal(score(temporal_consistency, frozen()), torch.zeros(2))
    assert torch.equal(score(motion_amount, frozen()), torch.zeros(2))


def test_flicker_costs_four_squares_and_a_steady_rise_nothing():
    steps = torch.arange(6.0)[None, :, None, None, None]
    base = torch.full((2, 6, 3, 16, 16), 0.4)
    flicker = score(temporal_consistency, base + 0.1 * (steps % 2))
    assert torch.allclose(flicker, torch.full((2,), -4 * 0.1**2), atol=1e-6)
    assert torch.allclose(
        score(temporal_consistency, base + 0.05 * steps), torch.zeros(2), atol=1e-9
    )


def test_motion_of_a_bar_by_hand():
    """A bar of one square of 8 pixels moves one square per frame: of four squares, two change by 1."""
    x0 = torch.zeros(1, 4, 3, 8, 32)
    for frame in range(4):
        x0[0, frame, :, :, 8 * frame : 8 * frame + 8] = 1.0
    batch = Batch(("a",), (0,), {})
    moved = motion_amount(make_rollout(x0, batch), batch, target=1.0)
    assert torch.allclose(moved, torch.tensor([0.5]))
    assert motion_amount(make_rollout(x0, batch), batch, target=0.1).item() == 1.0


def test_noise_and_brightness_move_little():
    noise = 0.5 + 0.1 * (videos(6, 64) - 0.5)
    bar = 0.5 + 0.05 * torch.linspace(-1, 1, 6)[None, :, None, None, None] * torch.ones(
        2, 6, 3, 64, 64
    )
    assert score(motion_amount, noise).max() < 0.1 and score(motion_amount, bar).max() < 1e-5


@pytest.mark.parametrize("reward", [temporal_consistency, motion_amount])
def test_the_contract(reward):
    x0 = 0.4 + 0.02 * videos(seed=1)
    report = check_reward(reward, x0, BATCH, differentiable=True)
    assert report.gradient_error < 0.05  # of absolute values, in float32


@pytest.mark.parametrize("reduce", ["mean", "min", "soft_min"])
def test_per_frame_by_hand(reduce):
    x0 = videos(7)
    reward = PerFrame(mean, every=3, reduce=reduce, temperature=0.1, at_a_time=2)
    values = torch.stack([x0[:, i].flatten(1).mean(1) for i in (0, 3, 6)], 1)
    soft = -0.1 * torch.log(torch.exp(-values / 0.1).mean(1))
    wanted = {"mean": values.mean(1), "min": values.min(1).values, "soft_min": soft}[reduce]
    assert torch.allclose(score(reward, x0), wanted, atol=1e-6)
    assert (values.min(1).values - 1e-6 <= soft).all() and (soft <= values.mean(1) + 1e-6).all()
    report = check_reward(reward, x0, BATCH, differentiable=True)
    assert report.gradient_error < 0.01


def test_per_frame_leaves_out_what_does_not_apply():
    def dark(rollout, batch):
        value = mean_brightness(rollout, batch)
        return torch.where(value > 0.5, math.nan, value)

    x0 = videos(3)
    x0[0, 1] = 0.9
    x0[1] = 0.9
    for reduce in ("mean", "min", "soft_min"):
        value = score(PerFrame(dark, reduce=reduce), x0.clamp(max=0.9))
        assert math.isnan(value[1])


def test_the_condition_goes_along_with_each_frame():
    seen = []

    def note(rollout, batch):
        seen.append((batch["prompt"], tuple(rollout.decoded.shape)))
        return mean_brightness(rollout, batch)

    score(PerFrame(note, at_a_time=4), videos(6))
    assert seen == [
        (["one"] * 4, (4, 3, 16, 16)), (["one"] * 2, (2, 3, 16, 16)),
        (["two"] * 4, (4, 3, 16, 16)), (["two"] * 2, (2, 3, 16, 16)),
    ]  # fmt: skip


def test_memory_of_a_reward_does_not_grow_with_frames():
    """What autograd keeps beside the frames, at the end of the forward pass."""

    def heavy(rollout, batch):
        x = rollout.decoded
        for _ in range(5):
            x = torch.sin(x)
        return x.flatten(1).mean(1)

    def kept(frames, at_a_time):
        count = 0

        def pack(tensor):
            nonlocal count
            count += tensor.numel()
            return tensor

        x0 = videos(frames).requires_grad_(True)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            score(PerFrame(heavy, at_a_time=at_a_time), x0)
        return count / x0.numel()

    assert kept(8, 2) < 1.1 and kept(16, 2) < 1.1  # the frames themselves


def test_images_are_refused():
    with pytest.raises(RewardError) as caught:
        score(motion_amount, torch.rand(2, 3, 8, 8))
    assert str(caught.value) == (
        "motion_amount expects videos (b, frames, c, h, w) of at least 2 frames as `rollout.decoded`, got shape "
        "(2, 3, 8, 8). Use it with a model that makes videos, such as `modular` with `frames`."
    )


RECIPE = """plugins: [rewardft.testing.tiny, video, rewards]
model: {use: tiny}
sampler: {use: ddim, steps: 2}
data: {use: tiny_blobs, size: 4, batch_size: 2}
rewards: [REWARD]
algorithm: {use: draft_k, train_steps: 1}
optimizer: {use: adamw, lr: 1e-3}
train: {steps: 1}
"""


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        ("{use: per_frame}", "requires the option 'reward' (a reward, {use: NAME, OPTION: ...})."),
        ("{use: per_frame, reward: mean_brightness}", "expected a reward as {use: NAME, OPTION: ...}, got 'mean_brightness' (text)."),
        ("{use: per_frame, reward: {use: mean_brightnes}}", "there is no reward 'mean_brightnes'. Did you mean 'mean_brightness'?"),
        ("{use: per_frame, reward: {use: clip_score, form: x}}", "option 'form' of reward 'clip_score': expected one of 'percent', 'hessel', got 'x' (text)."),
        ("{use: per_frame, every: 0, reward: {use: mean_brightness}}", "option 'every' of reward 'per_frame': expected a whole number of at least 1, got 0"),
    ],
)  # fmt: skip
def test_what_a_recipe_may_say(reward, message, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.replace("REWARD", reward))
    with pytest.raises(RecipeError) as caught:
        run_recipe(path, tmp_path / "run")
    assert message in str(caught.value) and f"{path}:5" in str(caught.value)


def test_an_image_model_fails_with_the_rewards_sentence(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.replace("REWARD", "{use: per_frame, reward: {use: mean_brightness}}"))
    with pytest.raises(RewardError, match="per_frame expects videos"):
        run_recipe(path, tmp_path / "run")
