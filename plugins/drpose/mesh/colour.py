"""Colours of a mesh's vertices from the six views that show it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from rewardft_plugins.drpose.mesh.evidence import project, sample
from rewardft_plugins.drpose.mesh.fit import VIEW_WEIGHTS
from rewardft_plugins.humans.camera import view_axes
from rewardft_plugins.humans.mesh import Mesh, seen
from scipy import sparse
from torch import Tensor

_EDGE = 0.03  # metres from the silhouette's edge, where pixels are mixed with the background


def paint_mesh(mesh: Mesh, colours: Tensor, depth: Tensor) -> Mesh:
    """The mesh with the colours of the views that see each vertex.

    Each view is weighted by the square of the cosine to its camera, times PSHuman's trust in it.
    Vertices that no view shows take the mean of their neighbours.

    Args:
        mesh: metres, in the frame of the condition camera.
        colours: `(6, 3, s, s)` in [0, 1]; depth: `(6, S, S)` metres inside the silhouettes.
    """
    # (1, 6, v, 2) in [-1, 1].
    places = project(torch.from_numpy(mesh.vertices)[None])
    read = sample(colours[None], places)[0].clamp(0, 1).numpy()  # (6, v, 3)
    # Near the edge a pixel is a mixture with white.
    inside = sample(depth[None, :, None], places)[0, ..., 0].numpy() > _EDGE
    right, towards = view_axes()
    shown = np.stack([seen(mesh, *axes) for axes in zip(right, towards)]) & inside
    cosine = (mesh.normals() @ towards.T).T.clip(0)
    # Squared, so that a view from the front drowns one at a grazing angle.
    weight = shown * cosine**2 * VIEW_WEIGHTS.numpy()[:, None]  # (6, v)
    total = weight.sum(axis=0)
    found = (read * weight[..., None]).sum(axis=0) / np.maximum(total, 1e-9)[:, None]
    return replace(mesh, colours=_fill(found, total > 1e-6, mesh).astype(np.float32))


def _fill(
    colours: NDArray[np.float32], known: NDArray[np.bool_], mesh: Mesh
) -> NDArray[np.float32]:
    """Spread the known colours to the other vertices, ring by ring; vertices that no known one
    reaches are grey."""
    # Three directed edges a face; with the transpose every neighbour counts both ways.
    ones = np.ones(3 * len(mesh.faces))
    start, end = mesh.faces.ravel(), mesh.faces[:, [1, 2, 0]].ravel()
    shape = (len(colours), len(colours))
    edges = sparse.csr_matrix((ones, (start, end)), shape=shape)
    edges = edges + edges.T
    colours, known = colours.copy(), known.copy()
    while not known.all():
        # (v,): how many neighbours have a colour.
        count = edges @ known.astype(np.float64)
        new = ~known & (count > 0)
        if not new.any():
            colours[~known] = 0.5
            break
        total = edges @ (colours * known[:, None])
        colours[new] = total[new] / count[new, None]
        known |= new
    return colours
