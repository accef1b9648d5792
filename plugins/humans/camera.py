"""The six orthographic views of PSHuman, and where a point lands in each of them.

The world frame is the frame of the condition camera (the front view): x to the right of the image,
y up, z towards the camera, metres. The camera at azimuth a stands at (sin a, 0, cos a), elevation
0, and looks at the origin. Views come in the published order; back and left are stored mirrored, as
PSHuman trains on them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

VIEWS = ("front", "front_right", "right", "back", "left", "front_left")
AZIMUTHS = (0, 45, 90, 180, 270, 315)
MIRRORED = (False, False, False, True, True, False)

HALF_EXTENT = 1.2
"""Half the width of the picture in metres: a body of 1.7 m fits in every pose, and all samples
share one scale."""


def view_axes() -> tuple[Floats, Floats]:
    """Return the image's x axis and the axis towards the camera of each view, `(6, 3)` each;
    mirroring not applied."""
    # (6,) radians.
    angle = np.deg2rad(np.asarray(AZIMUTHS, dtype=np.float64))
    zero = np.zeros_like(angle)
    # A camera at azimuth a stands at (sin a, 0, cos a); its right is that, a quarter turn on.
    right = np.stack([np.cos(angle), zero, -np.sin(angle)], axis=1)
    towards = np.stack([np.sin(angle), zero, np.cos(angle)], axis=1)
    return right.astype(np.float32), towards.astype(np.float32)


def project(points: Floats, half_extent: float = HALF_EXTENT) -> Floats:
    """Project points into the six stored views.

    Args:
        points: `(..., n, 3)` metres in the rendered frame (the picture's centre is the origin).
        half_extent: half the width of the picture in metres.

    Returns:
        `(..., 6, n, 2)` in [-1, 1], x right, y down, already mirrored for the mirrored views.
    """
    # Mirroring a stored view is a change of sign of its x axis.
    right = view_axes()[0] * np.where(MIRRORED, -1.0, 1.0)[:, None]
    # Orthographic: depth plays no part, and level cameras see the same height.
    x = np.einsum("...nc,vc->...vn", points, right)
    y = np.broadcast_to(-points[..., None, :, 1], x.shape)
    return (np.stack([x, y], axis=-1) / half_extent).astype(np.float32)
