"""Meshes as files that other programs open: `.glb` (glTF 2.0) and `.ply`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rewardft_plugins.humans.mesh import Mesh

from rewardft.errors import ComponentError
from rewardft.files.atomic import make_folder, write_bytes

FORMATS = ("glb", "ply")


def write_mesh(mesh: Mesh, path: Path) -> None:
    """Write a mesh with the colours of its vertices; the file's suffix chooses the format.

    y is up, units are metres, the origin is the middle of the body's pictures, and the body is
    turned as in its front view. Raises `ComponentError` for another ending, or without trimesh.
    """
    kind = path.suffix.removeprefix(".")
    if kind not in FORMATS:
        raise ComponentError(f"meshes are written as .glb or .ply, got {path.name!r}")
    make_folder(path.parent)
    write_bytes(path, bytes(as_trimesh(mesh).export(file_type=kind)))


def as_trimesh(mesh: Mesh) -> Any:
    """The mesh as trimesh's own class, its vertices unchanged."""
    try:
        import trimesh
    except ImportError as error:
        raise ComponentError(
            "writing meshes needs the package trimesh, which is not installed: pip install "
            "'rewardft[mesh]'."
        ) from error
    colours = None if mesh.colours is None else (255 * mesh.colours + 0.5).astype("uint8")
    return trimesh.Trimesh(mesh.vertices, mesh.faces, vertex_colors=colours, process=False)
