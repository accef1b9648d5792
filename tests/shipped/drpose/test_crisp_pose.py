"""`crisp_pose`: values by hand, and that hedging does not pay where it does for `pose_score`."""

import pytest
import torch
from rewardft_plugins.drpose.rewards.crisp_pose import CrispPose, coverage, expected_distance
from rewardft_plugins.drpose.rewards.pose_score import cross_entropy
from rewardft_plugins.drpose.rewards.skeleton_net import SkeletonNet
from rewardft_plugins.humans.skeleton import bone_distances, skeleton_maps

from rewardft.errors import ComponentError


def test_the_expected_distance_and_the_coverage_by_hand():
    maps = torch.tensor([[0.6, 0.3], [1e-9, 1e-9]])
    logits = torch.logit(maps.double())
    distances = torch.tensor([[0.0, 1.0], [5.0, 5.0]])
    assert expected_distance(logits, distances).item() == pytest.approx(0.09 / 0.45)
    truth = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    assert coverage(maps, truth).item() == pytest.approx(0.3)
    nothing = torch.full((2, 2), -40.0)
    assert expected_distance(nothing, distances).item() == pytest.approx(2.75)
    assert coverage(torch.zeros(2, 2), truth).item() == 0.0


@pytest.fixture
def reward(tmp_path):
    torch.manual_seed(0)
    SkeletonNet(width=8).save(tmp_path)
    return CrispPose(weights=str(tmp_path))


def test_the_true_maps_score_best_and_erased_ones_worst(reward):
    joints2d = torch.rand(2, 6, 23, 2) - 0.5
    truth = skeleton_maps(joints2d, 32)
    batch = {"joints2d": joints2d}
    perfect = reward.compare(torch.logit(truth, eps=1e-4), batch)
    empty = reward.compare(torch.full_like(truth, -20.0), batch)
    shifted = reward.compare(torch.logit(truth.roll(4, -1), eps=1e-4), batch)
    assert (perfect > shifted).all() and (shifted > empty).all()
    everywhere = 2 * bone_distances(joints2d, 32).flatten(1).mean(1) + 1
    torch.testing.assert_close(empty, -everywhere, rtol=1e-3, atol=0)


def test_gradients_are_those_of_finite_differences():
    joints2d = torch.rand(1, 1, 23, 2, dtype=torch.float64) - 0.5
    logits = torch.randn(1, 1, 23, 6, 6, dtype=torch.float64, requires_grad=True)

    def value(x):
        far = expected_distance(x, bone_distances(joints2d, 6))
        return far.mean() + coverage(x.sigmoid(), skeleton_maps(joints2d, 6)).mean()

    assert torch.autograd.gradcheck(value, (logits,), atol=1e-7)


def test_a_limb_that_may_be_here_or_there_is_best_put_in_one_place():
    """Two places equally likely. By cross-entropy half a limb in each is best; not so here."""
    size = 16
    places = torch.tensor([[[-0.5, 0.0]], [[0.5, 0.0]]])
    truth = skeleton_maps(places, size, 0.2, (-1,))  # (2, 1, s, s), either may be the case
    distances = bone_distances(places, size, (-1,))
    hedged, decided = truth.mean(0).clamp(1e-4, 1 - 1e-4), truth[0].clamp(1e-4, 1 - 1e-4)

    def crisp(maps):
        far = expected_distance(torch.logit(maps)[None], distances).mean()
        return (2 * far + 1 - coverage(maps[None], truth).mean()).item()

    def entropy(maps):
        return cross_entropy(torch.logit(maps)[None].expand_as(truth), truth).mean().item()

    assert entropy(hedged) < 0.5 * entropy(decided)
    assert crisp(decided) <= crisp(hedged) + 1e-3


@pytest.mark.parametrize(
    ("options", "message"), [({"reach": -1.0}, "crisp_pose: expected reach >= 0, got -1.0")]
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ComponentError) as caught:
        CrispPose(**options)
    assert str(caught.value) == message
