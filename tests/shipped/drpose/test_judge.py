"""The judge: its metrics by hand-made cases, triangulation, and what the shipped network says of rendered truth."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from rewardft_plugins.drpose.judges.pose_judge import (
    JudgeNet,
    PoseJudge,
    gradient_energy,
    mpjpe_mm,
    part_iou,
    sharpness,
    silhouette_iou,
    silhouettes,
    triangulate,
)
from rewardft_plugins.drpose.weights import ASSETS
from rewardft_plugins.humans.camera import project
from torch.nn.functional import avg_pool2d

from rewardft.errors import ComponentError
from rewardft.types import Batch


def white(count=1):
    return torch.ones(count, 6, 3, 64, 64)


def test_the_background_is_white_and_hardly_any_normal_is():
    normals = torch.randn(10_000, 3)
    painted = (normals / normals.norm(dim=-1, keepdim=True) + 1) / 2
    assert silhouettes(painted[:, :, None, None]).float().mean() > 0.9
    assert not silhouettes(torch.ones(3, 2, 2)).any()


def test_silhouette_iou_of_shifted_boxes():
    normals, labels = white(), torch.zeros(1, 6, 64, 64, dtype=torch.uint8)
    normals[..., :32, :32] = 0.5
    labels[..., :32, 16:48] = 3
    assert silhouette_iou(normals, labels).tolist() == pytest.approx([1 / 3])
    assert silhouette_iou(white(), labels).tolist() == [0.0]
    labels[:, 0] = 0
    labels[:, 0, :32, :32] = 1  # one of six views right
    assert silhouette_iou(normals, labels).tolist() == pytest.approx([(1 + 5 / 3) / 6])


def test_part_iou_counts_shown_parts_only():
    labels = torch.zeros(2, 6, 64, 64, dtype=torch.uint8)
    labels[..., :10, :10], labels[..., 20:30, :10] = 1, 2
    found = labels.clone().long()
    found[1][found[1] == 2] = 5  # part 2 taken for another, which the truth does not show
    assert part_iou(found, labels).tolist() == pytest.approx([1.0, 0.5])


def test_triangulation_inverts_the_projection_into_the_stored_views():
    joints = torch.randn(3, 23, 3) * 0.4
    places = torch.from_numpy(project(joints.numpy()))
    weights = torch.rand(3, 6, 23) + 0.05
    torch.testing.assert_close(triangulate(places, weights), joints, rtol=0, atol=1e-5)


def test_a_view_without_weight_does_not_count():
    joints = torch.randn(1, 23, 3) * 0.4
    places = torch.from_numpy(project(joints.numpy()))
    places[:, 2] = 0.9
    weights = torch.ones(1, 6, 23)
    assert (triangulate(places, weights) - joints).abs().max() > 0.05
    weights[:, 2] = 0
    torch.testing.assert_close(triangulate(places, weights), joints, rtol=0, atol=1e-5)


def test_mpjpe_is_pelvis_to_pelvis_in_millimetres():
    truth = torch.randn(2, 23, 3)
    found = truth + torch.tensor([1.0, 2.0, 3.0])
    assert mpjpe_mm(found, truth).max() < 1e-2
    found[1, 5] += torch.tensor([0.0, 0.23, 0.0])
    assert mpjpe_mm(found, truth).tolist() == pytest.approx([0.0, 10.0], abs=1e-2)


def test_sharpness_is_one_for_the_truth_and_falls_with_blur_and_rises_with_speckles():
    truth = white(2)
    truth[..., 20:40, 20:40] = 0.3
    blurred = avg_pool2d(truth.flatten(0, 1), 3, 1, 1, count_include_pad=False).view_as(truth)
    assert sharpness(truth, truth).tolist() == pytest.approx([1.0, 1.0])
    assert (sharpness(blurred, truth) < 0.5).all()
    speckled = truth + 0.1 * torch.randn(truth.shape)
    assert (sharpness(speckled, truth) > 1.2).all()


def test_the_gradient_energy_by_hand():
    step = torch.zeros(1, 2, 2)
    step[0, 0, 0] = 3.0
    assert gradient_energy(step).tolist() == [9.0]  # one of two differences along each axis


@pytest.fixture
def judge(tmp_path):
    torch.manual_seed(0)
    JudgeNet(width=8).save(tmp_path)
    return PoseJudge(weights=str(tmp_path))


def batch(count):
    columns = {
        "labels": torch.zeros(count, 6, 64, 64, dtype=torch.uint8),
        "joints": torch.randn(count, 23, 3),
        "normals": torch.rand(count, 6, 3, 64, 64),
    }
    columns["labels"][:, :, 20:40, 20:40] = 2
    return Batch(tuple(map(str, range(count))), (0,) * count, columns)


def test_tables_hold_every_sample_whatever_the_batches(judge):
    pixels = torch.rand(3, 12, 3, 64, 64)
    whole = batch(3)
    judge.update(SimpleNamespace(decoded=pixels), whole)
    together = judge.compute()
    judge.reset()
    assert {name: tuple(table.shape) for name, table in judge.compute().items()} == dict.fromkeys(
        together, (0,)
    )
    for i in range(3):
        judge.update(SimpleNamespace(decoded=pixels[i : i + 1]), whole.select(slice(i, i + 1)))
    alone = judge.compute()
    assert sorted(alone) == ["iou", "mpjpe_mm", "part_iou", "sharpness"]
    for name in alone:
        torch.testing.assert_close(alone[name], together[name], rtol=1e-4, atol=1e-3)


def test_only_the_normals_of_body_views_are_judged(judge):
    pixels = torch.rand(1, 14, 3, 64, 64)
    judge.update(SimpleNamespace(decoded=pixels), batch(1))
    pixels = pixels.clone()
    pixels[:, 6:] = 0.0  # the face and all colours
    judge.update(SimpleNamespace(decoded=pixels), batch(1))
    assert judge.compute()["iou"][0] == judge.compute()["iou"][1]


def test_batches_without_targets_are_explained(judge):
    with pytest.raises(ComponentError) as error:
        judge.update(
            SimpleNamespace(decoded=white(1)),
            Batch(("a",), (0,), {"joints": torch.zeros(1, 23, 3)}),
        )
    assert (
        str(error.value)
        == "pose_judge needs the column 'labels': give the data set `targets: true`"
    )


@pytest.mark.skipif(not (ASSETS / "judge").is_dir(), reason="the shipped judge network is not here")
def test_the_shipped_judge_finds_the_joints_of_rendered_bodies(rendered_bodies):
    normals, labels, joints = (rendered_bodies[name] for name in ("normals", "labels", "joints"))
    tables = PoseJudge().judge(normals, labels, joints)
    assert tables["iou"].min() > 0.8
    assert tables["mpjpe_mm"].mean() < 80
    assert tables["part_iou"].mean() > 0.5
    upside_down = PoseJudge().judge(normals.flip(-2), labels, joints)
    assert (upside_down["mpjpe_mm"] > 2 * tables["mpjpe_mm"]).all()
    assert np.all(np.asarray(upside_down["part_iou"]) < 0.3)
