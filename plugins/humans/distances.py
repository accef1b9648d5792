"""Distances between two surfaces, in millimetres, as reconstruction papers report them.

Points are drawn evenly over each surface; each is compared with the nearest point of the other
surface, which is exact up to the choice among the triangles of its four nearest samples. Nothing
is aligned or scaled first: both surfaces are in the frame of the condition camera.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rewardft_plugins.humans.mesh import Mesh
from scipy.spatial import cKDTree

Doubles = NDArray[np.float64]
Ints = NDArray[np.int64]

SAMPLES = 3000
_CANDIDATES = 4


@dataclass(frozen=True)
class SurfaceDistance:
    """chamfer: mean of `to_truth` and `p2s`, mm.
    to_truth: from the found surface to the true one.
    p2s: "point to surface", from true points to the found surface, as in PSHuman's evaluation.
    consistency: mean cosine between the normals of matched points, both ways, in [-1, 1]."""

    chamfer: float
    to_truth: float
    p2s: float
    consistency: float


def compare(found: Mesh, truth: Mesh, samples: int = SAMPLES, seed: int = 0) -> SurfaceDistance:
    """Distances between two surfaces. samples: points on each. Raises ValueError for no faces."""
    rng = np.random.default_rng(seed)
    drawn = [draw(mesh, samples, rng) for mesh in (found, truth)]
    normals = [face_normals(mesh) for mesh in (found, truth)]
    means, cosines = [], []
    for here, there in ((0, 1), (1, 0)):
        points, faces = drawn[here]
        distance, nearest = distances(points, drawn[there], (found, truth)[there])
        # Metres to millimetres.
        means.append(1000 * distance.mean())
        cosines.append((normals[here][faces] * normals[there][nearest]).sum(axis=1).mean())
    return SurfaceDistance(
        chamfer=float(np.mean(means)),
        to_truth=float(means[0]),
        p2s=float(means[1]),
        consistency=float(np.mean(cosines)),
    )


def draw(mesh: Mesh, count: int, rng: np.random.Generator) -> tuple[Doubles, Ints]:
    """Points spread evenly over a surface, `(count, 3)`, and the face of each, `(count,)`."""
    if not len(mesh.faces):
        raise ValueError("a mesh without faces has no surface to draw points from")
    corners = mesh.vertices[mesh.faces].astype(np.float64)
    areas = np.linalg.norm(_spanned(corners), axis=1).cumsum()
    # One in each of `count` equal parts of the area: less noise than independent draws.
    shares = (np.arange(count) + rng.random(count)) / count
    faces = np.searchsorted(areas, shares * areas[-1]).clip(max=len(areas) - 1)
    # The square root makes the density even: area grows with the square of the distance from a
    # corner.
    root, second = np.sqrt(rng.random(count)), rng.random(count)
    weights = np.stack([1 - root, root * (1 - second), root * second], axis=1)
    return (corners[faces] * weights[..., None]).sum(axis=1), faces


def distances(points: Doubles, samples: tuple[Doubles, Ints], mesh: Mesh) -> tuple[Doubles, Ints]:
    """Distance of points `(n, 3)` to a surface of which `samples` were drawn, and the nearest
    face."""
    places, faces = samples
    # The nearest sample is on the nearest triangle nearly always; four make up for the rest.
    _, near = cKDTree(places).query(points, k=_CANDIDATES)
    # Faces of the four nearest samples of each point.
    candidates = faces[near]  # (n, k)
    corners = mesh.vertices[mesh.faces[candidates.ravel()]].astype(np.float64)
    closest = closest_on_triangles(points.repeat(_CANDIDATES, axis=0), corners)
    away = np.linalg.norm(closest.reshape(*candidates.shape, 3) - points[:, None], axis=-1)
    best = away.argmin(axis=1)
    rows = np.arange(len(points))
    return away[rows, best], candidates[rows, best]


def closest_on_triangles(points: Doubles, corners: Doubles) -> Doubles:
    """The point of each triangle `(n, 3, 3)` that is nearest to each of `points`, `(n, 3)`."""
    # Either the foot of the perpendicular is inside, or the nearest point is on an edge.
    edges = [_closest_on_segment(points, corners[:, k], corners[:, (k + 1) % 3]) for k in range(3)]
    options = np.stack(edges)
    nearest = ((options - points) ** 2).sum(axis=-1).argmin(axis=0)
    on_edge = options[nearest, np.arange(len(points))]
    normal = _spanned(corners)
    length2 = np.maximum((normal**2).sum(axis=1, keepdims=True), 1e-24)
    from_corner = points - corners[:, 0]
    foot = points - normal * ((from_corner * normal).sum(axis=1, keepdims=True) / length2)
    inside = np.ones(len(points), dtype=bool)
    for k in range(3):
        side = np.cross(corners[:, (k + 1) % 3] - corners[:, k], foot - corners[:, k])
        inside &= (side * normal).sum(axis=1) >= 0
    # A triangle without area has no normal, and is its edges.
    inside &= length2[:, 0] > 1e-24
    return np.where(inside[:, None], foot, on_edge)


def face_normals(mesh: Mesh) -> Doubles:
    """Unit normals `(f, 3)`; zero for a face without area."""
    normals = _spanned(mesh.vertices[mesh.faces].astype(np.float64))
    return normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)


def _closest_on_segment(points: Doubles, start: Doubles, end: Doubles) -> Doubles:
    along = end - start
    length2 = np.maximum((along**2).sum(axis=1), 1e-18)
    share = (((points - start) * along).sum(axis=1) / length2).clip(0, 1)
    return start + along * share[:, None]


def _spanned(corners: Doubles) -> Doubles:
    """Normals `(n, 3)` of triangles `(n, 3, 3)`, twice their area long."""
    return np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
