"""3D Gaussians, and the cameras that look at them.

The world has x to the right, y up and z towards the camera at azimuth 0, in units of its own. The
camera at azimuth a and elevation e stands in the direction (sin a cos e, sin e, cos a cos e) and
looks at the origin, upright.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor


@dataclass(frozen=True)
class Gaussians:
    """n Gaussians in each of b scenes.

    position `(b, n, 3)`; scale `(b, n, 3)`, standard deviations along the own axes, > 0; rotation
    `(b, n, 4)`, quaternions (w, x, y, z) of any length but 0; opacity `(b, n)` in (0, 1); colour
    `(b, n, c)`.
    """

    position: Tensor
    scale: Tensor
    rotation: Tensor
    opacity: Tensor
    colour: Tensor

    def repeat(self, count: int) -> Gaussians:
        """Each scene `count` times in a row."""
        own = (getattr(self, field.name) for field in fields(self))
        return Gaussians(*(value.repeat_interleave(count, 0) for value in own))

    def only(self, where: Tensor) -> Gaussians:
        """Of every scene those that the mask `(n,)` names."""
        own = (getattr(self, field.name) for field in fields(self))
        return Gaussians(*(value[:, where] for value in own))

    def axes(self) -> Tensor:
        """The axes of each ellipsoid, as long as their standard deviations: the columns of
        `(b, n, 3, 3)`."""
        return rotation_matrix(self.rotation) * self.scale[..., None, :]


def rotation_matrix(quaternion: Tensor) -> Tensor:
    """`(..., 4)` quaternions (w, x, y, z) of any length -> `(..., 3, 3)`."""
    w, x, y, z = torch.nn.functional.normalize(quaternion, dim=-1).unbind(-1)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


@dataclass(frozen=True)
class Lens:
    """How the picture's plane is filled.

    extent: half the width of the square picture at the origin, in world units, > 0.
    distance: of the camera from the origin, > 0; None: orthographic.
    """

    extent: float = 1.0
    distance: float | None = None


def look(azimuth: Tensor, elevation: Tensor) -> Tensor:
    """Axes of cameras, `(b, 3, 3)`: rows to the right, down and away from the viewer.

    azimuth, elevation: `(b,)` degrees.
    """
    a, e = torch.deg2rad(azimuth), torch.deg2rad(elevation)
    zero = torch.zeros_like(a)
    right = torch.stack([a.cos(), zero, -a.sin()], -1)
    down = torch.stack([a.sin() * e.sin(), -e.cos(), a.cos() * e.sin()], -1)
    away = -torch.stack([a.sin() * e.cos(), e.sin(), a.cos() * e.cos()], -1)
    return torch.stack([right, down, away], -2)
