"""Rotations to joints and twists, and back by analytic inverse kinematics (HybrIK: Li et al. 2021,
2011.14672).

Rotations are local, `(b, 22, 3, 3)`. Joints are relative to the pelvis, `(b, 27, 3)` in metres, the
pelvis first. Twists are the cosine and sine of the turn about each bone, `(b, 20, 2)`. All of it
is differentiable.
"""

from __future__ import annotations

import torch
from rewardft_plugins.humans.poses.skeleton import (
    BODY_JOINTS,
    END_OF_BONE,
    PARENTS,
    RIGID,
    TWISTED,
    Skeleton,
)
from torch import Tensor
from torch.nn.functional import normalize


def joints_of(rotations: Tensor, skeleton: Skeleton) -> Tensor:
    """Forward kinematics."""
    turned, places = chain(rotations, skeleton)
    leaves = [
        places[:, parent] + turned[:, parent] @ skeleton.offsets[joint]
        for joint, parent in enumerate(PARENTS)
        if joint >= BODY_JOINTS
    ]
    return torch.cat([places, torch.stack(leaves, dim=1)], dim=1)


def chain(rotations: Tensor, skeleton: Skeleton) -> tuple[Tensor, Tensor]:
    """Rotations of the 22 body joints in the root's frame `(b, 22, 3, 3)`, and their places
    `(b, 22, 3)`."""
    turned = [rotations[:, 0]]
    places = [torch.zeros_like(rotations[:, 0, :, 0])]
    for joint in range(1, BODY_JOINTS):
        parent = PARENTS[joint]
        places.append(places[parent] + turned[parent] @ skeleton.offsets[joint])
        turned.append(turned[parent] @ rotations[:, joint])
    return torch.stack(turned, dim=1), torch.stack(places, dim=1)


def twists_of(rotations: Tensor, skeleton: Skeleton) -> Tensor:
    """The twist of each bone: what its rotation does beyond swinging it."""
    axes = skeleton.axes.expand(len(rotations), -1, -1)
    turns = rotations[:, list(TWISTED)]
    # (b, 20, 3, 3): what takes each bone from its rest direction to where it points.
    swing = shortest_rotation(axes, (turns @ axes[..., None])[..., 0])
    twist = swing.transpose(-1, -2) @ turns
    # The antisymmetric part of a rotation is its axis times the sine, its trace 1 + 2 cosine.
    skew = torch.stack(
        [
            twist[..., 2, 1] - twist[..., 1, 2],
            twist[..., 0, 2] - twist[..., 2, 0],
            twist[..., 1, 0] - twist[..., 0, 1],
        ],
        dim=-1,
    )
    sine = (skew * axes).sum(-1) / 2
    cosine = (twist.diagonal(dim1=-2, dim2=-1).sum(-1) - 1) / 2
    return torch.stack([cosine, sine], dim=-1)


def rotations_of(joints: Tensor, twists: Tensor, skeleton: Skeleton) -> Tensor:
    """Inverse kinematics: from the root outwards, in the frame of each parent.

    Bones of a length that the body does not have are followed in direction alone. Twists need not
    be normalised.
    """
    unit = normalize(twists, dim=-1)
    turned: list[Tensor] = []
    local: list[Tensor] = []
    identity = torch.eye(3, dtype=joints.dtype, device=joints.device).expand(len(joints), 3, 3)
    for joint in range(BODY_JOINTS):
        # Parents come before their children, so the frame above is known.
        above = turned[PARENTS[joint]] if joint else identity
        if joint in RIGID:
            local.append(_rigid(joint, joints, above, skeleton))
        else:
            local.append(_swing_and_twist(joint, joints, unit, above, skeleton))
        turned.append(above @ local[-1])
    return torch.stack(local, dim=1)


def _rigid(joint: int, joints: Tensor, above: Tensor, skeleton: Skeleton) -> Tensor:
    ends = list(RIGID[joint])
    # Rows times a rotation: its inverse, into the frame of the parent.
    found = (joints[:, ends] - joints[:, joint, None]) @ above
    return fitted_rotation(skeleton.offsets[ends].expand_as(found), found)


def _swing_and_twist(
    joint: int, joints: Tensor, twists: Tensor, above: Tensor, skeleton: Skeleton
) -> Tensor:
    place = TWISTED.index(joint)
    bone = joints[:, END_OF_BONE[joint]] - joints[:, joint]
    direction = normalize((bone[:, None] @ above)[:, 0], dim=-1)
    axis = skeleton.axes[place].expand_as(direction)
    cosine, sine = twists[:, place].unbind(-1)
    return shortest_rotation(axis, direction) @ about_axis(axis, cosine, sine)


def shortest_rotation(start: Tensor, end: Tensor) -> Tensor:
    """The rotation by the smallest angle that takes unit vectors `start` to `end`, `(..., 3)` ->
    `(..., 3, 3)`."""
    cross = cross_matrix(torch.linalg.cross(start, end, dim=-1))
    cosine = (start * end).sum(-1)[..., None, None]
    identity = torch.eye(3, dtype=start.dtype, device=start.device)
    # Opposite vectors have no shortest rotation; the clamp keeps the gradient finite near them.
    return identity + cross + cross @ cross / (1 + cosine).clamp(min=1e-4)


def about_axis(axis: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rodrigues' formula; `axis` `(..., 3)` of unit length."""
    cross = cross_matrix(axis)
    identity = torch.eye(3, dtype=axis.dtype, device=axis.device)
    return (
        identity + sine[..., None, None] * cross + (1 - cosine)[..., None, None] * (cross @ cross)
    )


def rotation_matrices(vectors: Tensor) -> Tensor:
    """Axis-angle `(..., 3)` in radians -> `(..., 3, 3)`."""
    # No rotation has no axis; the clamp gives it one of length 0.
    angle = vectors.norm(dim=-1).clamp(min=1e-8)
    return about_axis(vectors / angle[..., None], angle.cos(), angle.sin())


def cross_matrix(vectors: Tensor) -> Tensor:
    """The matrices whose product with a vector is the cross product, `(..., 3)` -> `(..., 3,
    3)`."""
    x, y, z = vectors.unbind(-1)
    zero = torch.zeros_like(x)
    return torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1).unflatten(-1, (3, 3))


def fitted_rotation(start: Tensor, end: Tensor) -> Tensor:
    """The rotation that takes points `start` closest to `end` in least squares, `(..., n, 3)`
    (Kabsch 1976)."""
    u, _, vh = torch.linalg.svd(start.transpose(-1, -2) @ end)
    v = vh.transpose(-1, -2)
    # Without it the best fit may be a reflection.
    sign = torch.linalg.det(v @ u.transpose(-1, -2)).sign()
    last = torch.stack([torch.ones_like(sign), torch.ones_like(sign), sign], dim=-1)
    return v @ torch.diag_embed(last) @ u.transpose(-1, -2)
