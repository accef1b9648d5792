"""A pose as one vector: 22 rotations by the first two columns of their matrices (Zhou et al. 2019,
1812.07035)."""

from __future__ import annotations

import torch
from rewardft_plugins.humans.poses.kinematics import joints_of, rotation_matrices
from rewardft_plugins.humans.poses.skeleton import BODY_JOINTS, skeleton_on
from torch import Tensor
from torch.nn.functional import normalize

SIZE = 6 * BODY_JOINTS


def pack(rotations: Tensor) -> Tensor:
    """Matrices `(b, 22, 3, 3)` as `(b, 132)`."""
    return rotations[..., :2].transpose(-1, -2).flatten(1)


def pack_axis_angle(poses: Tensor) -> Tensor:
    """Axis-angle `(b, 22, 3)` in radians as `(b, 132)`."""
    return pack(rotation_matrices(poses))


def unpack(x: Tensor) -> Tensor:
    """Any `(b, 132)` as rotation matrices `(b, 22, 3, 3)`: Gram-Schmidt on the two columns."""
    # (b, 22, 3) each.
    first, second = x.unflatten(1, (BODY_JOINTS, 2, 3)).unbind(2)
    # Continuous in the six numbers, unlike axis-angles, so a small error is a small rotation.
    x_axis = normalize(first, dim=-1)
    y_axis = normalize(second - (x_axis * second).sum(-1, keepdim=True) * x_axis, dim=-1)
    return torch.stack([x_axis, y_axis, torch.linalg.cross(x_axis, y_axis, dim=-1)], dim=-1)


def joints(x: Tensor) -> Tensor:
    """The mean shape's joints `(b, 27, 3)` in metres from the pelvis, of vectors `(b, 132)`."""
    skeleton = skeleton_on(x.device)
    return joints_of(unpack(x), skeleton.double() if x.dtype == torch.float64 else skeleton)
