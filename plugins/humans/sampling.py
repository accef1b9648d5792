"""Which poses to take: farthest-point sampling, temporal neighbours,
and the paper's diversity statistic."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

Floats = NDArray[np.float32]
Indices = NDArray[np.int64]


def without_heading(poses: Floats) -> Floats:
    """Turn every pose `(n, 22, 3)` about the vertical so that the pelvis faces +z; tilt is kept."""
    root = Rotation.from_rotvec(poses[:, 0])
    forward = root.apply([0.0, 0.0, 1.0])
    # Only the part of the rotation about the vertical; tilt and roll are the pose's own.
    heading = np.arctan2(forward[:, 0], forward[:, 2])
    # The caller's clips stay as they are.
    turned = poses.copy()
    turned[:, 0] = (_about_vertical(-heading) * root).as_rotvec()
    return turned


def turn(poses: Floats, degrees: Floats) -> Floats:
    """Turn each pose `(n, 22, 3)` about the vertical by its angle `(n,)`."""
    turned = poses.astype(np.float32, copy=True)
    turned[:, 0] = (
        _about_vertical(np.deg2rad(degrees)) * Rotation.from_rotvec(poses[:, 0])
    ).as_rotvec()
    return turned


def _about_vertical(radians: Floats) -> Rotation:
    return Rotation.from_rotvec(np.asarray(radians, dtype=np.float64)[:, None] * [0.0, 1.0, 0.0])


def root_relative(joints: Floats) -> Floats:
    """Joints `(n, j, 3)` with the root (joint 0) at the origin."""
    return joints - joints[:, :1]


def farthest_points(points: Floats, count: int, start: int | None = None) -> Indices:
    """Choose `count` of the points `(n, d)`, each the farthest from those chosen before (Gonzalez
    1985).

    `start` is the first choice; None takes the point farthest from the mean. All points are
    returned, in that order, when `count` is not smaller than n.
    """
    flat = points.reshape(len(points), -1).astype(np.float64)
    # Centred: the expansion below loses digits to a large common offset.
    flat -= flat.mean(axis=0)
    # (n,) squared lengths, for the expansion below.
    squares = (flat**2).sum(axis=1)
    nearest = np.full(len(flat), np.inf)
    chosen = np.empty(min(count, len(flat)), dtype=np.int64)
    # After centring this is the point farthest from the mean.
    following = int(squares.argmax()) if start is None else start
    for place in range(len(chosen)):
        chosen[place] = following
        # |a - b|^2 = |a|^2 + |b|^2 - 2 a.b: one product with a vector, ten times as fast as the
        # difference.
        nearest = np.minimum(nearest, squares + squares[following] - 2.0 * (flat @ flat[following]))
        nearest[following] = -1.0  # never again, even among duplicates
        following = int(nearest.argmax())
    return chosen


def with_neighbours(frame: int, frames: int, count: int) -> range:
    """`count` consecutive frames around `frame` and including it, shifted where they would leave a
    clip of `frames` frames."""
    count = min(count, frames)
    # At the ends of a clip the window is moved, not shortened.
    first = min(max(frame - (count - 1) // 2, 0), frames - count)
    return range(first, first + count)


def diversity(joints: Floats) -> float:
    """Standard deviation of joint locations in metres (the statistic of DrPose, arXiv 2603.02619,
    Fig. 4).

    Over poses, per joint and axis, root-relative, combined as the root of the mean variance; the
    root is left out.
    """
    # Without the root, whose variance is 0 by construction.
    relative = root_relative(joints.astype(np.float64))[:, 1:]
    return float(np.sqrt(relative.var(axis=0).mean()))
