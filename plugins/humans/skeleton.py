"""Skeleton maps: one soft picture per joint, the target space of PoseScore (DrPose, arXiv
2603.02619).

Channel j shows the bone from joint j to its parent as a capsule with an anti-aliased edge; the root
is a disc. The primitive is not published, so radius and joint list are options.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from rewardft_plugins.humans.body import PARENTS
from rewardft_plugins.humans.positions import pixel_centres
from torch import Tensor


def skeleton_maps(
    joints2d: Tensor,
    size: int,
    radius: float = 0.04,
    parents: Sequence[int] = PARENTS,
    softness: float | None = None,
) -> Tensor:
    """Draw skeleton maps; differentiable in the joints.

    Args:
        joints2d: `(..., j, 2)` in [-1, 1], x right, y down.
        size: width and height of the maps in pixels.
        radius: of the capsules, in units where the picture is 2 wide (0.04 is 1.3 px at 64 px).
        parents: `(j,)` index of each joint's parent; -1 for the root.
        softness: width of the edge over which the value falls from 1 to 0, in the same units. None:
            one pixel.

    Returns:
        `(..., j, size, size)` in [0, 1], in the dtype of the joints.

    Raises:
        ValueError: the number of joints is not the number of parents.
    """
    if joints2d.shape[-2] != len(parents):
        raise ValueError(
            f"skeleton_maps got {joints2d.shape[-2]} joints for {len(parents)} parents"
        )
    edge = 2.0 / size if softness is None else softness
    ends = [parent if parent >= 0 else joint for joint, parent in enumerate(parents)]
    start, end = joints2d, joints2d[..., ends, :]
    distance = _distance_to_segment(_pixel_grid(size, joints2d), start, end)
    return ((radius - distance) / edge + 0.5).clamp(0.0, 1.0)


def _pixel_grid(size: int, like: Tensor) -> Tensor:
    """`(size, size, 2)` coordinates of the pixel centres, x first."""
    line = pixel_centres(size, like)
    y, x = torch.meshgrid(line, line, indexing="ij")
    return torch.stack([x, y], dim=-1)


def _distance_to_segment(points: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """Distance of points `(h, w, 2)` to segments `(..., 2)`: `(..., h, w)`.

    A segment of length 0 is a point.
    """
    along = (end - start)[..., None, None, :]
    away = points - start[..., None, None, :]
    length2 = along.square().sum(-1).clamp_min(1e-12)
    share = ((away * along).sum(-1) / length2).clamp(0.0, 1.0)
    # The small constant keeps the square root's gradient finite on the bone itself.
    return ((away - share[..., None] * along).square().sum(-1) + 1e-12).sqrt()
