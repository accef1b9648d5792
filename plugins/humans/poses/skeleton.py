"""The joints of the diffusion variable: 22 body joints of SMPL-X and five leaves, so that every
bone has an end.

The paper (2505.10250) has 29 joints of SMPL with leaves and 23 twists; SMPL-X has no hand joint in
its body, which gives 27 and 20. The leaves are the top of the head, the middle fingers' knuckles
and the toes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from rewardft_plugins.humans.body import Body, load_body
from torch import Tensor
from torch.nn.functional import normalize

BODY_JOINTS = 22
PARENTS = (
    -1,
    0,
    0,
    0,
    1,
    2,
    3,
    4,
    5,
    6,
    7,
    8,
    9,
    9,
    9,
    12,
    13,
    14,
    16,
    17,
    18,
    19,
    15,
    20,
    21,
    10,
    11,
)
JOINTS = len(PARENTS)

END_OF_BONE = {
    1: 4,
    2: 5,
    3: 6,
    4: 7,
    5: 8,
    6: 9,
    7: 10,
    8: 11,
    10: 25,
    11: 26,
    12: 15,
    13: 16,
    14: 17,
    15: 22,
    16: 18,
    17: 19,
    18: 20,
    19: 21,
    20: 23,
    21: 24,
}
"""Joints with one bone: the joint at its other end. They turn by a swing, which the joints
determine, and a twist."""

TWISTED = tuple(END_OF_BONE)
TWISTS = len(TWISTED)
RIGID = {0: (1, 2, 3), 9: (12, 13, 14)}
"""Joints with three bones, the pelvis and the chest: the ends of the three determine their whole
rotation."""

_HEAD_TOP = (0.0, 0.12, 0.0)  # metres above the middle of the eyes
_TOES = (0.0, 0.0, 0.08)  # metres before the ball of the foot
_EYES, _KNUCKLES, _FEET = (23, 24), (28, 43), (10, 11)  # joints of SMPL-X


@dataclass(frozen=True)
class Skeleton:
    """Rest pose of one body shape, y up, facing +z, metres.

    offsets: `(27, 3)` from each joint's parent.
    axes: `(20, 3)` unit vectors along the bones of `TWISTED`.
    """

    offsets: Tensor
    axes: Tensor

    def double(self) -> Skeleton:
        """In float64."""
        return Skeleton(self.offsets.double(), self.axes.double())

    def to(self, device: torch.device) -> Skeleton:
        """On a device."""
        return Skeleton(self.offsets.to(device), self.axes.to(device))


def skeleton_of(body: Body) -> Skeleton:
    """The mean shape's skeleton."""
    # Eyes and knuckles are joints of SMPL-X, so leaves fit any body of its layout.
    rest = torch.from_numpy(np.asarray(body.rest_joints_all)).float()
    head = rest[list(_EYES)].mean(0) + torch.tensor(_HEAD_TOP)
    toes = rest[list(_FEET)] + torch.tensor(_TOES)
    joints = torch.cat([rest[:BODY_JOINTS], head[None], rest[list(_KNUCKLES)], toes])
    # The pelvis is its own parent here, so its offset is 0.
    parents = torch.tensor([max(parent, 0) for parent in PARENTS])
    offsets = joints - joints[parents]
    return Skeleton(offsets, normalize(offsets[list(END_OF_BONE.values())], dim=-1))


@lru_cache(maxsize=1)
def shipped_skeleton() -> Skeleton:
    """The skeleton of the body that SMPLX_MODELS names, else of the shipped one."""
    return skeleton_of(load_body(None))


# Kept for each device: decoding is in the loop, and a copy would make the host wait.
@lru_cache(maxsize=8)
def skeleton_on(device: torch.device) -> Skeleton:
    """`shipped_skeleton` on a device."""
    return shipped_skeleton().to(device)
