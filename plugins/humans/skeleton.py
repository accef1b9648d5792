"""Skeleton maps: one soft picture per joint, the target space of PoseScore (DrPose, arXiv
2603.02619).

Channel j shows the bone from joint j to its parent as a capsule with an anti-aliased edge; the root
is a disc. The primitive is not published, so radius and joint list are options.
"""

from __future__ import annotations

from collections.abc import Sequence

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
    distance = bone_distances(joints2d, size, parents)
    return ((radius - distance) / edge + 0.5).clamp(0.0, 1.0)


def bone_distances(joints2d: Tensor, size: int, parents: Sequence[int] = PARENTS) -> Tensor:
    """Distance of each pixel's centre to each bone, `(..., j, size, size)`.

    In units where the picture is 2 wide; differentiable in the joints `(..., j, 2)`. A bone of
    length 0 is a point.
    """
    ends = [parent if parent >= 0 else joint for joint, parent in enumerate(parents)]
    start_x, start_y = joints2d[..., None, None].unbind(-3)
    along_x, along_y = (joints2d[..., ends, :] - joints2d)[..., None, None].unbind(-3)
    centres = pixel_centres(size, joints2d)
    x, y = centres - start_x, centres[:, None] - start_y  # (..., j, 1, size), (..., j, size, 1)
    # The root is its own parent: a bone of length 0, and a disc.
    length2 = (along_x.square() + along_y.square()).clamp_min(1e-12)
    # The nearest point of the bone, held between its ends: distances to it draw a capsule.
    share = ((x * along_x + y * along_y) / length2).clamp(0.0, 1.0)
    away_x, away_y = x - share * along_x, y - share * along_y
    # The small constant keeps the square root's gradient finite on the bone itself.
    return (away_x.square() + away_y.square() + 1e-12).sqrt()
