"""The other forms of PoseScore: values by hand, the contract of rewards, what is shipped, errors as they are said."""

import numpy as np
import pytest
import torch
from rewardft_plugins.drpose.rewards.forms import (
    JointRegression,
    SilhouetteScore,
    draw_silhouettes,
    joint_distance,
)
from rewardft_plugins.drpose.rewards.pose_score import PoseScore, skeleton_loss
from rewardft_plugins.drpose.rewards.skeleton_net import FORKED, SkeletonNet
from rewardft_plugins.drpose.weights import ASSETS, parameter_count, read_json, read_tensors
from rewardft_plugins.humans.camera import project
from rewardft_plugins.humans.positions import expected_position

from rewardft.errors import ComponentError
from rewardft.testing import check_reward, make_rollout
from rewardft.types import Batch

FORMS = {"joint_regression": JointRegression, "silhouette_score": SilhouetteScore}
READS = {"joint_regression": ("joints", 23), "silhouette_score": ("silhouettes", 1)}


@pytest.fixture(scope="module")
def posed():
    """Eight samples of the shipped plain clips as a data set gives them, with clean latents of their rendered views."""
    pytest.importorskip("smplx")
    from rewardft_plugins.drpose.model.autoencoder import LatentAutoencoder
    from rewardft_plugins.humans.appearance import generator, random_look, random_shape
    from rewardft_plugins.humans.body import load_body
    from rewardft_plugins.humans.motion import shipped_clips
    from rewardft_plugins.humans.render import render

    body, draws = load_body(), [generator(1, str(i)) for i in range(8)]
    clips = [clip for clip in shipped_clips() if clip.plain]
    poses = np.stack([clips[i % len(clips)].poses[8 + i] for i in range(8)]).astype(np.float32)
    betas = np.stack([random_shape(rng) for rng in draws])
    vertices, joints = body.pose(poses, betas)
    centre = (vertices.min(axis=1, keepdims=True) + vertices.max(axis=1, keepdims=True)) / 2
    views = render(body, vertices - centre, [random_look(rng) for rng in draws], 64)
    images = (
        torch.cat([torch.from_numpy(views.normals), torch.from_numpy(views.colours)], dim=1).float()
        / 255
    )
    with torch.no_grad():
        encoder = LatentAutoencoder.load(ASSETS / "autoencoder")
        latents = encoder.encode(images.flatten(0, 1)).unflatten(0, images.shape[:2])
    columns = {
        "joints2d": torch.from_numpy(project(joints - centre)),
        "pose": torch.from_numpy(poses),
        "betas": torch.from_numpy(betas),
        "offset": torch.from_numpy((joints - centre)[:, 0]),
    }
    batch = Batch(tuple(map(str, range(8))), (0,) * 8, columns)
    return latents, batch, torch.from_numpy(views.labels), torch.from_numpy(views.alpha)


