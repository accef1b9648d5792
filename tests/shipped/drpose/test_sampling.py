"""Farthest-point sampling, neighbours, headings and the diversity statistic."""

import numpy as np
import pytest
from rewardft_plugins.humans.sampling import (
    diversity,
    farthest_points,
    turn,
    with_neighbours,
    without_heading,
)
from scipy.spatial.transform import Rotation


def test_farthest_points_equal_brute_force():
    points = np.random.default_rng(0).normal(size=(60, 23, 3)).astype(np.float32)
    flat = points.reshape(60, -1).astype(np.float64)
    chosen = [7]
    while len(chosen) < 20:
        nearest = [min(np.sum((flat[i] - flat[j]) ** 2) for j in chosen) for i in range(60)]
        chosen.append(int(np.argmax(nearest)))
    assert farthest_points(points, 20, start=7).tolist() == chosen


def test_every_point_is_taken_once_even_among_duplicates():
    assert sorted(farthest_points(np.zeros((5, 1, 3)), 99).tolist()) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("frame", "frames", "count", "expected"),
    [
        (50, 100, 10, range(46, 56)),
        (0, 100, 10, range(10)),
        (99, 100, 10, range(90, 100)),
        (3, 5, 10, range(5)),
    ],
)
def test_neighbours_stay_inside_the_clip(frame, frames, count, expected):
    assert with_neighbours(frame, frames, count) == expected


def test_heading_is_removed_and_tilt_kept():
    poses = np.zeros((40, 22, 3), np.float32)
    tilt = Rotation.from_euler("x", 50, degrees=True)
    poses[:, 0] = (
        Rotation.from_euler("y", np.linspace(-170, 170, 40)[:, None], degrees=True) * tilt
    ).as_rotvec()
    np.testing.assert_allclose(
        without_heading(poses)[:, 0], np.tile(tilt.as_rotvec(), (40, 1)), atol=1e-6
    )


def test_turn_undoes_itself():
    poses = np.random.default_rng(0).normal(size=(6, 22, 3)).astype(np.float32)
    angles = np.array([0, 30, 90, 180, 270, 359])
    np.testing.assert_allclose(
        Rotation.from_rotvec(turn(turn(poses, angles), -angles)[:, 0]).as_matrix(),
        Rotation.from_rotvec(poses[:, 0]).as_matrix(),
        atol=1e-6,
    )
    forward = Rotation.from_rotvec(
        turn(np.zeros((1, 22, 3), np.float32), np.array([90]))[0, 0]
    ).apply([0, 0, 1])
    np.testing.assert_allclose(forward, [1, 0, 0], atol=1e-6)


def test_diversity_is_the_spread_of_root_relative_joints():
    rng = np.random.default_rng(0)
    joints = np.zeros((20_000, 23, 3))
    joints[:, 1:] = rng.normal(scale=0.2, size=(20_000, 22, 3))
    joints += rng.normal(size=(20_000, 1, 3))  # where the person stands does not count
    assert diversity(joints) == pytest.approx(0.2, rel=0.01)
