"""Joints, twists and meshes: round trips, scipy's rotations, the real body model, gradients."""

import numpy as np
import pytest
import torch
from rewardft_plugins.adhmr.body import (
    axis_angles_of,
    chosen_body,
    chosen_skeleton,
    flesh_of,
    mesh_of,
    sampled_flesh,
    vertices_of,
)
from rewardft_plugins.adhmr.space import SIZE, pack_rotations, unpack
from rewardft_plugins.humans.motion import shipped_clips
from rewardft_plugins.humans.poses.errors import aligned_distance, mean_distance, spread
from rewardft_plugins.humans.poses.kinematics import (
    joints_of,
    rotation_matrices,
    rotations_of,
    shortest_rotation,
    twists_of,
)
from rewardft_plugins.humans.poses.mirror import POSE_PARTNERS, mirror_poses
from scipy.spatial.transform import Rotation

LEFT_AND_RIGHT = {23: 24, 24: 23, 25: 26, 26: 25} | dict(enumerate(POSE_PARTNERS)) | {22: 22}


def some_poses(count=12):
    poses = np.concatenate([clip.poses for clip in shipped_clips()])
    return torch.from_numpy(poses[:: len(poses) // count][:count].copy())


def test_rotation_matrices_are_scipys():
    vectors = torch.randn(7, 3, generator=torch.Generator().manual_seed(0)).double()
    expected = Rotation.from_rotvec(vectors.numpy()).as_matrix()
    assert np.allclose(rotation_matrices(vectors).numpy(), expected, atol=1e-12)


def test_joints_are_the_bodys():
    """Forward kinematics against the smplx package, for the 22 joints that both have."""
    poses = some_poses()
    joints = joints_of(rotation_matrices(poses), chosen_skeleton())
    _, expected = chosen_body().pose(poses.numpy())
    expected = expected - expected[:, :1]
    assert np.abs(joints[:, :22].numpy() - expected[:, :22]).max() < 1e-5


def test_joints_and_twists_say_the_pose_to_a_micrometre():
    skeleton = chosen_skeleton().double()
    rotations = rotation_matrices(some_poses(40).double())
    joints, twists = joints_of(rotations, skeleton), twists_of(rotations, skeleton)
    again = rotations_of(joints, twists, skeleton)
    assert (joints_of(again, skeleton) - joints).abs().max() < 1e-6
    assert (again - rotations).abs().max() < 1e-4  # exact away from bones that bend by 180 degrees
    assert (twists.norm(dim=-1) - 1).abs().max() < 1e-6


def test_the_mesh_of_a_decoded_pose_is_that_of_the_pose():
    poses = some_poses(6)
    found = vertices_of(unpack(pack_rotations(poses, chosen_skeleton())))
    vertices, joints = chosen_body().pose(poses.numpy())
    assert np.abs(found.numpy() - (vertices - joints[:, :1])).max() < 1e-4
    some = unpack(torch.randn(2, 3, SIZE, generator=torch.Generator().manual_seed(0)))
    assert axis_angles_of(some).shape == (2, 3, 22, 3)


def test_sampled_flesh_is_the_mesh_of_the_open_body():
    """It has no pose blend shapes, so linear blend skinning is all there is."""
    pose = unpack(pack_rotations(some_poses(6), chosen_skeleton()))
    flesh = sampled_flesh()
    every = len(chosen_body().template) // 300
    assert torch.allclose(flesh_of(pose, flesh), vertices_of(pose)[:, ::every], atol=1e-4)
    assert torch.allclose(mesh_of(pose), vertices_of(pose), atol=2e-5)  # all of them


def test_gradients_reach_joints_and_twists():
    skeleton = chosen_skeleton().double()
    rotations = rotation_matrices(some_poses(3).double())
    joints = joints_of(rotations, skeleton).requires_grad_(True)
    twists = twists_of(rotations, skeleton).requires_grad_(True)

    def turned(joints, twists):
        return rotations_of(joints, twists, skeleton)[:, 4:]

    assert torch.autograd.gradcheck(turned, (joints, twists), atol=1e-4, fast_mode=True)


def test_the_shortest_rotation_is_the_shortest():
    g = torch.Generator().manual_seed(1)
    a, b = torch.nn.functional.normalize(torch.randn(2, 9, 3, generator=g).double(), dim=-1)
    turn = shortest_rotation(a, b)
    assert torch.allclose((turn @ a[..., None])[..., 0], b, atol=1e-12)
    angle = Rotation.from_matrix(turn.numpy()).magnitude()
    assert np.allclose(angle, np.arccos((a * b).sum(-1).numpy()), atol=1e-9)


def test_the_mirrored_pose_is_the_mirror_image():
    """But for the two millimetres by which the open body's sides differ."""
    poses = some_poses().numpy()
    skeleton = chosen_skeleton()
    one = joints_of(rotation_matrices(torch.from_numpy(poses)), skeleton)
    other = joints_of(rotation_matrices(torch.from_numpy(mirror_poses(poses))), skeleton)
    partners = [LEFT_AND_RIGHT[joint] for joint in range(27)]
    assert (other[:, partners] * torch.tensor([-1.0, 1, 1]) - one).abs().max() < 3e-3


def test_errors_in_closed_form():
    g = torch.Generator().manual_seed(2)
    truth = torch.randn(4, 27, 3, generator=g).double()
    moved = truth + torch.tensor([0.003, 0.0, 0.004]).double()
    assert mean_distance(moved, truth).tolist() == pytest.approx([5.0] * 4)
    turn = torch.from_numpy(Rotation.from_rotvec([0.3, -1.0, 2.0]).as_matrix())
    assert aligned_distance(1.7 * moved @ turn, truth).abs().max() < 1e-9
    mirrored = truth * torch.tensor([-1.0, 1, 1]).double()
    assert aligned_distance(mirrored, truth).min() > 100  # a reflection is no alignment
    noisy = truth + 0.1 * torch.randn(truth.shape, generator=g).double()
    assert (aligned_distance(noisy, truth) < mean_distance(noisy, truth)).all()


def test_spread_is_the_standard_deviation():
    points = torch.zeros(1, 2, 3, 3)
    points[0, 0, :, 0], points[0, 1, :, 0] = 0.01, -0.01
    assert spread(points).tolist() == pytest.approx([10.0])