@pytest.fixture(scope="module", params=FORMS)
def untrained(request, tmp_path_factory):
    """A reward of each form on random weights: nothing here depends on what is shipped."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp(request.param)
    reads, maps = READS[request.param]
    SkeletonNet(joints=maps, reads=reads).save(folder)
    return FORMS[request.param](weights=str(folder))


def test_the_mean_position_of_one_pixel_is_its_centre():
    logits = torch.full((2, 5, 4, 8), -1e4)
    logits[0, :, 1, 6] = logits[1, :, 3, 0] = 1e4
    places = expected_position(logits)
    assert places[0, 0].tolist() == pytest.approx([2 * 6.5 / 8 - 1, 2 * 1.5 / 4 - 1])
    assert places[1, 4].tolist() == pytest.approx([2 * 0.5 / 8 - 1, 2 * 3.5 / 4 - 1])
    assert expected_position(torch.zeros(3, 4, 4)).abs().max() < 1e-6


def test_the_joint_distance_is_that_of_the_places():
    logits = torch.zeros(2, 6, 23, 8, 8)  # every joint in the middle
    joints = torch.zeros(2, 6, 23, 2)
    joints[0, ..., 0], joints[0, ..., 1] = 0.3, -0.4
    assert joint_distance(logits, joints).tolist() == pytest.approx([0.5, 0.0], abs=1e-5)
    joints[1, 0, 0, 0] = 23 * 6 * 0.1  # one joint of one view, far away
    assert joint_distance(logits, joints).tolist() == pytest.approx([0.5, 0.1], abs=1e-5)


def test_the_joint_distance_has_a_gradient_at_a_perfect_match():
    logits = torch.zeros(1, 6, 23, 8, 8, requires_grad=True)
    joint_distance(logits, torch.zeros(1, 6, 23, 2)).sum().backward()
    assert logits.grad.isfinite().all()


def test_the_scale_is_the_distance_that_costs_one(tmp_path):
    SkeletonNet(reads="joints").save(tmp_path)
    x0, joints = torch.randn(2, 12, 8, 16, 16), torch.rand(2, 6, 23, 2)
    batch = Batch(("a", "b"), (0, 0), {"joints2d": joints})
    full, half = (JointRegression(str(tmp_path), scale=s) for s in (1.0, 0.5))
    with torch.no_grad():
        distance = joint_distance(full.net(x0), joints)
        torch.testing.assert_close(full(make_rollout(x0, batch), batch), 1 - distance)
        torch.testing.assert_close(half(make_rollout(x0, batch), batch), 1 - 2 * distance)


def test_drawn_silhouettes_are_those_of_the_data_set(posed):
    """From pose, shape and offset alone: the coverage that the renderer stores, and its labels where that is half."""
    _, batch, labels, alpha = posed
    from rewardft_plugins.humans.body import load_body

    drawn = draw_silhouettes(load_body(), batch["pose"], batch["betas"], batch["offset"], 64)[
        :, :, 0
    ]
    assert drawn.shape == alpha.shape
    assert (
        (255 * drawn).round() != alpha
    ).float().mean() < 1e-3  # rounding of the centre moves an edge here and there
    assert ((drawn >= 0.5) != (labels > 0)).float().mean() < 1e-3


def test_the_silhouette_score_is_pose_scores_distance_on_silhouettes(posed, untrained):
    if not isinstance(untrained, SilhouetteScore):
        pytest.skip("another form")
    x0, batch, _, _ = posed
    with torch.no_grad():
        value = untrained(make_rollout(x0, batch), batch)
        truth = draw_silhouettes(untrained.body, batch["pose"], batch["betas"], batch["offset"], 32)
        from rewardft_plugins.drpose.rewards.pose_score import pyramid_distance

        expected = -skeleton_loss(untrained.net(x0), truth, 1.0, 1.0, pyramid_distance)
    torch.testing.assert_close(value, expected)
    assert (value < 0).all()


def test_both_forms_keep_the_contract_of_rewards(posed, untrained):
    x0, batch, _, _ = posed
    rows = slice(0, 3)
    report = check_reward(untrained, x0[rows], batch.select(rows), differentiable=True)
    assert report.gradient_error < 0.02 and report.not_applicable == 0.0


def test_gradients_reach_every_body_row_and_no_weight(posed, untrained):
    x0, batch, _, _ = posed
    x0 = x0[:2].clone().requires_grad_()
    untrained(
        make_rollout(x0, batch.select(slice(0, 2))), batch.select(slice(0, 2))
    ).sum().backward()
    assert (x0.grad.flatten(2).abs().sum(-1) > 0).all()
    assert all(p.grad is None and not p.requires_grad for p in untrained.net.parameters())


def test_face_rows_are_ignored_and_autocast_changes_nothing(posed, untrained):
    x0, batch, _, _ = posed
    faces = torch.cat(
        [x0[:, :6], torch.full_like(x0[:, :1], 9.0), x0[:, 6:], torch.full_like(x0[:, :1], 9.0)],
        dim=1,
    )
    with torch.no_grad():
        value = untrained(make_rollout(x0, batch), batch)
        assert torch.equal(untrained(make_rollout(faces, batch), batch), value)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(untrained(make_rollout(x0, batch), batch), value)


def test_a_fork_shares_all_levels_but_the_last_and_learns_that_alone():
    torch.manual_seed(0)
    network = SkeletonNet()
    fork = network.fork(1, "silhouettes")
    assert (fork.joints, fork.reads) == (1, "silhouettes")
    for name, value in fork.state_dict().items():
        if not name.startswith(FORKED):
            assert torch.equal(value, network.state_dict()[name])
    assert {n for n, p in fork.named_parameters() if p.requires_grad} == {
        n for n, _ in fork.named_parameters() if n.startswith(FORKED)
    }


shipped = pytest.mark.skipif(
    not (ASSETS / "joints").is_dir(), reason="the shipped networks are not here"
)


@shipped
@pytest.mark.parametrize(("kind", "maps"), [("joints", 23), ("silhouettes", 1)])
def test_shipped_forks_hold_their_last_level_alone_and_have_the_size_of_g_skel(kind, maps):
    tensors = read_tensors(ASSETS / kind / "skeleton.safetensors")
    assert all(name.startswith(FORKED) for name in tensors)
    assert read_json(ASSETS / kind / "skeleton.json") == {
        "channels": 8,
        "joints": maps,
        "width": 32,
        "reads": kind,
        "fork_of": "shipped",
    }
    network, g_skel = SkeletonNet.load(ASSETS / kind), SkeletonNet.load(ASSETS / "skeleton")
    assert torch.equal(network.enter.weight, g_skel.enter.weight)
    assert 0.95 < parameter_count(network) / parameter_count(g_skel) <= 1


@shipped
def test_a_fork_keeps_everything_when_it_is_saved_whole(tmp_path):
    network = SkeletonNet.load(ASSETS / "joints")
    network.save(tmp_path)
    again = SkeletonNet.load(tmp_path)
    assert all(
        torch.equal(a, b)
        for a, b in zip(network.state_dict().values(), again.state_dict().values())
    )


@shipped
@pytest.mark.parametrize("form", FORMS.values())
def test_the_right_pose_scores_better_than_another(form, posed):
    """Each sample against every other's pose; the same frame in another heading is the closest rival."""
    x0, batch, _, _ = posed
    reward = form()
    with torch.no_grad():
        right = reward(make_rollout(x0, batch), batch)
        better = []
        for shift in range(1, 8):
            columns = {name: torch.roll(value, shift, 0) for name, value in batch.columns.items()}
            wrong = reward(make_rollout(x0, batch), Batch(batch.ids, batch.epochs, columns))
            better.append(right > wrong)
        least = 0.9 if form is JointRegression else 1.0  # joints are read less well
        assert torch.cat(better).float().mean() >= least


