"""The diffusion variable: a pose as one vector of joints and twists."""

from __future__ import annotations

from typing import TypedDict

import torch
from rewardft_plugins.humans.poses.kinematics import joints_of, rotation_matrices, twists_of
from rewardft_plugins.humans.poses.skeleton import JOINTS, TWISTS, Skeleton
from torch import Tensor
from torch.nn.functional import normalize, pad

# One unit of the variable: joints then have a standard deviation of about 1, as twists do
METRES = 0.4
PLACES = 3 * (JOINTS - 1)  # the pelvis is the origin and has none
SIZE = PLACES + 2 * TWISTS
PARTS = {"joints": slice(0, PLACES), "twists": slice(PLACES, SIZE)}


class Pose(TypedDict):
    """What a sample decodes to: `joints` `(..., 27, 3)` in metres from the pelvis, `twists` `(...,
    20, 2)` unit vectors."""

    joints: Tensor
    twists: Tensor


def pack(joints: Tensor, twists: Tensor) -> Tensor:
    """Joints `(..., 27, 3)` and twists `(..., 20, 2)` as `(..., 118)`."""
    return torch.cat([joints[..., 1:, :].flatten(-2) / METRES, twists.flatten(-2)], dim=-1)


def unpack(x: Tensor) -> Pose:
    """`(..., 118)` as joints and twists, of whatever length these are."""
    joints = METRES * x[..., PARTS["joints"]].unflatten(-1, (JOINTS - 1, 3))
    twists = x[..., PARTS["twists"]].unflatten(-1, (TWISTS, 2))
    # A zero for the pelvis. Twists of any length are directions; eps guards the zero vector.
    return {"joints": pad(joints, (0, 0, 1, 0)), "twists": normalize(twists, dim=-1, eps=1e-6)}


def pack_rotations(poses: Tensor, skeleton: Skeleton) -> Tensor:
    """Axis-angle poses `(b, 22, 3)` as `(b, 118)`."""
    return pack_matrices(rotation_matrices(poses), skeleton)


def pack_matrices(rotations: Tensor, skeleton: Skeleton) -> Tensor:
    """Local rotations `(b, 22, 3, 3)` as `(b, 118)`."""
    return pack(joints_of(rotations, skeleton), twists_of(rotations, skeleton))
