"""`rewardft drpose reconstruct`: meshes of a run's samples or of pictures, as files and a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rewardft_plugins.drpose.data.acrobatic import acrobatic_batch
from rewardft_plugins.drpose.mesh.colour import paint_mesh
from rewardft_plugins.drpose.mesh.evidence import silhouette_depth
from rewardft_plugins.drpose.mesh.files import FORMATS, as_trimesh, write_mesh
from rewardft_plugins.drpose.mesh.pictures import read_views
from rewardft_plugins.drpose.mesh.reconstruct import Reconstructor, true_mesh
from rewardft_plugins.drpose.model.sampler import split_domains
from rewardft_plugins.humans.distances import compare
from rewardft_plugins.humans.mesh import Mesh, turntable
from rewardft_plugins.humans.viewer import Row, page_html

from rewardft.files.atomic import make_folder, write_text
from rewardft.files.paths import file_name
from rewardft.types import Batch, Plan


@dataclass(frozen=True)
class Made:
    """folder: where the meshes are. count: how many. lines: a sentence about each."""

    folder: Path
    count: int
    lines: list[str] = field(default_factory=list)


def from_pictures(source: Path, out: Path, body: str | None) -> Made:
    """Meshes of views in picture files, see `pictures.read_views`."""
    names, normals, colours = read_views(source)
    meshes = Reconstructor(body)(normals, colours).meshes
    rows: list[Row] = [(name, [("mesh", mesh)]) for name, mesh in zip(names, meshes)]
    return Made(out, write_rows(rows, out, f"Meshes of {source.name}"))


def from_run(folder: Path, out: Path, count: int, body: str | None) -> Made:
    """Meshes of a run's first held-out acrobatic samples: base, tuned and truth."""
    rows = run_meshes(folder, count, body)
    lines = [distance_line(heading, dict(meshes)) for heading, meshes in rows]
    return Made(out, write_rows(rows, out, f"Meshes of {folder.name}"), lines)


def run_meshes(folder: Path, count: int, body: str | None = None) -> list[Row]:
    """Base, tuned and true mesh of up to `count` held-out acrobatic samples, same noise."""
    from rewardft.runs.open import load_trained, open_run

    reconstruct = Reconstructor(body)  # whose errors come before any sampling
    session = open_run(folder)
    ctx = session.evaluation_context()
    batch = acrobatic_batch(session.resolved.eval_dataset.build(), count)
    # The same noise for base and tuned: what differs is the fine-tuning alone.
    base = reconstruct(*_views(ctx, batch)).meshes
    load_trained(session, folder)
    tuned = reconstruct(*_views(ctx, batch)).meshes
    truth = coloured_truth(reconstruct, batch)
    return [
        (name, [("base", b), ("tuned", t), ("truth", true)])
        for name, b, t, true in zip(batch.ids, base, tuned, truth)
    ]


def coloured_truth(reconstruct: Reconstructor, batch: Batch) -> list[Mesh]:
    """The bodies that were rendered, with the colours of their views."""
    bare = true_mesh(reconstruct.body, batch["pose"], batch["betas"], batch["offset"])
    depth = silhouette_depth(batch["normals"].float().cpu())
    # Colours need more vertices than the form of a low-poly body.
    fine = [mesh.subdivided() if len(mesh.vertices) < 5000 else mesh for mesh in bare]
    return [paint_mesh(*triple) for triple in zip(fine, batch["colours"].float().cpu(), depth)]


def distance_line(name: str, meshes: dict[str, Mesh]) -> str:
    """How far base and tuned mesh of a sample are from its true one."""
    base, tuned = (compare(meshes[who], meshes["truth"]).chamfer for who in ("base", "tuned"))
    return f"{name}: Chamfer distance {base:.0f} mm before, {tuned:.0f} mm after"


def write_rows(rows: Sequence[Row], out: Path, title: str) -> int:
    """Write every mesh as .glb and .ply, `meshes.html` and `meshes.png`; returns their number."""
    as_trimesh(rows[0][1][0][1])  # without trimesh this fails before anything is written
    make_folder(out)
    for heading, meshes in rows:
        for caption, mesh in meshes:
            stem = file_name(f"{heading}_{caption}")
            for ending in FORMATS:
                write_mesh(mesh, out / f"{stem}.{ending}")
    write_text(out / "meshes.html", page_html(title, rows))
    sheet = np.concatenate([_strip([mesh for _, mesh in meshes]) for _, meshes in rows])
    temporary = out / ".meshes.tmp.png"
    Image.fromarray(sheet).save(temporary)
    temporary.replace(out / "meshes.png")
    return sum(len(meshes) for _, meshes in rows)


def _strip(meshes: Sequence[Mesh]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Each mesh from four sides, `(s, w, 3)`."""
    frames = [frame for mesh in meshes for frame in turntable(mesh, 4, 160, start=-30)]
    return np.ascontiguousarray(np.concatenate(frames, axis=2).transpose(1, 2, 0))


@torch.no_grad()
def _views(ctx: Any, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    rollout = ctx.rollout(batch.to(ctx.device), Plan(stop=ctx.sampler.steps))
    return split_domains(rollout.decoded.float().cpu())
