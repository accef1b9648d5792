"""Coloured triangle meshes: their surface, and pictures of them.

The frame is that of the condition camera (`camera.py`): x right, y up, z towards it, metres.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rewardft_plugins.humans.camera import HALF_EXTENT, MIRRORED, view_axes
from rewardft_plugins.humans.raster import rasterise, vertex_normals
from rewardft_plugins.humans.render import SAMPLES

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

CLAY = (0.72, 0.75, 0.80)  # of meshes without colours
_AMBIENT = 0.55


@dataclass(frozen=True)
class Mesh:
    """vertices `(v, 3)` float32 metres; faces `(f, 3)` int32, counter-clockwise from outside;
    colours `(v, 3)` float32 in [0, 1], or None."""

    vertices: Floats
    faces: NDArray[np.int32]
    colours: Floats | None = None

    def normals(self) -> Floats:
        """Area-weighted unit normals of the vertices, `(v, 3)`."""
        found: Floats = vertex_normals(np.ascontiguousarray(self.vertices), self.faces)
        return found

    def subdivided(self) -> Mesh:
        """Every triangle in four, corners in the middle of its edges; no colours."""
        # Sorted, so that both triangles at an edge find the same middle.
        edges = np.sort(self.faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1)
        unique, place = np.unique(edges, axis=0, return_inverse=True)
        middle = place.reshape(-1, 3) + len(self.vertices)  # of the edges ab, bc and ca
        (a, b, c), (ab, bc, ca) = self.faces.T, middle.T
        faces = np.stack([a, ab, ca, ab, b, bc, ca, bc, c, ab, bc, ca], axis=1).reshape(-1, 3)
        vertices = np.concatenate([self.vertices, self.vertices[unique].mean(axis=1)])
        return Mesh(vertices.astype(np.float32), np.ascontiguousarray(faces, dtype=np.int32))


def stored_views(mesh: Mesh, size: int) -> tuple[Bytes, Bytes]:
    """Normals and unlit colours in the six stored views, `(6, 3, size, size)` uint8 each, on white.

    As `render.render` paints them: normals with y and z flipped, back and left mirrored.
    """
    normals = mesh.normals()
    # Normals from [-1, 1] to colours; (v, 6) with the mesh's own beside them.
    painted = np.concatenate([0.5 + 0.5 * normals * (1, -1, -1), _colours(mesh)], axis=1)
    pictures = []
    for right, towards, mirrored in zip(*view_axes(), MIRRORED):
        picture = paint(mesh, painted, right, towards, size)
        pictures.append(picture[:, :, ::-1] if mirrored else picture)
    both = np.stack(pictures)
    return both[:, :3], both[:, 3:]


def turntable(mesh: Mesh, count: int = 8, size: int = 128, start: float = 0.0) -> Bytes:
    """Pictures of a mesh from `count` azimuths around it, `(count, 3, size, size)` uint8 on white.

    start: azimuth of the first in degrees; 0 is the front view. A light beside the camera shades
    the surface, so that its form can be seen in a small picture.
    """
    normals = mesh.normals()
    pictures = []
    for angle in np.deg2rad(start + 360.0 * np.arange(count) / count):
        # Axes of a level camera at this azimuth, as in `camera.view_axes`.
        right = np.array([np.cos(angle), 0.0, -np.sin(angle)], np.float32)
        towards = np.array([np.sin(angle), 0.0, np.cos(angle)], np.float32)
        light = 0.7 * towards + (0.0, 0.6, 0.0) - 0.4 * right
        shade = (normals @ (light / np.linalg.norm(light))).clip(0.0)
        lit = _colours(mesh) * (_AMBIENT + (1 - _AMBIENT) * shade[:, None])
        pictures.append(paint(mesh, lit, right, towards, size))
    return np.stack(pictures)


def paint(mesh: Mesh, values: Floats, right: Floats, towards: Floats, size: int) -> Bytes:
    """Interpolate values `(v, c)` in [0, 1] of the vertices over one orthographic picture.

    right, towards: axes of the camera, `(3,)`. Returns `(c, size, size)` uint8 on white, each
    pixel the mean of `SAMPLES` x `SAMPLES`.
    """
    fine = size * SAMPLES
    _, face, bary = depth_picture(mesh, right, towards, fine)
    weights = np.concatenate([bary, 1 - bary.sum(axis=-1, keepdims=True)], axis=-1)
    covered = face >= 0
    # White where nothing is.
    picture = np.ones((fine, fine, values.shape[1]), np.float32)
    corners = values[mesh.faces[face[covered]]]
    picture[covered] = (corners * weights[covered][..., None]).sum(axis=1)
    # Averaged with the background: edges get a mixture, as `render.render` gives them.
    blocks = picture.reshape(size, SAMPLES, size, SAMPLES, -1).mean(axis=(1, 3))
    return (255 * blocks.clip(0, 1) + 0.5).astype(np.uint8).transpose(2, 0, 1)


def depth_picture(
    mesh: Mesh, right: Floats, towards: Floats, size: int
) -> tuple[Floats, NDArray[np.int32], Floats]:
    """Depth towards the camera in metres (-inf: nothing there), face (-1) and two barycentric
    weights of the nearest surface at each pixel: `(size, size)`, twice, and `(size, size, 2)`."""
    # (v, 3): pixels to the right and down, depth in metres towards the camera.
    screen = np.stack(
        [
            (mesh.vertices @ right / HALF_EXTENT + 1) * 0.5 * size,
            (1 - mesh.vertices[:, 1] / HALF_EXTENT) * 0.5 * size,
            mesh.vertices @ towards,
        ],
        axis=1,
    ).astype(np.float32)
    # The kernel fills these; pixels without a face keep their weights of 0.
    depth = np.empty((size, size), np.float32)
    face = np.empty((size, size), np.int32)
    bary = np.zeros((size, size, 2), np.float32)
    rasterise(screen, mesh.faces, depth, face, bary)
    return depth, face, bary


def seen(mesh: Mesh, right: Floats, towards: Floats, size: int = 96) -> NDArray[np.bool_]:
    """Which vertices `(v,)` a camera sees: they face it and nothing is clearly before them."""
    depth, _, _ = depth_picture(mesh, right, towards, size)
    x = ((mesh.vertices @ right / HALF_EXTENT + 1) * 0.5 * size).astype(int).clip(0, size - 1)
    y = ((1 - mesh.vertices[:, 1] / HALF_EXTENT) * 0.5 * size).astype(int).clip(0, size - 1)
    # Two pixels of tolerance in depth: a vertex is on the surface that hides it.
    near = mesh.vertices @ towards > depth[y, x] - 2 * HALF_EXTENT / size * 2
    # At grazing angles a pixel covers too much surface for its colour to belong to one vertex.
    facing: NDArray[np.bool_] = near & (mesh.normals() @ towards > 0.2)
    return facing


def _colours(mesh: Mesh) -> Floats:
    plain = np.broadcast_to(np.asarray(CLAY, np.float32), mesh.vertices.shape)
    return plain if mesh.colours is None else mesh.colours
