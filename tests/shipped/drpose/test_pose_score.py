"""PoseScore: what it rewards, what it ignores, its gradients and its distances."""

import math
from types import SimpleNamespace

import pytest
import torch
from rewardft_plugins.drpose.rewards.pose_score import (
    PoseScore,
    body_rows,
    cross_entropy,
    entropy,
    pyramid_distance,
    skeleton_loss,
)
from rewardft_plugins.drpose.rewards.skeleton_net import SkeletonNet
from rewardft_plugins.drpose.weights import ASSETS
from rewardft_plugins.humans.camera import MIRRORED, project
from rewardft_plugins.humans.skeleton import skeleton_maps

from rewardft.errors import ComponentError
from rewardft.types import Batch


def joints2d():
    generator = torch.Generator().manual_seed(0)
    joints = (torch.rand(2, 23, 3, generator=generator) - 0.5) * 1.4
    return torch.from_numpy(project(joints.numpy()))


def batch(joints):
    return Batch(tuple(map(str, range(len(joints)))), (0,) * len(joints), {"joints2d": joints})


def rollout(x0):
    return SimpleNamespace(x0=x0)


@pytest.fixture(scope="module")
def reward(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("skeleton")
    SkeletonNet().save(folder)
    return PoseScore(weights=str(folder))


def latents(rows=12, count=2):
    return torch.randn(count, rows, 8, 16, 16, generator=torch.Generator().manual_seed(1))


def test_a_perfect_match_costs_nothing_and_a_miss_costs_the_divergence():
    maps = skeleton_maps(joints2d(), 32)
    perfect = torch.logit(maps.clamp(1e-6, 1 - 1e-6))
    assert cross_entropy(perfect, maps).abs().max() < 1e-5
    logits = torch.zeros(1, 1)  # predicts 0.5 where the truth is 1: log 2, less no entropy
    assert cross_entropy(logits, torch.ones(1, 1)).item() == pytest.approx(math.log(2))
    assert cross_entropy(logits, torch.full((1, 1), 0.5)).item() == pytest.approx(0.0, abs=1e-7)


def test_entropy_is_zero_where_the_target_is_certain():
    assert entropy(torch.tensor([0.0, 1.0])).tolist() == [0.0, 0.0]
    assert entropy(torch.tensor(0.5)).item() == pytest.approx(math.log(2))


def test_the_pyramid_has_a_gradient_across_a_gap_that_pixels_have_not():
    truth = torch.zeros(1, 1, 32, 32)
    truth[..., 16, 20] = 1.0

    def at(column):
        moved = torch.zeros(1, 1, 32, 32)
        moved[..., 16, column] = 1.0
        return pyramid_distance(moved, truth).item(), (moved - truth).abs().mean().item()

    (near, near_pixels), (far, far_pixels) = at(22), at(2)
    assert near < far
    assert near_pixels == far_pixels
    assert pyramid_distance(truth, truth).item() == 0.0


def test_the_reward_is_the_negative_mean_distance_to_the_drawn_skeleton(reward):
    x0, joints = latents(), joints2d()
    maps = skeleton_maps(joints, 32, 0.04)
    with torch.no_grad():
        logits = reward.net(x0)
        value = reward(rollout(x0), batch(joints))
    p = logits.sigmoid()
    kl = (
        maps * (maps.clamp_min(1e-12) / p).log()
        + (1 - maps) * ((1 - maps).clamp_min(1e-12) / (1 - p)).log()
    )
    expected = kl.mean((1, 2, 3, 4)) + torch.stack(
        [pyramid_distance(a, b).mean() for a, b in zip(p, maps)]
    )
    torch.testing.assert_close(value, -expected, rtol=1e-4, atol=1e-6)
    assert value.shape == (2,) and (value < 0).all()


def test_samples_are_scored_alone(reward):
    x0, joints = latents(), joints2d()
    with torch.no_grad():
        together = reward(rollout(x0), batch(joints))
        alone = reward(rollout(x0[1:]), batch(joints[1:]))
    torch.testing.assert_close(alone[0], together[1], rtol=1e-5, atol=1e-7)


def test_gradients_reach_every_body_row_and_no_weight(reward):
    x0 = latents().requires_grad_()
    reward(rollout(x0), batch(joints2d())).sum().backward()
    assert (x0.grad.flatten(2).abs().sum(-1) > 0).all()
    assert all(p.grad is None and not p.requires_grad for p in reward.net.parameters())


def test_face_rows_are_ignored(reward):
    x0, joints = latents(rows=14), joints2d()
    poked = x0.clone()
    poked[:, [6, 13]] += 100.0
    with torch.no_grad():
        plain = reward(rollout(x0), batch(joints))
        assert torch.equal(reward(rollout(poked), batch(joints)), plain)
        body = x0[:, [*range(6), *range(7, 13)]]
        assert torch.equal(body_rows(x0), body)
        assert torch.equal(reward(rollout(body), batch(joints)), plain)


def test_low_precision_latents_are_scored_in_float32(reward):
    x0, joints = latents(), joints2d()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        value = reward(rollout(x0), batch(joints))
    with torch.no_grad():
        assert torch.equal(value, reward(rollout(x0), batch(joints)))


def test_a_wrong_number_of_rows_or_channels_is_explained(reward):
    with pytest.raises(
        ComponentError, match="expects 12 or 14 rows of latents per sample, got x0 of \\(2, 7"
    ):
        reward(rollout(latents(rows=7)), batch(joints2d()))
    with pytest.raises(ComponentError, match="reads latents of 8 channels, the model gives 4"):
        reward(rollout(torch.zeros(2, 12, 4, 16, 16)), batch(joints2d()))


def test_lpips_without_its_weights_is_explained(tmp_path):
    SkeletonNet().save(tmp_path)
    with pytest.raises(ComponentError, match="lpips_weights 'nope' cannot be used"):
        PoseScore(weights=str(tmp_path), lpips_weights="nope")


def test_a_network_without_weights_file_is_named(tmp_path):
    SkeletonNet().save(tmp_path)
    (tmp_path / "skeleton.safetensors").unlink()
    with pytest.raises(ComponentError) as error:
        PoseScore(weights=str(tmp_path))
    assert str(error.value) == (
        f"{tmp_path / 'skeleton.safetensors'} is missing; is {str(tmp_path)!r} a folder of saved weights?"
    )


def test_weights_of_terms():
    logits, maps = torch.randn(2, 6, 23, 32, 32), skeleton_maps(joints2d(), 32)
    only = skeleton_loss(logits, maps, 2.0, 0.0, pyramid_distance)
    torch.testing.assert_close(only, 2 * cross_entropy(logits, maps))


shipped = pytest.mark.skipif(
    not (ASSETS / "skeleton").is_dir(), reason="the shipped skeleton network is not here"
)


@shipped
@pytest.mark.parametrize("view", range(6))
def test_the_shipped_network_knows_which_views_are_mirrored(view, rendered):
    """Flipping a view's truth about the vertical axis makes the score worse, in mirrored and plain views alike."""
    x0, joints = rendered
    score = PoseScore()
    flipped = joints.clone()
    flipped[:, view, :, 0] *= -1
    with torch.no_grad():
        right, wrong = score(rollout(x0), batch(joints)), score(rollout(x0), batch(flipped))
    assert (right > wrong).float().mean() > 0.9
    assert MIRRORED[view] == (view in (3, 4))


@pytest.fixture(scope="module")
def rendered(rendered_bodies):
    """Clean latents of rendered bodies with their projected joints."""
    from rewardft_plugins.drpose.model.autoencoder import LatentAutoencoder

    images = torch.cat([rendered_bodies["normals"], rendered_bodies["colours"]], dim=1)
    autoencoder = LatentAutoencoder.load(ASSETS / "autoencoder")
    with torch.no_grad():
        latents = autoencoder.encode(images.flatten(0, 1)).unflatten(0, images.shape[:2])
    return latents, rendered_bodies["joints2d"]