@shipped
def test_the_shipped_networks_read_held_out_bodies_as_well_as_documented(held_out):
    """On the held-out clips of the shipped set: plain ones well, acrobatic ones worse."""
    from rewardft_plugins.drpose.training.forms import FORMS as TRAINED
    from rewardft_plugins.drpose.training.forms import form_quality

    for name, limits in {"joints": (130, 210), "silhouettes": (0.77, 0.64)}.items():
        network = SkeletonNet.load(ASSETS / name)
        for (data, truth), limit in zip(held_out[name], limits):
            (value,) = form_quality(TRAINED[name], network, data, truth).values()
            assert value < limit if name == "joints" else value > limit


@pytest.fixture(scope="module")
def held_out(tmp_path_factory):
    """The held-out clips of the shipped set, plain and acrobatic, 48 samples of each, encoded, with the truth."""
    pytest.importorskip("smplx")
    from rewardft_plugins.drpose.data.build import build_dataset
    from rewardft_plugins.drpose.data.dataset import Drpose15k
    from rewardft_plugins.drpose.data.splits import Sampling, plan_splits
    from rewardft_plugins.drpose.model.autoencoder import LatentAutoencoder
    from rewardft_plugins.drpose.training.forms import FORMS as TRAINED
    from rewardft_plugins.drpose.training.forms import draw_truth
    from rewardft_plugins.drpose.training.nets import encode_dataset
    from rewardft_plugins.humans.body import load_body
    from rewardft_plugins.humans.motion import shipped_clips

    root, body = tmp_path_factory.mktemp("data") / "set", load_body()
    plans = plan_splits(shipped_clips(), Sampling(poses=8, neighbours=1, val_samples=48))
    build_dataset(root, plans, body)
    encoder = LatentAutoencoder.load(ASSETS / "autoencoder")
    pairs = {}
    for name, form in TRAINED.items():
        sets = [Drpose15k(str(root), split, targets=True) for split in ("plain_val", "acro_val")]
        encoded = [encode_dataset(encoder, dataset) for dataset in sets]
        pairs[name] = [
            (data, draw_truth(form, data, dataset, body)) for data, dataset in zip(encoded, sets)
        ]
    return pairs


