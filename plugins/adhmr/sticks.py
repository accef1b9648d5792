"""Skeletons as meshes for the viewer: every bone is a thin prism."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from rewardft_plugins.humans.mesh import Mesh
from rewardft_plugins.humans.poses.show import colour
from rewardft_plugins.humans.poses.skeleton import JOINTS, PARENTS

Points = NDArray[np.float32]
Paint = Callable[[int], tuple[int, int, int]]

RADIUS = 0.008  # metres
TRUTH = (40, 140, 70)
_CORNERS = 3
_SIDES = [[i, (i + 1) % 3, 3 + i] for i in range(3)] + [
    [(i + 1) % 3, 3 + (i + 1) % 3, 3 + i] for i in range(3)
]


def sticks(joints: Points, paint: Paint = colour) -> Mesh:
    """One mesh of skeletons `(m, 27, 3)`, metres; each bone in the colour of the joint at its
    end."""
    starts = joints[:, PARENTS[1:]].reshape(-1, 3)
    ends = joints[:, 1:].reshape(-1, 3)
    first, second = across(ends - starts)
    angles = 2 * np.pi * np.arange(_CORNERS) / _CORNERS
    # (3, bones, 3): three corners around each end.
    ring = RADIUS * (np.cos(angles)[:, None, None] * first + np.sin(angles)[:, None, None] * second)
    corners = np.concatenate([starts + ring, ends + ring]).swapaxes(0, 1)
    faces = np.arange(len(starts))[:, None, None] * 2 * _CORNERS + np.array(_SIDES)
    painted = np.array([paint(joint) for joint in range(1, JOINTS)], np.float32)
    painted /= 255  # in place: a quotient would count as float64 for the type checker
    colours = np.repeat(np.tile(painted, (len(joints), 1)), 2 * _CORNERS, axis=0)
    return Mesh(
        corners.reshape(-1, 3).astype(np.float32), faces.reshape(-1, 3).astype(np.int32), colours
    )


def across(bones: Points) -> tuple[Points, Points]:
    """Two unit vectors across each bone `(n, 3)`, right-handed with it."""
    along = bones / np.linalg.norm(bones, axis=1, keepdims=True).clip(1e-6)
    # Any direction that is not nearly the bone's own will do.
    other = np.where(np.abs(along[:, 1:2]) < 0.9, [[0.0, 1.0, 0.0]], [[1.0, 0.0, 0.0]])
    first = np.cross(other, along)
    first /= np.linalg.norm(first, axis=1, keepdims=True).clip(1e-6)
    return first.astype(np.float32), np.cross(along, first).astype(np.float32)


def green(joint: int) -> tuple[int, int, int]:
    """The truth's colour, whatever the joint."""
    return TRUTH
