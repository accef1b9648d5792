"""A numba z-buffer: six views of one body in normals, colour and part labels from one rasterisation
each.

Every view is rasterised at `SAMPLES` times the size and averaged, which removes the jagged edges
that matter at 64 px.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from rewardft_plugins.humans.body import PARTS, Body
from rewardft_plugins.humans.camera import HALF_EXTENT, MIRRORED, VIEWS, view_axes
from rewardft_plugins.humans.raster import (
    Bytes,
    Cameras,
    Floats,
    Light,
    Surface,
    Views,
    render_views,
    vertex_normals,
)

SAMPLES = 3
HAIR = len(PARTS)  # row of the hair in an albedo table, after the parts


@dataclass(frozen=True)
class Appearance:
    """How a body looks; the same in all six views.

    albedo: `(16, 3)` in [0, 1], a row for each of `PARTS` and one for the hair.
    light: `(3,)` unit vector towards the light, in the frame of the condition camera.
    ambient: share of the light that comes from everywhere, in [0, 1].
    """

    albedo: Floats
    light: Floats
    ambient: float


def empty_views(count: int, size: int) -> Views:
    """Uninitialised pictures for `render` to fill."""
    colour = (count, len(VIEWS), 3, size, size)
    plain = (count, len(VIEWS), size, size)
    return Views(*(np.empty(shape, np.uint8) for shape in (colour, colour, plain, plain)))


def render(
    body: Body,
    vertices: Floats,
    looks: list[Appearance],
    size: int,
    half_extent: float = HALF_EXTENT,
) -> Views:
    """Render bodies that are already centred.

    Args:
        body: whose faces and parts the vertices have.
        vertices: `(n, v, 3)` metres; the origin is the centre of every picture.
        looks: one appearance for each body.
        size: width and height of the pictures in pixels.
        half_extent: half the width of the pictures in metres. What lies outside is cut off.
    """
    views = empty_views(len(vertices), size)
    cameras = Cameras(*view_axes(), np.asarray(MIRRORED), np.float32(half_extent))
    for i, look in enumerate(looks):
        one = Views(views.normals[i], views.colours[i], views.labels[i], views.alpha[i])
        _fill(body, vertices[i], look, cameras, one)
    return views


def draw_clay(body: Body, poses: Floats, betas: Floats, offsets: Floats, size: int) -> Bytes:
    """The six stored views of grey bodies under a light beside the camera, `(n, 6, 3, s, s)`.

    poses `(n, 22, 3)` axis-angle, betas `(n, 10)`, offsets `(n, 3)`: the pelvis in metres.
    """
    vertices, joints = body.pose(poses, betas)
    # The pelvis to the place where the clip or the fit has it.
    vertices = vertices - joints[:, :1] + offsets[:, None]
    light = np.array([0.3, 0.5, 0.81], np.float32)
    clay = Appearance(np.full((HAIR + 1, 3), 0.7, np.float32), light, ambient=0.5)
    return render(body, vertices, [clay] * len(vertices), size).colours


def render_front(body: Body, vertices: Floats, look: Appearance, size: int) -> tuple[Bytes, Bytes]:
    """The front view of one body `(v, 3)` alone: colours `(s, s, 3)` on white and coverage
    `(s, s)`."""
    # The front view is the first, and is never mirrored.
    right, towards = (axes[:1] for axes in view_axes())
    camera = Cameras(right, towards, np.zeros(1, np.bool_), np.float32(HALF_EXTENT))
    out = Views(
        np.empty((1, 3, size, size), np.uint8),
        np.empty((1, 3, size, size), np.uint8),
        np.empty((1, size, size), np.uint8),
        np.empty((1, size, size), np.uint8),
    )
    _fill(body, vertices, look, camera, out)
    return np.ascontiguousarray(out.colours[0].transpose(1, 2, 0)), out.alpha[0]


def _fill(body: Body, vertices: Floats, look: Appearance, cameras: Cameras, out: Views) -> None:
    """Render one body into the views of `out`, which have no leading dimension here."""
    # Hair is a matter of colour; in the labels it is a part of the head.
    region = np.where(body.face_hair, HAIR, body.face_parts)
    points = np.ascontiguousarray(vertices, dtype=np.float32)
    normals = vertex_normals(points, body.faces)
    albedo = np.ascontiguousarray(look.albedo[region])
    surface = Surface(normals, body.faces, albedo, body.face_parts)
    light = Light(look.light, np.float32(look.ambient))
    render_views(points, surface, light, cameras, SAMPLES, out)
