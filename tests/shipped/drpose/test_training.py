"""Training of estimator and base: augmentation is exact, the loss is right, Muon and averages do
what they say."""

import numpy as np
import pytest
import torch
from rewardft_plugins.drpose.model.autoencoder import LatentAutoencoder
from rewardft_plugins.drpose.model.compact import CompactDenoiser
from rewardft_plugins.drpose.model.pose_estimator import PoseEstimator
from rewardft_plugins.drpose.training.base import (
    Clean,
    denoising_loss,
    disturb_joints,
    draw_clean,
    spread_timesteps,
    train_base,
)
from rewardft_plugins.drpose.training.estimator import (
    estimator_quality,
    reflect_joints,
    train_estimator,
)
from rewardft_plugins.drpose.training.fit import FitOptions, fit
from rewardft_plugins.drpose.training.muon import Muon, orthogonalise
from rewardft_plugins.humans.body import JOINTS
from torch import nn


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_muon_makes_the_singular_values_alike_and_keeps_the_singular_vectors():
    matrix = torch.randn(6, 10, generator=generator(), dtype=torch.float64)
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    for made in (orthogonalise(matrix), orthogonalise(matrix.T).T):
        values = torch.linalg.svdvals(made)
        assert values.min() > 0.6 and values.max() < 1.3
        across = u.T @ made @ v.T
        assert (across - across.diag().diag()).abs().max() < 0.05


