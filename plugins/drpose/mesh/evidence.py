"""What six views say about a body: where its joints are, where it ends, which way it faces."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from rewardft_plugins.drpose.judges.pose_judge import BACKGROUND_MARGIN, JudgeNet
from rewardft_plugins.humans.camera import HALF_EXTENT, MIRRORED, view_axes
from scipy.ndimage import distance_transform_edt
from torch import Tensor

JUDGE_SIZE = 64  # pixels; what the judge was trained on
FINE = 256  # pixels; silhouettes are measured at least this finely
POINTS = 96  # of each silhouette, drawn at random


@dataclass(frozen=True)
class Evidence:
    """What the six stored views of b samples show; back and left are mirrored.

    places: `(b, 6, 23, 2)` joints in [-1, 1], and joints `(b, 23, 3)` in metres, from the judge.
    depth: `(b, 6, S, S)` metres to the edge of the silhouette, positive inside.
    inside: `(b, 6, 96, 2)` points of the silhouette in [-1, 1]; weight `(b, 6, 96)`: 0 where a
        silhouette has fewer.
    normals: `(b, 6, 3, s, s)` unit normals in the frame of the condition camera.
    """

    places: Tensor
    joints: Tensor
    depth: Tensor
    inside: Tensor
    weight: Tensor
    normals: Tensor


@torch.no_grad()
def look_at(normals: Tensor, judge: JudgeNet) -> Evidence:
    """Read normals `(b, 6, 3, s, s)` in [0, 1] on white, as stored."""
    small = normals.flatten(0, 1)
    # `area` averages, as the judge's training pictures were averaged by the renderer.
    if normals.shape[-1] != JUDGE_SIZE:
        small = F.interpolate(small, (JUDGE_SIZE, JUDGE_SIZE), mode="area")
    joints, places, _ = judge(small.unflatten(0, normals.shape[:2]))
    depth = silhouette_depth(normals)
    inside, weight = _draw_inside(depth)
    signs = torch.tensor([1.0, -1.0, -1.0]).view(3, 1, 1)  # y and z are stored flipped
    # Decoded normals are shorter where the model is unsure.
    unit = F.normalize((2 * normals - 1) * signs, dim=2, eps=1e-6)
    return Evidence(places, joints, depth, inside, weight, unit)


def silhouette_depth(normals: Tensor) -> Tensor:
    """Metres to the silhouette's edge, positive inside: `(b, 6, 3, s, s)` -> `(b, 6, S, S)`."""
    return torch.from_numpy(np.stack([_depths(views) for views in normals.numpy()]))


def project(points: Tensor) -> Tensor:
    """Points `(b, n, 3)` in metres -> `(b, 6, n, 2)` in [-1, 1], as stored; differentiable."""
    axes = view_axes()[0] * np.where(MIRRORED, -1.0, 1.0)[:, None].astype(np.float32)
    # (6, 3) axes to the right of each view, mirrored where the view is.
    x = torch.einsum("bnc,vc->bvn", points, torch.from_numpy(axes.astype(np.float32)))
    return torch.stack([x, -points[:, None, :, 1].expand_as(x)], dim=-1) / HALF_EXTENT


def sample(maps: Tensor, places: Tensor) -> Tensor:
    """Read maps `(b, 6, c, s, s)` at places `(b, 6, n, 2)` in [-1, 1]: `(b, 6, n, c)`."""
    # Beyond the picture the nearest pixel holds, so that a vertex outside is still drawn back.
    read = F.grid_sample(
        maps.flatten(0, 1),
        places.flatten(0, 1)[:, None],
        padding_mode="border",
        align_corners=False,
    )
    return read[:, :, 0].transpose(1, 2).unflatten(0, maps.shape[:2])


def _depths(normals: NDArray[np.float32]) -> NDArray[np.float32]:
    """Signed distance of one sample's views `(6, 3, s, s)` to the silhouettes' edge, metres."""
    # Interpolated before the threshold: the edge then lies between pixels, not on them.
    darkness = torch.from_numpy(1 - normals.min(axis=1))[:, None]
    side = max(FINE, darkness.shape[-1])
    fine = F.interpolate(darkness, (side, side), mode="bilinear", align_corners=False)[:, 0]
    pixel = 2 * HALF_EXTENT / side
    return np.stack([_signed(mask, pixel) for mask in (fine > BACKGROUND_MARGIN).numpy()])


def _signed(mask: NDArray[np.bool_], pixel: float) -> NDArray[np.float32]:
    if not mask.any():  # nothing was painted: everywhere is as far outside as can be
        return np.full(mask.shape, -2 * HALF_EXTENT, np.float32)
    # In pixels, of inside pixels to the outside and the other way round.
    inner, outer = distance_transform_edt(mask), distance_transform_edt(~mask)
    # Distances are between pixel centres, and the edge is half a pixel before the next one.
    signed: NDArray[np.float32] = np.where(mask, inner - 0.5, 0.5 - outer).astype(np.float32)
    return signed * np.float32(pixel)


def _draw_inside(depth: Tensor) -> tuple[Tensor, Tensor]:
    """`POINTS` random points of every silhouette, and which of them are real."""
    # A coarse grid spreads the points; on the fine one most would lie side by side.
    coarse = F.interpolate(depth, (JUDGE_SIZE, JUDGE_SIZE), mode="area")
    line = (torch.arange(JUDGE_SIZE) + 0.5) * (2 / JUDGE_SIZE) - 1
    points = torch.zeros(*depth.shape[:2], POINTS, 2)
    weight = torch.zeros(*depth.shape[:2], POINTS)
    for row, views in enumerate(coarse):
        generator = torch.Generator().manual_seed(0)  # each sample's own
        for place, view in enumerate(views):
            y, x = (view > 0).nonzero(as_tuple=True)
            chosen = torch.randperm(len(x), generator=generator)[:POINTS]
            found = torch.stack([line[x[chosen]], line[y[chosen]]], dim=-1)
            points[row, place, : len(chosen)] = found
            weight[row, place, : len(chosen)] = 1
    return points, weight
