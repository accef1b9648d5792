"""`body_silhouettes`: whether a scene has the outline of the person that it should be."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from rewardft_plugins.humans.body import Body, load_body
from rewardft_plugins.humans.camera import HALF_EXTENT
from rewardft_plugins.humans.raster import (
    Bytes,
    Cameras,
    Light,
    Surface,
    Views,
    render_views,
    vertex_normals,
)
from rewardft_plugins.humans.render import SAMPLES
from torch import Tensor

from rewardft.errors import ComponentError
from rewardft.types import Batch, Rollout

Floats = NDArray[np.float32]

# Metres that the body is moved by, towards the front camera; a pixel of 64 is 0.0375.
DEPTHS = np.arange(-8, 9, dtype=np.float32) * 0.04


class BodySilhouettes:
    """Per sample, in [0, 1], higher is better, over all pixels of the sampler's `cameras` together.

    iou: the intersection over union of the scene's coverage above 1/2 and the true body's.
    aligned_iou: the best one with the true body moved along the front camera's axis, in steps of 4
        cm within 32 cm. How far away a person is, an orthographic picture does not show.

    Batches need `pose` `(b, 22, 3)`, `betas` `(b, 10)` and `offset` `(b, 3)`, as `drpose15k` has
    them. No reward knows the outline at other cameras than those of training.

    Args:
        body: as `humans.load_body` takes it; null: the data sets' own.
    """

    higher_is_better = True

    def __init__(self, body: str | None = None) -> None:
        self.body = body
        self.reset()

    def reset(self) -> None:
        self.values: list[Tensor] = []  # (depths, b) each

    def update(self, rollout: Rollout, batch: Batch) -> None:
        """Raises ComponentError where the sampler has drawn no pictures beside the samples."""
        if "coverage" not in rollout.info:
            raise ComponentError(
                "body_silhouettes compares scenes from other cameras than those of training: give "
                "the evaluation's sampler some, evaluate.sampler={use: scene_render, cameras: "
                "[22.5, 112.5, 202.5, 292.5]}"
            )
        coverage = rollout.info["coverage"].cpu()
        poses, betas, offsets = (batch[name].cpu().numpy() for name in ("pose", "betas", "offset"))
        azimuths = rollout.info["azimuths"][0].cpu().numpy()
        body, size = body_of(self.body), coverage.shape[-1]
        truth = torch.from_numpy(outlines(body, poses, betas, offsets, azimuths, size, DEPTHS))
        self.values.append(torch.stack([overlap(coverage > 0.5, moved > 127) for moved in truth]))

    def compute(self) -> dict[str, Tensor]:
        values = torch.cat(self.values, 1)
        return {"iou": values[len(DEPTHS) // 2], "aligned_iou": values.amax(0)}


def overlap(found: Tensor, truth: Tensor) -> Tensor:
    """Intersection over union `(b,)` of masks `(b, ...)`; NaN where both are empty."""
    both, either = (found & truth).flatten(1), (found | truth).flatten(1)
    return both.sum(1) / either.sum(1)


@lru_cache(maxsize=2)
def body_of(where: str | None) -> Body:
    """Loaded once."""
    return load_body(where)


def outlines(
    body: Body,
    poses: Floats,
    betas: Floats,
    offsets: Floats,
    azimuths: Floats,
    size: int,
    depths: Floats,
) -> Bytes:
    """Coverage `(d, b, m, size, size)`, 0 to 255, of bodies that are moved towards the front camera
    by d depths in metres, from m azimuths in degrees."""
    vertices, joints = body.pose(poses, betas)
    placed = vertices - joints[:, :1] + offsets[:, None]
    angle = np.deg2rad(azimuths.astype(np.float64))
    zero = np.zeros_like(angle)
    # As `humans.camera` has them, for any azimuth.
    right = np.stack([np.cos(angle), zero, -np.sin(angle)], 1).astype(np.float32)
    towards = np.stack([np.sin(angle), zero, np.cos(angle)], 1).astype(np.float32)
    never = np.zeros(len(angle), np.bool_)
    cameras = Cameras(right, towards, never, np.float32(HALF_EXTENT))
    towards_front = depths[:, None] * np.array([0, 0, 1], np.float32)
    return np.stack(
        [
            np.stack([outline(body, points + by, cameras, size) for points in placed])
            for by in towards_front
        ]
    )


def outline(body: Body, points: Floats, cameras: Cameras, size: int) -> Bytes:
    """Coverage `(m, size, size)` of one body."""
    points = np.ascontiguousarray(points, np.float32)
    grey = np.full((len(body.faces), 3), 0.5, np.float32)
    normals = vertex_normals(points, body.faces)
    surface = Surface(normals, body.faces, grey, body.face_parts)
    light = Light(np.array([0, 0, 1], np.float32), np.float32(1))
    count = len(cameras.right)
    colours = (count, 3, size, size)
    plain = (count, size, size)
    views = Views(*(np.empty(shape, np.uint8) for shape in (colours, colours, plain, plain)))
    render_views(points, surface, light, cameras, SAMPLES, views)
    return views.alpha