def test_the_first_step_of_muon_by_hand():
    """Nesterov on the first gradient g is g (1 - 0.95^2): the direction of g alone counts."""
    weight = nn.Parameter(torch.eye(4))
    optimizer = Muon([weight], lr=0.1, weight_decay=0.5)
    weight.grad = torch.diag(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    optimizer.step()
    update = (0.95 * torch.eye(4) - weight.detach()) / 0.1
    assert torch.linalg.svdvals(update).sub(1).abs().max() < 0.4
    assert (update - update.diag().diag()).abs().max() < 0.02


def test_what_is_kept_is_the_average_of_the_weights():
    def last(average):
        torch.manual_seed(0)
        model = nn.Linear(2, 1)
        data = torch.randn(64, 2)

        def loss_of(rng):
            rows = torch.randint(64, (4,), generator=rng)
            return (model(data[rows]) - data[rows, :1]).square().mean()

        trace = []
        fit(
            model,
            lambda rng: (trace.append(model.weight.detach().clone()), loss_of(rng))[1],
            FitOptions(steps=30, lr=0.1, bf16=False, average=average),
            lambda text: None,
        )
        return model.weight.detach(), trace

    plain, trace = last(0.0)
    kept, same = last(0.9)
    assert torch.equal(torch.stack(trace), torch.stack(same)), "averaging does not disturb training"
    average = same[1].clone()  # after the first step
    for n, weights in enumerate([*same[2:], plain], 1):
        average = average.lerp(weights, 1 - min(0.9, (1 + n) / (10 + n)))
    torch.testing.assert_close(kept, average, rtol=1e-4, atol=1e-5)


def test_reflected_joints_change_sides():
    joints = torch.randn(2, 23, 3)
    found = reflect_joints(joints)
    left, right = JOINTS.index("left_knee"), JOINTS.index("right_knee")
    assert torch.equal(found[:, left], joints[:, right] * torch.tensor([-1.0, 1.0, 1.0]))
    assert torch.equal(reflect_joints(found), joints)


def test_the_estimator_learns_where_a_dot_is_and_saves(tmp_path):
    items = []
    for i in range(8):
        joints = 0.8 * torch.rand(23, 3, generator=generator(i)) - 0.4
        items.append(
            {"image": torch.rand(3, 64, 64), "joints": joints - joints[:1], "offset": joints[0]}
        )
    untrained = train_estimator([items], FitOptions(steps=1, batch=4), lambda text: None)
    trained = train_estimator([items], FitOptions(steps=25, batch=8, muon=0.02), lambda text: None)
    before, after = (estimator_quality(model, items) for model in (untrained, trained))
    assert after["mpjpe_mm"] < 0.9 * before["mpjpe_mm"]
    trained.save(tmp_path)
    picture = torch.rand(1, 3, 64, 64)
    assert torch.equal(PoseEstimator.load(tmp_path).eval()(picture), trained(picture))


def test_errors_of_joints_grow_along_the_limbs_and_are_largest_in_depth():
    joints = torch.zeros(4000, 23, 3)
    found = disturb_joints(joints, torch.full((4000, 1, 1), 0.1), generator())
    spread = found.std(0)
    pelvis, wrist = JOINTS.index("pelvis"), JOINTS.index("left_wrist")
    assert spread[pelvis].tolist() == pytest.approx([0.035, 0.035, 0.1], rel=0.1)
    assert (spread[wrist] > spread[pelvis]).all()
    assert torch.equal(disturb_joints(joints, torch.zeros(1, 1, 1), generator()), joints)


def test_timesteps_are_spread_over_the_batch():
    t = spread_timesteps(8, generator(), power=1.0)
    assert sorted((t // 125).tolist()) == list(range(8))
    noisy = torch.cat([spread_timesteps(8, generator(i)) for i in range(50)]).float().mean()
    assert noisy > 530


def test_the_denoising_loss_is_the_weighted_error_of_v():
    """A network that answers 0: the loss is the weighted mean square of v."""
    clean = Clean(torch.randn(4, 12, 8, 16, 16), torch.randn(4, 8, 16, 16), torch.randn(4, 23, 3))
    alphas = torch.linspace(0.999, 0.01, 1000)
    seen = {}

    def network(x, t, picture, skeletons):
        seen.update(x=x, t=t)
        return torch.zeros_like(x)

    loss = denoising_loss(network, clean, alphas, generator())
    alpha = alphas[seen["t"]].double().view(-1, 1, 1, 1, 1)
    noise = (seen["x"] - alpha.sqrt() * clean.latents) / (1 - alpha).sqrt()
    v = alpha.sqrt() * noise - (1 - alpha).sqrt() * clean.latents
    ratio = alpha / (1 - alpha)
    expected = ((ratio + 1).clamp(max=5) / (ratio + 1) * v.square()).mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-3)


def test_a_reflected_draw_shows_the_reflected_joints(rendered_bodies):
    """Reflected pictures agree with reflected joints: the body is where the joints are."""
    items = [
        {
            name: rendered_bodies[name][i]
            for name in ("normals", "colours", "labels", "joints", "joints2d")
        }
        | {"image": rendered_bodies["colours"][i, 0], "offset": _offset(rendered_bodies, i)}
        for i in range(8)
    ]
    autoencoder = LatentAutoencoder(width=8)
    drawn = [draw_clean([items], autoencoder, 1, generator(seed)) for seed in range(6)]
    plain = autoencoder.encode(torch.stack([item["image"] for item in items]))
    turned = autoencoder.encode(torch.stack([item["image"].flip(-1) for item in items]))
    kinds = set()
    for clean in drawn:
        same = (plain - clean.picture).abs().amax((1, 2, 3)) < 1e-5
        other = (turned - clean.picture).abs().amax((1, 2, 3)) < 1e-5
        kinds |= {bool(other.any())}
        i = int((same | other).nonzero()[0])
        joints = items[i]["joints"] + items[i]["offset"]
        expected = reflect_joints(joints) if other.any() else joints
        torch.testing.assert_close(clean.joints[0], expected)
    assert kinds == {False, True}


def _offset(bodies, i):
    """Pelvis in the rendered frame, from the front view and the right view."""
    x, y = bodies["joints2d"][i, 0, 0]
    z = -bodies["joints2d"][i, 2, 0, 0]
    return torch.from_numpy(np.array([1.2 * x, -1.2 * y, 1.2 * z], dtype=np.float32))


def test_training_keeps_what_it_has_every_few_steps_and_ends_there():
    """Each kept copy is the average at that time, and the last one is what training leaves."""
    layer, kept = nn.Linear(3, 1, bias=False), []
    options = FitOptions(steps=6, keep_every=2, average=0.5, bf16=False)

    def keep(model):
        kept.append(model.weight.detach().clone())

    fit(layer, lambda g: (layer(torch.ones(1, 3)) - 2).square().sum(), options, print, keep)
    assert len(kept) == 3 and not torch.equal(kept[0], kept[1])
    assert torch.equal(kept[-1], layer.weight)


def test_the_base_goes_on_from_weights():
    torch.manual_seed(0)
    network = CompactDenoiser(width=16, depth=1, heads=2, embedding=8)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    options = FitOptions(steps=1, batch=2, lr=0.0)
    trained = train_base([[_item()]], LatentAutoencoder(), options, print, start=network)
    assert trained is network
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def _item():
    return {
        "normals": torch.rand(6, 3, 64, 64),
        "colours": torch.rand(6, 3, 64, 64),
        "image": torch.rand(3, 64, 64),
        "labels": torch.zeros(6, 64, 64, dtype=torch.long),
        "joints": torch.zeros(23, 3),
        "joints2d": torch.zeros(6, 23, 2),
        "offset": torch.zeros(3),
    }
