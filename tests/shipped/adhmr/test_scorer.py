"""The scorer: RankNet in closed form, its contract as a reward, and that training ranks."""

import math

import pytest
import torch
from rewardft_plugins.adhmr.dataset import PosePictures
from rewardft_plugins.adhmr.hypotheses import draw_hypotheses, true_errors
from rewardft_plugins.adhmr.model import PoseDiffusion
from rewardft_plugins.adhmr.scorer import HMRScorer, residuals
from rewardft_plugins.adhmr.space import SIZE, unpack
from rewardft_plugins.adhmr.training import ScorerSettings, noisy_truth, ranknet, train_scorer

from rewardft.policy.batches import make_batch
from rewardft.testing import check_reward


def batch_of(data):
    return make_batch([data[i] for i in range(len(data))], [0] * len(data))


def test_ranknet_is_the_cross_entropy_of_every_pair():
    scores = torch.tensor([[0.3, -0.1, 0.5]]).double()
    errors = torch.tensor([[[10.0, 30.0, 20.0]], [[1.0, 2.0, 3.0]]]).double()
    total = 0.0
    for metric in errors:
        for i, j in ((0, 1), (0, 2), (1, 2)):
            p = 1 / (1 + math.exp(-5 * float(scores[0, i] - scores[0, j])))
            total -= math.log(p if metric[0, i] < metric[0, j] else 1 - p)
    assert float(ranknet(scores, errors)) == pytest.approx(total / 6, rel=1e-9)


def test_it_is_a_reward_with_a_gradient():
    batch = batch_of(PosePictures(split="val", limit=2))
    x0 = torch.randn(4, SIZE, generator=torch.Generator().manual_seed(0))
    report = check_reward(HMRScorer(weights=None), x0, batch, differentiable=True)
    assert report.low < report.high


def test_residuals_vanish_for_the_pose_that_was_seen():
    """Landmarks put where the joints are, in the picture up to a shift and in space from the
    hips."""
    from rewardft_plugins.adhmr.scorer import MATCHES
    from rewardft_plugins.humans.camera import HALF_EXTENT

    data = PosePictures(split="val", limit=2)
    batch = batch_of(data)
    joints = unpack(batch["pose"])["joints"]
    landmarks, world = batch["landmarks"].clone(), batch["world"].clone()
    hips = joints[:, [1, 2]].mean(1)
    for joint, landmark in MATCHES.items():
        landmarks[:, landmark, :2] = (
            joints[:, joint, :2] + torch.tensor([0.1, -0.2])
        ) / HALF_EXTENT
        world[:, landmark] = joints[:, joint] - hips
    seen = type(batch)(
        batch.ids, batch.epochs, {**batch.columns, "landmarks": landmarks, "world": world}
    )
    found = residuals(joints, seen)
    assert found[:, : 5 * len(MATCHES)].abs().max() < 1e-5
    assert residuals(joints, batch).abs().max() > 0.1


def test_a_scorer_trained_for_a_moment_ranks_noise_on_the_truth():
    """On the pictures it was trained on: better than chance by far."""
    data = PosePictures(split="train", limit=30)
    base = PoseDiffusion(weights=None, width=16, blocks=1)
    said = []
    settings = ScorerSettings(hypotheses=6, on_noise=True, steps=200, pictures=16)
    scorer = train_scorer(data, base, settings, said.append)
    assert said == [f"step 200 of 200, loss {said[0].rpartition(' ')[2]}"]
    batch = batch_of(data)
    hypotheses = noisy_truth(batch["pose"], settings)
    errors = true_errors(hypotheses, batch["pose"])
    assert list(errors) == ["mpjpe", "pa_mpjpe", "pve", "pa_pve"]
    assert (errors["mpjpe"].diff(dim=1) > 0).float().mean() > 0.75  # noise grows
    scores = scorer.network(hypotheses.flatten(0, 1), batch.repeat(6)).view(-1, 6)
    rows = torch.arange(len(batch))
    best, worst = scores.argmax(1), scores.argmin(1)
    right = errors["mpjpe"][rows, best] < errors["mpjpe"][rows, worst]
    assert right.float().mean() > 0.9
    assert not any(p.requires_grad for p in scorer.parameters())


def test_poses_of_other_chunks_get_other_noise():
    truth = batch_of(PosePictures(split="train", limit=2))["pose"]
    settings = ScorerSettings(hypotheses=2, on_noise=True)
    first, again = noisy_truth(truth, settings), noisy_truth(truth, settings)
    assert torch.equal(first, again)
    assert not torch.allclose(first, noisy_truth(truth, settings, 512))


def test_true_errors_of_the_truth_are_zero():
    batch = batch_of(PosePictures(split="val", limit=2))
    model = PoseDiffusion(weights=None, width=16, blocks=1)
    hypotheses = draw_hypotheses(model, batch, 2, 0)
    hypotheses[:, 0] = batch["pose"]
    for errors in true_errors(hypotheses, batch["pose"]).values():
        assert errors[:, 0].abs().max() < 0.05 and errors[:, 1].min() > 20
