"""The pictures of `rasterise` by gsplat (Ye et al. 2024, 2409.06765), whose kernels need CUDA.

It differs from `rasterise` in little: a pixel is done when less than 1e-4 of what lies behind would
show, in perspective the slope of what lies beside the picture is limited, and releases before 1.6
let an alpha be 0.999, where it is 0.99 here.
"""

from __future__ import annotations

from typing import Any

import torch
from rewardft_plugins.ddpo3d.gaussians import Gaussians, Lens
from rewardft_plugins.ddpo3d.rasterise import NEAR
from torch import Tensor

from rewardft.errors import ComponentError

AWAY = 100.0  # of an orthographic camera from the origin, in extents: all of a scene is before it


def rasterise_by_gsplat(
    gaussians: Gaussians, axes: Tensor, lens: Lens, size: int, blur: float = 0.3
) -> tuple[Tensor, Tensor]:
    """As `rasterise`. Raises ComponentError for Gaussians that are not on a CUDA device, and where
    gsplat is not installed."""
    if gaussians.position.device.type != "cuda":
        raise ComponentError(
            "gaussian_scene: rasteriser: gsplat draws on CUDA devices, and the scenes are on "
            f"{gaussians.position.device}; leave `rasteriser` out"
        )
    views, inner, near = cameras(axes, lens, size)
    # One camera for each scene: (b, 1, h, w, c).
    colour, opacity, _ = kernels()(
        means=gaussians.position,
        quats=gaussians.rotation,
        scales=gaussians.scale,
        opacities=gaussians.opacity,
        colors=gaussians.colour,
        viewmats=views[:, None],
        Ks=inner[:, None],
        width=size,
        height=size,
        near_plane=near,
        eps2d=blur,
        packed=False,
        camera_model="ortho" if lens.distance is None else "pinhole",
    )
    return colour[:, 0].permute(0, 3, 1, 2), 1 - opacity[:, 0].permute(0, 3, 1, 2)


def kernels() -> Any:
    """gsplat's function."""
    try:
        from gsplat import rasterization
    except ImportError as error:
        raise ComponentError(
            "gaussian_scene: rasteriser: gsplat is not installed: pip install 'rewardft[gsplat]'"
        ) from error
    return rasterization


def cameras(axes: Tensor, lens: Lens, size: int) -> tuple[Tensor, Tensor, float]:
    """From the world to the camera `(b, 4, 4)`, from there to pixels `(b, 3, 3)`, and how near a
    Gaussian may be.

    axes: see `look`; gsplat's cameras have x to the right, y down and z away from the viewer too.
    """
    views = torch.eye(4, dtype=axes.dtype, device=axes.device).repeat(len(axes), 1, 1)
    views[:, :3, :3] = axes
    away = AWAY * lens.extent if lens.distance is None else lens.distance
    views[:, 2, 3] = away
    # Pixels for a unit of the world at the origin; in perspective for one of x / z.
    scale = size / (2 * lens.extent) * (1 if lens.distance is None else lens.distance)
    inner = torch.eye(3, dtype=axes.dtype, device=axes.device)
    inner[0, 0] = inner[1, 1] = scale
    inner[:2, 2] = size / 2
    return views, inner.repeat(len(axes), 1, 1), NEAR * lens.distance if lens.distance else 0.0
