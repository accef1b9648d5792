"""What evaluations keep of hypotheses, and how a report shows it."""

import re

import numpy as np
import pytest
from rewardft_plugins.adhmr.dataset import PosePictures
from rewardft_plugins.adhmr.figure import (
    Kept,
    figure_html,
    first_and_last,
    in_space,
    picture_row,
    read_kept,
    rows_shown,
)
from rewardft_plugins.adhmr.space import unpack
from rewardft_plugins.adhmr.sticks import RADIUS, TRUTH, green, sticks
from rewardft_plugins.humans.mesh import turntable
from rewardft_plugins.humans.poses.show import LEFT
from rewardft_plugins.humans.poses.skeleton import PARENTS
from rewardft_plugins.humans.viewer import rows_html


@pytest.fixture
def kept():
    data = PosePictures(split="val", limit=2)
    truth = np.stack([unpack(data[i]["pose"])["joints"].numpy() for i in (0, 2)])
    joints = truth[:, None] + np.random.default_rng(0).normal(0, 0.05, (2, 3, 27, 3))
    pictures = np.full((2, 128, 128, 3), 230, np.uint8)
    ids = np.array(["tilted/a", "plain/b"])
    return Kept(ids, pictures, np.zeros((2, 3), np.float32), joints.astype(np.float32), truth)


def test_bones_are_prisms_around_the_line_between_two_joints(kept):
    joints = kept.joints[0]
    mesh = sticks(joints)
    assert mesh.vertices.shape == (3 * 26 * 6, 3) and len(mesh.faces) == 3 * 26 * 6
    corners = mesh.vertices.reshape(3, 26, 2, 3, 3)
    ends = np.stack([joints[:, PARENTS[1:]], joints[:, 1:]], axis=2)
    assert np.allclose(corners.mean(3), ends, atol=1e-5)
    assert np.allclose(np.linalg.norm(corners - ends[:, :, :, None], axis=-1), RADIUS, atol=1e-5)
    a, b, c = (mesh.vertices[mesh.faces[:, i]] for i in range(3))
    outward = (a + b + c) / 3 - np.repeat(ends.mean(2).reshape(-1, 3), 6, axis=0)
    along = np.repeat((ends[:, :, 1] - ends[:, :, 0]).reshape(-1, 3), 6, axis=0)
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    outward -= (outward * along).sum(1, keepdims=True) * along
    assert (np.einsum("ij,ij->i", np.cross(b - a, c - a), outward) > 0).all()


def test_sides_have_their_colours_and_the_truth_its_own(kept):
    mesh = sticks(kept.joints[0])
    knee = slice(3 * 6, 4 * 6)  # joint 4, the left knee, is the end of the fourth bone
    assert np.allclose(mesh.colours[knee], np.array(LEFT) / 255)
    assert np.allclose(sticks(kept.truth[:1], green).colours, np.array(TRUTH) / 255)
    assert (turntable(mesh, 1, 96)[0] < 200).any()  # something is seen of it


def test_hypotheses_lie_over_the_person_in_the_picture(kept):
    """A joint in the middle of the picture when the picture's centre is that joint."""
    from dataclasses import replace

    wrist = kept.truth[0, 20]
    one = replace(kept, joints=kept.truth[:, None], centres=np.stack([wrist, wrist]))
    over = np.asarray(picture_row(one, 0)[1]).astype(int)
    assert np.abs(over[60:68, 60:68] - 230).max() > 50
    assert [cell.size for cell in picture_row(kept, 1)] == [(128, 128), (128, 128), (192, 192)]


def test_a_run_shows_its_first_and_last_evaluation(kept, tmp_path):
    folder = tmp_path / "samples"
    folder.mkdir()
    assert first_and_last(tmp_path) is None
    np.savez_compressed(folder / "hypotheses-00000000.npz", **vars(kept))
    assert first_and_last(tmp_path) is None  # nothing to compare it with
    np.savez_compressed(folder / "hypotheses-00000020.npz", **vars(kept))
    base, tuned = first_and_last(tmp_path)
    assert np.array_equal(base.joints, kept.joints) and tuned.ids.tolist() == kept.ids.tolist()
    assert read_kept(folder / "hypotheses-00000020.npz").truth.shape == (2, 27, 3)


def test_the_report_needs_no_network_and_escapes_names(kept):
    page = figure_html("a <b>", kept, kept) + rows_html(in_space("a <b>", kept, kept))
    assert not re.search(r"https?://|src=\"(?!data:)|href=", page)
    assert "a &lt;b&gt;" in page and "<b>" not in page
    assert page.count("<canvas") == 6 and page.count("truth") >= 2


def test_pictures_of_both_groups_are_shown_tilted_ones_first():
    data = PosePictures(split="val")
    ids = [data.split.ids[i] for i in data.rows[:12]] + [data.split.ids[i] for i in data.rows[-12:]]
    groups = [data.split.groups[row] for row in rows_shown(data.split, ids)]
    assert groups == ["tilted"] * 4 + ["plain"] * 2
