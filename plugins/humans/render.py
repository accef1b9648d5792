"""A numba z-buffer: six views of one body in normals, colour and part labels from one rasterisation
each.

Every view is rasterised at `SAMPLES` times the size and averaged, which removes the jagged edges
that matter at 64 px.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray
from rewardft_plugins.humans.body import PARTS, Body
from rewardft_plugins.humans.camera import HALF_EXTENT, MIRRORED, VIEWS, view_axes

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

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


@dataclass(frozen=True)
class Views:
    """The six stored views of n bodies: uint8, mirrored views mirrored, white background.

    normals, colours: `(n, 6, 3, s, s)`; labels `(n, 6, s, s)` index into `PARTS`; alpha `(n, 6, s,
        s)` coverage.
    """

    normals: Bytes
    colours: Bytes
    labels: Bytes
    alpha: Bytes


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
    right, towards = view_axes()
    mirrored = np.asarray(MIRRORED)
    for i, look in enumerate(looks):
        one = Views(views.normals[i], views.colours[i], views.labels[i], views.alpha[i])
        _fill(body, vertices[i], look, right, towards, mirrored, half_extent, one)
    return views


def draw_clay(body: Body, poses: Floats, betas: Floats, offsets: Floats, size: int) -> Bytes:
    """The six stored views of grey bodies under a light beside the camera, `(n, 6, 3, s, s)`.

    poses `(n, 22, 3)` axis-angle, betas `(n, 10)`, offsets `(n, 3)`: the pelvis in metres.
    """
    vertices, joints = body.pose(poses, betas)
    vertices = vertices - joints[:, :1] + offsets[:, None]
    light = np.array([0.3, 0.5, 0.81], np.float32)
    clay = Appearance(np.full((HAIR + 1, 3), 0.7, np.float32), light, ambient=0.5)
    return render(body, vertices, [clay] * len(vertices), size).colours


def render_front(
    body: Body, vertices: Floats, look: Appearance, size: int, half_extent: float = HALF_EXTENT
) -> tuple[Bytes, Bytes]:
    """The front view of one body `(v, 3)` alone: colours `(s, s, 3)` on white and coverage
    `(s, s)`."""
    right, towards = (axes[:1] for axes in view_axes())
    out = Views(
        np.empty((1, 3, size, size), np.uint8),
        np.empty((1, 3, size, size), np.uint8),
        np.empty((1, size, size), np.uint8),
        np.empty((1, size, size), np.uint8),
    )
    _fill(body, vertices, look, right, towards, np.zeros(1, np.bool_), half_extent, out)
    return np.ascontiguousarray(out.colours[0].transpose(1, 2, 0)), out.alpha[0]


def _fill(
    body: Body,
    vertices: Floats,
    look: Appearance,
    right: Floats,
    towards: Floats,
    mirrored: NDArray[np.bool_],
    half_extent: float,
    out: Views,
) -> None:
    """Render one body into the views of `out`, which have no leading dimension here."""
    region = np.where(body.face_hair, HAIR, body.face_parts)
    points = np.ascontiguousarray(vertices, dtype=np.float32)
    _render_views(
        points,
        vertex_normals(points, body.faces),
        body.faces,
        np.ascontiguousarray(look.albedo[region]),
        body.face_parts,
        look.light,
        np.float32(look.ambient),
        right,
        towards,
        mirrored,
        np.float32(half_extent),
        SAMPLES,
        out.normals,
        out.colours,
        out.labels,
        out.alpha,
    )


@numba.njit(cache=True, nogil=True)
def vertex_normals(points, faces):  # type: ignore[no-untyped-def]
    """Area-weighted normals `(v, 3)`."""
    normals = np.zeros_like(points)
    for f in range(len(faces)):
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        ux, uy, uz = (
            points[b, 0] - points[a, 0],
            points[b, 1] - points[a, 1],
            points[b, 2] - points[a, 2],
        )
        vx, vy, vz = (
            points[c, 0] - points[a, 0],
            points[c, 1] - points[a, 1],
            points[c, 2] - points[a, 2],
        )
        nx, ny, nz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
        for corner in (a, b, c):
            normals[corner, 0] += nx
            normals[corner, 1] += ny
            normals[corner, 2] += nz
    for i in range(len(normals)):
        length = np.sqrt(normals[i, 0] ** 2 + normals[i, 1] ** 2 + normals[i, 2] ** 2)
        if length > 0:
            normals[i] /= length
    return normals


@numba.njit(cache=True, nogil=True, fastmath=True)
def rasterise(screen, faces, depth, face, bary):  # type: ignore[no-untyped-def]
    """Fill depth, face and the first two barycentric weights of the nearest front face at each
    pixel centre.

    screen `(v, 3)`: x right, y down in pixels, depth towards the camera.
    """
    size = depth.shape[0]
    depth[:] = -np.inf
    face[:] = -1
    for f in range(len(faces)):
        ax, ay, az = screen[faces[f, 0]]
        bx, by, bz = screen[faces[f, 1]]
        cx, cy, cz = screen[faces[f, 2]]
        area = (cx - ax) * (by - ay) - (bx - ax) * (
            cy - ay
        )  # positive for front faces, because y points down
        if area <= 1e-9:
            continue
        x0, x1 = (
            max(0, int(np.ceil(min(ax, bx, cx) - 0.5))),
            min(size - 1, int(np.floor(max(ax, bx, cx) - 0.5))),
        )
        y0, y1 = (
            max(0, int(np.ceil(min(ay, by, cy) - 0.5))),
            min(size - 1, int(np.floor(max(ay, by, cy) - 0.5))),
        )
        for y in range(y0, y1 + 1):
            for x in range(x0, x1 + 1):
                px, py = x + 0.5, y + 0.5
                wa = ((cx - px) * (by - py) - (bx - px) * (cy - py)) / area
                wb = ((ax - px) * (cy - py) - (cx - px) * (ay - py)) / area
                wc = 1 - wa - wb
                if wa >= 0 and wb >= 0 and wc >= 0:
                    z = wa * az + wb * bz + wc * cz
                    if z > depth[y, x]:
                        depth[y, x] = z
                        face[y, x] = f
                        bary[y, x, 0] = wa
                        bary[y, x, 1] = wb


@numba.njit(cache=True, nogil=True, fastmath=True)
def _render_views(  # type: ignore[no-untyped-def]
    points,
    normals,
    faces,
    albedo,
    parts,
    light,
    ambient,
    right,
    towards,
    mirrored,
    half_extent,
    samples,
    out_normals,
    out_colours,
    out_labels,
    out_alpha,
):
    size = out_labels.shape[1]
    fine = size * samples
    depth = np.empty((fine, fine), np.float32)
    face = np.empty((fine, fine), np.int32)
    bary = np.empty((fine, fine, 2), np.float32)
    screen = np.empty_like(points)
    for view in range(len(right)):
        for i in range(len(points)):
            x = (
                points[i, 0] * right[view, 0]
                + points[i, 1] * right[view, 1]
                + points[i, 2] * right[view, 2]
            )
            screen[i, 0] = (x / half_extent + 1) * 0.5 * fine
            screen[i, 1] = (1 - points[i, 1] / half_extent) * 0.5 * fine
            screen[i, 2] = points[i, 0] * towards[view, 0] + points[i, 2] * towards[view, 2]
        rasterise(screen, faces, depth, face, bary)
        _resolve(
            face,
            bary,
            normals,
            faces,
            albedo,
            parts,
            light,
            ambient,
            mirrored[view],
            samples,
            out_normals[view],
            out_colours[view],
            out_labels[view],
            out_alpha[view],
        )


@numba.njit(cache=True, nogil=True, fastmath=True)
def _resolve(  # type: ignore[no-untyped-def]
    face,
    bary,
    normals,
    faces,
    albedo,
    parts,
    light,
    ambient,
    mirror,
    samples,
    out_normals,
    out_colours,
    out_labels,
    out_alpha,
):
    """Shade the fine pixels and average them over white;
    the label is that of most covered fine pixels."""
    size = out_labels.shape[0]
    share = 1.0 / (samples * samples)
    votes = np.zeros(32, np.int32)
    total = np.zeros(6, np.float32)
    normal = np.zeros(3, np.float32)
    for y in range(size):
        for x in range(size):
            votes[:] = 0
            total[:] = 0
            covered = 0
            for sub in range(samples * samples):
                fy, fx = y * samples + sub // samples, x * samples + sub % samples
                f = face[fy, fx]
                if f < 0:
                    continue
                covered += 1
                votes[parts[f]] += 1
                wa, wb = bary[fy, fx, 0], bary[fy, fx, 1]
                for c in range(3):
                    normal[c] = (
                        wa * normals[faces[f, 0], c]
                        + wb * normals[faces[f, 1], c]
                        + (1 - wa - wb) * normals[faces[f, 2], c]
                    )
                length = np.sqrt(normal[0] ** 2 + normal[1] ** 2 + normal[2] ** 2) + 1e-12
                normal /= length
                lambert = max(
                    0.0, normal[0] * light[0] + normal[1] * light[1] + normal[2] * light[2]
                )
                brightness = ambient + (1 - ambient) * lambert
                for c in range(3):
                    total[c] += (
                        0.5 + (0.5 if c == 0 else -0.5) * normal[c]
                    )  # y and z flipped, as PSHuman does
                    total[3 + c] += albedo[f, c] * brightness
            white = samples * samples - covered
            px = size - 1 - x if mirror else x
            for c in range(3):
                out_normals[c, y, px] = np.uint8(255 * share * (total[c] + white) + 0.5)
                out_colours[c, y, px] = np.uint8(
                    255 * min(1.0, share * (total[3 + c] + white)) + 0.5
                )
            out_alpha[y, px] = np.uint8(255 * share * covered + 0.5)
            out_labels[y, px] = votes.argmax() if 2 * covered >= samples * samples else 0
