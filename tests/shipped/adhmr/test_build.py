"""Detection and data sets: a detector that knows the truth, turned pictures, and what is
written."""

import numpy as np
import pytest
from rewardft_plugins.adhmr.build import (
    Amounts,
    build_dataset,
    leaning,
    plan_training,
    plan_validation,
    upward,
)
from rewardft_plugins.adhmr.dataset import PosePictures
from rewardft_plugins.adhmr.detector import detect, torso_lean, turn_back
from rewardft_plugins.adhmr.pictures import SIDE, take, turn_to_camera
from rewardft_plugins.humans.blazepose import Landmarks
from rewardft_plugins.humans.body import load_body
from rewardft_plugins.humans.motion import shipped_clips
from rewardft_plugins.humans.poses.pictures import read_pictures

from rewardft.errors import DataError


class RedDot:
    """A detector of pictures with a red and a blue dot: shoulders at the red one, hips at the blue
    one."""

    def __init__(self):
        self.leans = []

    def find(self, picture):
        places = np.zeros((33, 3), np.float32)
        for landmarks, channel in (((11, 12), 0), ((23, 24), 2)):
            shown = picture[..., channel] - picture[..., 1] > 0.3
            rows, columns = np.nonzero(shown)
            places[list(landmarks), :2] = [columns.mean() + 0.5, rows.mean() + 0.5]
        world = np.column_stack([places[:, :2] / 100, np.zeros(33)]).astype(np.float32)
        self.leans.append(torso_lean(places))
        return Landmarks(places, np.full(33, 0.75, np.float32), world)


def dots(shoulders, hips):
    picture = np.full((SIDE, SIDE, 3), 128, np.uint8)
    for (x, y), colour in ((shoulders, (255, 0, 0)), (hips, (0, 0, 255))):
        picture[y - 4 : y + 4, x - 4 : x + 4] = colour
    return picture


@pytest.mark.parametrize("shoulders", [(128, 60), (200, 128), (60, 128), (128, 200), (180, 180)])
def test_a_tilted_person_is_turned_upright_and_found_where_it_is(shoulders):
    network = RedDot()
    found = detect(dots(shoulders, (128, 128)), network)
    assert abs(network.leans[-1]) < 20  # upright in the last look
    x, y = found.landmarks[11, :2]
    assert x == pytest.approx((shoulders[0] - 128) / 128, abs=0.02)
    assert y == pytest.approx(-(shoulders[1] - 128) / 128, abs=0.02)  # y up
    assert found.landmarks[0, 3] == 0.75
    assert found.world[11, 1] - found.world[23, 1] == pytest.approx(
        (128 - shoulders[1]) / 100, abs=0.03
    )
    upright = shoulders == (128, 60)
    assert len(network.leans) == (1 if upright else 2)
    assert (found.turned[0] == 1.0) == upright


def test_turning_back_undoes_turning():
    g = np.random.default_rng(0)
    seen = Landmarks(*(g.normal(size=s).astype(np.float32) for s in ((33, 3), (33,), (33, 3))))
    there = turn_back(turn_back(seen, 70.0), -70.0)
    assert np.allclose(there.places, seen.places, atol=1e-4)
    assert np.allclose(there.world, seen.world, atol=1e-5)


class Centre:
    """Everything in the middle; enough to build a data set."""

    def find(self, picture):
        places = np.full((33, 3), SIDE / 2, np.float32)
        places[[11, 12], 1] = 40
        return Landmarks(places, np.ones(33, np.float32), np.zeros((33, 3), np.float32))


def test_splits_are_by_clip_and_groups_by_tilt():
    clips = shipped_clips()
    train = plan_training(clips, Amounts(40, 40, 40, 1), seed=0)
    val = plan_validation(clips, Amounts(val=30), seed=0)
    held_out = {clip.name for clip in clips if clip.split == "val"}
    assert set(val.clips) <= held_out and not set(train.clips) & held_out
    assert train.groups == ["plain"] * 40 + ["tilted"] * 80 and len(set(train.ids)) == 120
    assert (upward(train.poses[:40]) > 0.6).all() and leaning(train.poses[40:80]).all()
    plain = {clip.name for clip in clips if clip.plain}
    assert {clip for clip, group in zip(val.clips, val.groups) if group == "plain"} <= plain
    again = plan_training(clips, Amounts(40, 40, 40, 1), seed=0)
    assert np.array_equal(again.poses, train.poses) and again.ids == train.ids


def test_a_data_set_is_built_whole_and_read_again(tmp_path):
    out = tmp_path / "set"
    body = load_body("anny_lowpoly")
    manifest = build_dataset(out, shipped_clips(), body, Centre(), Amounts(4, 3, 2, 2), seed=1)
    assert manifest["splits"]["train"]["groups"] == {"plain": 4, "tilted": 5}
    data = PosePictures(str(out), "train", group="tilted")
    assert len(data) == 5 and data[0]["landmarks"][0].tolist() == pytest.approx([0, 0, -1.0, 1.0])
    assert PosePictures(str(out), "train", mirrored=True)[13]["id"].endswith("/mirrored")
    pictures = read_pictures(out, "val")
    assert len(pictures) == 4 and next(iter(pictures.values())).shape == (128, 128, 3)
    with pytest.raises(DataError, match="exists; give a folder that does not exist yet"):
        build_dataset(out, shipped_clips(), body, Centre(), Amounts(1, 1, 0, 1))
    with pytest.raises(DataError, match=r"^the clips have no tilted frames; ask for 0 of them"):
        upright = [clip for clip in shipped_clips() if clip.name == "dm_walk"]
        build_dataset(tmp_path / "b", upright, body, Centre(), Amounts(1, 1, 0, 1))
    assert not (tmp_path / "b").exists()


def test_a_picture_follows_from_its_id_and_shows_the_body_where_it_says():
    body = load_body("anny_lowpoly")
    poses = np.zeros((2, 22, 3), np.float32)
    turned = turn_to_camera(poses, ["a", "b"], 0)
    one, other = take(body, turned, ["a", "b"], 0)
    (again,) = take(body, turn_to_camera(poses[1:], ["b"], 0), ["b"], 0)
    assert np.array_equal(other.picture, again.picture)
    assert not np.array_equal(one.picture, other.picture)
    _, joints = body.pose(turned[1:])
    head = (joints[0, 15] - joints[0, 0] - other.centre)[:2] / 1.2
    column, row = (int((v + 1) / 2 * SIDE) for v in (head[0], -head[1]))
    background = other.picture[row, 2].astype(int)
    assert np.abs(other.picture[row, column].astype(int) - background).max() > 10
