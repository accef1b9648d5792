"""Scenes as `.ply` files, in the layout that viewers of Gaussian splats read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rewardft_plugins.ddpo3d.gaussians import Gaussians
from torch import Tensor

from rewardft.errors import ComponentError
from rewardft.files.atomic import write_bytes

HARMONIC = 0.28209479177387814  # the constant spherical harmonic
NAMES = (
    *("x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2", "opacity"),
    *("scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"),
)


def save_ply(gaussians: Gaussians, path: Path) -> None:
    """Write one scene, `(1, n, ...)`; of a grey one all three colours are the same.

    Viewers have y down and z away from the viewer, so the scene is turned by half a turn around x.
    Raises ComponentError for colours of other than one or three channels.
    """
    colour = gaussians.colour[0].detach().float().cpu()
    if colour.shape[1] not in (1, 3):
        raise ComponentError(
            f"a .ply file has colours of three channels, and the scene has {colour.shape[1]}; "
            "choose three of them"
        )
    rows = torch.cat(
        [
            gaussians.position[0] * gaussians.position.new_tensor([1.0, -1.0, -1.0]),
            torch.zeros_like(gaussians.position[0]),
            (colour.expand(-1, 3).to(gaussians.position) - 0.5) / HARMONIC,
            gaussians.opacity[0].logit()[:, None],
            gaussians.scale[0].log(),
            turned(torch.nn.functional.normalize(gaussians.rotation[0], dim=-1)),
        ],
        1,
    )
    write_bytes(path, header(len(rows)) + rows.detach().cpu().numpy().astype("<f4").tobytes())


def turned(quaternion: Tensor) -> Tensor:
    """Rotations `(n, 4)` followed by half a turn around x."""
    w, x, y, z = quaternion.unbind(-1)
    return torch.stack([-x, w, -z, y], -1)


def header(count: int) -> bytes:
    """Of a file of `count` Gaussians."""
    lines = ["ply", "format binary_little_endian 1.0", f"element vertex {count}"]
    lines += [f"property float {name}" for name in NAMES]
    return ("\n".join([*lines, "end_header"]) + "\n").encode("ascii")


def read_ply(path: Path) -> dict[str, NDArray[np.float32]]:
    """The columns of a file that `save_ply` wrote, by name."""
    head, _, body = path.read_bytes().partition(b"end_header\n")
    names = [line.split()[-1].decode() for line in head.splitlines() if line[:8] == b"property"]
    table = np.frombuffer(body, "<f4").reshape(-1, len(names))
    return dict(zip(names, table.T))
