"""The renderer's kernels, compiled by numba: normals, depth, and colours from samples."""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]


class Surface(NamedTuple):
    """A posed body to be drawn.

    normals: `(v, 3)`.
    faces: `(f, 3)` vertices.
    albedo: `(f, 3)` in [0, 1].
    parts: `(f,)` labels.
    """

    normals: Floats
    faces: NDArray[Any]
    albedo: Floats
    parts: NDArray[Any]


class Light(NamedTuple):
    """direction: `(3,)`, of length 1. ambient: share that comes from everywhere, in [0, 1]."""

    direction: Floats
    ambient: np.float32


class Cameras(NamedTuple):
    """right, towards: axes `(views, 3)`. mirrored: `(views,)`. half_extent: metres."""

    right: Floats
    towards: Floats
    mirrored: NDArray[np.bool_]
    half_extent: np.float32


class Views(NamedTuple):
    """The stored views of n bodies: uint8, mirrored views mirrored, white background.

    normals, colours: `(n, 6, 3, s, s)`; labels `(n, 6, s, s)` index into the parts of a body; alpha
    `(n, 6, s, s)` coverage. A kernel takes the views of one body.
    """

    normals: Bytes
    colours: Bytes
    labels: Bytes
    alpha: Bytes


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
        # As long as twice the area, so large faces count more in the sum.
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
        # Positive for front faces, because y points down.
        area = (cx - ax) * (by - ay) - (bx - ax) * (cy - ay)
        # Back faces are hidden by front ones in a closed body; slivers would divide by almost 0.
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
                # Barycentric weights: each is the area opposite its corner over the whole.
                wa = ((cx - px) * (by - py) - (bx - px) * (cy - py)) / area
                wb = ((ax - px) * (cy - py) - (cx - px) * (ay - py)) / area
                wc = 1 - wa - wb
                # Edges belong to both of their faces, so no gap shows between them.
                if wa >= 0 and wb >= 0 and wc >= 0:
                    z = wa * az + wb * bz + wc * cz
                    if z > depth[y, x]:
                        depth[y, x] = z
                        face[y, x] = f
                        bary[y, x, 0] = wa
                        bary[y, x, 1] = wb


@numba.njit(cache=True, nogil=True, fastmath=True)
def render_views(points, surface, light, cameras, samples, out):  # type: ignore[no-untyped-def]
    """The views of one posed body with vertices `points`, written into the arrays of `out`,
    `(views, ..., s, s)`, each pixel the mean of `samples` x `samples`."""
    fine = out.labels.shape[1] * samples
    depth = np.empty((fine, fine), np.float32)
    face = np.empty((fine, fine), np.int32)
    bary = np.empty((fine, fine, 2), np.float32)
    screen = np.empty_like(points)
    for view in range(len(cameras.right)):
        _project(points, cameras, view, fine, screen)
        rasterise(screen, surface.faces, depth, face, bary)
        one = Views(out.normals[view], out.colours[view], out.labels[view], out.alpha[view])
        _resolve(face, bary, surface, light, cameras.mirrored[view], samples, one)


@numba.njit(cache=True, nogil=True, fastmath=True)
def _project(points, cameras, view, fine, screen):  # type: ignore[no-untyped-def]
    """Orthographic: pixels to the right and down, and the depth towards the camera."""
    right, towards, half_extent = cameras.right[view], cameras.towards[view], cameras.half_extent
    for i in range(len(points)):
        x = points[i, 0] * right[0] + points[i, 1] * right[1] + points[i, 2] * right[2]
        screen[i, 0] = (x / half_extent + 1) * 0.5 * fine
        screen[i, 1] = (1 - points[i, 1] / half_extent) * 0.5 * fine
        # Cameras stand level, so height does not change the depth.
        screen[i, 2] = points[i, 0] * towards[0] + points[i, 2] * towards[2]


@numba.njit(cache=True, nogil=True, fastmath=True)
def _shade(  # type: ignore[no-untyped-def]
    wa, wb, corners, normals, albedo, light, normal, total
):
    """Add one fine pixel to `total`: three numbers of its normal's colour, three of its own.

    wa, wb: barycentric weights of the first two of the face's `corners`.
    """
    for c in range(3):
        normal[c] = (
            wa * normals[corners[0], c]
            + wb * normals[corners[1], c]
            + (1 - wa - wb) * normals[corners[2], c]
        )
    # Interpolated normals are shorter than 1.
    normal /= np.sqrt(normal[0] ** 2 + normal[1] ** 2 + normal[2] ** 2) + 1e-12
    to = light.direction
    lambert = max(0.0, normal[0] * to[0] + normal[1] * to[1] + normal[2] * to[2])
    brightness = light.ambient + (1 - light.ambient) * lambert
    for c in range(3):
        # y and z are flipped, as PSHuman does.
        total[c] += 0.5 + (0.5 if c == 0 else -0.5) * normal[c]
        total[3 + c] += albedo[c] * brightness


@numba.njit(cache=True, nogil=True, fastmath=True)
def _resolve(face, bary, surface, light, mirror, samples, out):  # type: ignore[no-untyped-def]
    """Average the fine pixels over white; a label is that of most of its covered fine pixels."""
    size = out.labels.shape[0]
    share = 1.0 / (samples * samples)
    # More than there are parts.
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
                votes[surface.parts[f]] += 1
                wa, wb = bary[fy, fx, 0], bary[fy, fx, 1]
                corners, colour = surface.faces[f], surface.albedo[f]
                _shade(wa, wb, corners, surface.normals, colour, light, normal, total)
            white = samples * samples - covered  # fine pixels of background
            px = size - 1 - x if mirror else x
            for c in range(3):
                out.normals[c, y, px] = np.uint8(255 * share * (total[c] + white) + 0.5)
                out.colours[c, y, px] = np.uint8(
                    255 * min(1.0, share * (total[3 + c] + white)) + 0.5
                )
            out.alpha[y, px] = np.uint8(255 * share * covered + 0.5)
            # A pixel that is mostly background is background.
            out.labels[y, px] = votes.argmax() if 2 * covered >= samples * samples else 0
