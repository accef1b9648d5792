"""Posing a body with gradients: linear blend skinning in torch.

`Body.pose` goes through the package `smplx` and has no gradient. A fit needs one, and needs neither
hands nor face: their joints keep the rest pose here, so they move as the joint that they hang on,
and their skinning weights are added to its own. Equals `Body.pose`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from rewardft_plugins.humans.body import JOINTS, PARENTS, Body
from torch import Tensor

MOVING = 22  # SMPL-X body joints; the jaw, the eyes and the fingers keep the rest pose
_JAW, _HEAD = JOINTS.index("jaw"), JOINTS.index("head")


class SkinnedBody:
    """The vertices that faces use, and 23 joints, as functions of pose, shape and place.

    Attributes:
        faces: `(f, 3)` int64 into the vertices.
    """

    def __init__(self, body: Body) -> None:
        parts = body.skinning_arrays()
        self.faces = torch.from_numpy(body.faces).long()
        self._rest, self._shapes, self._bends = parts.vertices, parts.shapes, parts.bends
        self._joints, self._joint_shapes = parts.joints, parts.joint_shapes
        # Once: the joints that do not move fold into those that do.
        self._weights = _by_moving_joint(parts.weights, parts.parents)

    def pose(self, poses: Tensor, betas: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """Pose the body.

        Args:
            poses: `(b, 22, 3)` axis-angle in radians, global orientation first.
            betas: `(b, 10)` shape coefficients in standard deviations.
            places: `(b, 3)` metres, added to everything.

        Returns:
            vertices `(b, v, 3)` and joints `(b, 23, 3)`, metres.
        """
        rest = self._rest + torch.einsum("vck,bk->bvc", self._shapes, betas)
        joints = self._joints + torch.einsum("jck,bk->bjc", self._joint_shapes, betas)
        turns = rotations(poses)
        if self._bends is not None:
            # Pose blend shapes go by R - I, which is 0 at rest.
            feature = (turns[:, 1:] - torch.eye(3)).flatten(1)
            rest = rest + torch.einsum("bp,pvc->bvc", feature, self._bends)
        # (b, 22, 3, 3) and (b, 23, 3).
        turned, placed = _chain(turns, joints)
        # A joint's transform is x -> R (x - rest) + placed, so its translation is placed - R rest.
        shift = placed[:, :MOVING] - (turned @ joints[:, :MOVING, :, None])[..., 0]
        # (b, v, 3, 3): each vertex turns by the weighted mean of its joints' rotations.
        matrices = torch.einsum("vj,bjac->bvac", self._weights, turned)
        vertices = (matrices @ rest[..., None])[..., 0] + self._weights @ shift
        return vertices + places[:, None], placed + places[:, None]


def rotations(vectors: Tensor) -> Tensor:
    """Axis-angle `(..., 3)` in radians -> matrices `(..., 3, 3)`, by Rodrigues' formula.

    The small constant keeps the gradient finite at rest.
    """
    angle = (vectors.square().sum(-1, keepdim=True) + 1e-12).sqrt()
    x, y, z = (vectors / angle).unbind(-1)
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1).unflatten(-1, (3, 3))
    sine, cosine = angle.sin()[..., None], angle.cos()[..., None]
    return torch.eye(3, dtype=vectors.dtype) + sine * cross + (1 - cosine) * cross @ cross


def vertex_normals(vertices: Tensor, faces: Tensor) -> Tensor:
    """Area-weighted unit normals `(b, v, 3)` of vertices `(b, v, 3)`; faces `(f, 3)` int64."""
    a, b, c = (vertices[:, faces[:, corner]] for corner in range(3))
    areas = torch.linalg.cross(b - a, c - a)
    normals = torch.zeros_like(vertices)
    for corner in range(3):
        normals = normals.index_add(1, faces[:, corner], areas)
    return F.normalize(normals, dim=-1, eps=1e-8)


def _chain(turns: Tensor, joints: Tensor) -> tuple[Tensor, Tensor]:
    """Global rotations `(b, 22, 3, 3)` and joints `(b, 23, 3)` by forward kinematics."""
    turned, placed = [turns[:, 0]], [joints[:, 0]]
    for joint in range(1, MOVING):
        parent = PARENTS[joint]
        bone = (joints[:, joint] - joints[:, parent])[..., None]
        placed.append(placed[parent] + (turned[parent] @ bone)[..., 0])
        turned.append(turned[parent] @ turns[:, joint])
    # The jaw keeps its rest pose and moves with the head.
    jaw = (joints[:, _JAW] - joints[:, _HEAD])[..., None]
    placed.append(placed[_HEAD] + (turned[_HEAD] @ jaw)[..., 0])
    return torch.stack(turned, dim=1), torch.stack(placed, dim=1)


def _by_moving_joint(weights: Tensor, parents: list[int]) -> Tensor:
    """Skinning weights `(v, 55)` of all joints -> `(v, 22)` of those that move."""
    owner = list(range(len(parents)))
    for joint, parent in enumerate(parents):
        # Parents stand before their children, so a finger finds the wrist that its hand hangs on.
        owner[joint] = joint if joint < MOVING else owner[parent]
    return torch.zeros(len(weights), MOVING).index_add(1, torch.tensor(owner), weights)