def test_training_a_form_learns_it_and_leaves_the_shared_levels_alone(posed):
    from rewardft_plugins.drpose.training.fit import FitOptions
    from rewardft_plugins.drpose.training.forms import FORMS as TRAINED
    from rewardft_plugins.drpose.training.forms import draw_truth, form_quality, train_form
    from rewardft_plugins.drpose.training.nets import Encoded

    x0, batch, _, _ = posed
    data = Encoded(x0.half(), batch["joints2d"])
    items = [{name: batch[name][i] for name in ("pose", "betas", "offset")} for i in range(8)]
    torch.manual_seed(3)
    g_skel = SkeletonNet()
    for name, better in (
        ("joints", lambda after, before: after < 0.7 * before),
        ("silhouettes", lambda a, b: a > b + 0.3),
    ):
        form = TRAINED[name]
        from rewardft_plugins.humans.body import load_body

        truth = draw_truth(form, data, items, load_body())
        before = form_quality(form, g_skel.fork(form.maps, form.reads), data, truth)
        network = train_form(
            form, g_skel, [(data, truth)], FitOptions(steps=50, batch=4, lr=1e-2), print
        )
        after = form_quality(form, network, data, truth)
        (key,) = after
        assert key == {"joints": "error_mm", "silhouettes": "iou"}[name]
        assert better(after[key], before[key])
        assert torch.equal(network.deep.body[2].weight, g_skel.deep.body[2].weight)


def test_the_measures_by_hand():
    from rewardft_plugins.drpose.training.forms import joint_error, silhouette_overlap

    joints = torch.zeros(1, 6, 23, 2)
    joints[..., 0] = 0.1  # of half the picture's width, 1.2 m
    assert joint_error(torch.zeros(1, 6, 23, 8, 8), joints)["error_mm"].tolist() == pytest.approx(
        [120.0], abs=0.01
    )
    logits, truth = torch.full((1, 6, 1, 8, 8), -1.0), torch.zeros(1, 6, 1, 8, 8)
    logits[..., :4, :], truth[..., 2:6, :] = 1.0, 1.0
    assert silhouette_overlap(logits, truth)["iou"].tolist() == pytest.approx([1 / 3])


def test_the_command_explains_an_unknown_form(tmp_path):
    from rewardft_plugins.drpose.commands.training import app
    from typer.testing import CliRunner

    result = CliRunner().invoke(
        app, ["train-form", str(tmp_path), "--form", "joint", "--data", "a:b", "--val", "a:b"]
    )
    assert result.exit_code == 2
    said = " ".join(result.output.replace("│", " ").split())
    assert "--form is 'joint'. Did you mean 'joints'?" in said


def test_a_network_that_reads_something_else_is_refused(tmp_path):
    SkeletonNet().save(tmp_path / "maps")
    SkeletonNet(joints=1, reads="silhouettes").save(tmp_path / "silhouettes")
    with pytest.raises(ComponentError) as error:
        JointRegression(weights=str(tmp_path / "maps"))
    assert str(error.value) == (
        "joint_regression needs a network that reads 'joints' (one joint's place per map, the mean of its softmax), and "
        f"the one in {tmp_path / 'maps'} reads 'maps'; train one with `rewardft drpose train-form --form joints`."
    )
    with pytest.raises(ComponentError) as error:
        PoseScore(weights=str(tmp_path / "silhouettes"))
    assert str(error.value) == (
        "pose_score needs a network that reads 'maps' (one skeleton map per joint), and "
        f"the one in {tmp_path / 'silhouettes'} reads 'silhouettes'; train one with `rewardft drpose train-skeleton`."
    )


def test_wrong_latents_and_options_are_explained(untrained):
    batch = Batch(("a", "b"), (0, 0), {})
    name = untrained.name
    with pytest.raises(ComponentError) as error:
        untrained(make_rollout(torch.zeros(2, 7, 8, 16, 16), batch), batch)
    assert (
        str(error.value)
        == f"{name} expects 12 or 14 rows of latents per sample, got x0 of (2, 7, 8, 16, 16)"
    )
    with pytest.raises(ComponentError) as error:
        untrained(make_rollout(torch.zeros(2, 12, 4, 16, 16), batch), batch)
    assert str(error.value) == (
        f"{name}'s network reads latents of 8 channels, the model gives 4; give the `weights` of a network trained on "
        f"this model's autoencoder (rewardft drpose {untrained.command})."
    )
    with pytest.raises(ComponentError) as error:
        JointRegression(scale=0.0)
    assert str(error.value) == "joint_regression: expected scale > 0, got 0.0"


def test_missing_weights_are_named(tmp_path):
    with pytest.raises(ComponentError) as error:
        SilhouetteScore(weights=str(tmp_path / "none"))
    assert str(error.value) == (
        f"expected a folder with the silhouettes weights, got {str(tmp_path / 'none')!r}, which is not a folder. "
        'Give the path of a saved folder, or "shipped".'
    )
