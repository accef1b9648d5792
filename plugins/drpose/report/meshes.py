"""Meshes in a comparison report, which can be turned: base, tuned and truth of each variant's first
finished run. They are kept in the run's folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rewardft_plugins.drpose.mesh.make import distance_line, run_meshes
from rewardft_plugins.drpose.report.damage import damage_told
from rewardft_plugins.drpose.report.sections import has_poses
from rewardft_plugins.humans.mesh import Mesh
from rewardft_plugins.humans.viewer import Row, rows_html

from rewardft.runs.open import open_run, step_of_trained

if TYPE_CHECKING:
    from rewardft.contracts.records import ComparisonRecord, Section

SAMPLES = 2  # of each variant: a mesh is 0.2 MB of the page
CACHE = "mesh_report.npz"
WHO = ("base", "tuned", "truth")


def mesh_sections(record: ComparisonRecord, folder: Path) -> list[Section]:
    """A section with the meshes of all variants that have poses; no section if none has."""
    from rewardft.contracts.records import Section

    rows: list[Row] = []
    for variant in record.variants:
        run = next((run for run in variant.runs if has_poses(run, folder)), None)
        if run is not None:
            # The first finished run stands for the variant: meshes of all seeds would be a page of
            # megabytes.
            for name, meshes in kept_meshes(folder / run.folder):
                line = distance_line(f"{variant.name} (seed {run.seed}), {name}", dict(meshes))
                rows.append((line, meshes))
    if not rows:
        return []
    text = (
        "<p>Bodies fitted to the generated views of held-out acrobatic samples, and the true ones. "
        "So few samples show what changed; intervals are in the tables, where mesh_judge ran.</p>"
    )
    return [Section(title="Meshes", html=text + rows_html(rows), plugin="drpose")]


def kept_meshes(folder: Path) -> list[Row]:
    """Meshes of a run, made now or kept from before, if it was evaluated in the same way."""
    session = open_run(folder)
    # All that determines the meshes: kept ones are used only if they would come out the same.
    settings = json.dumps(
        [session.evaluation_settings(SAMPLES), step_of_trained(folder / "adapter")], sort_keys=True
    )
    path = folder / CACHE
    rows = _read(path, settings)
    if rows is None:
        rows = run_meshes(folder, SAMPLES)
        _write(path, settings, rows)
    return rows


def _write(path: Path, settings: str, rows: list[Row]) -> None:
    parts: dict[str, Any] = {"settings": np.array(settings)}
    parts["names"] = np.array([name for name, _ in rows])
    for row, (_, meshes) in enumerate(rows):
        for who, mesh in meshes:
            for field, value in vars(mesh).items():
                parts[f"{row}_{who}_{field}"] = value
    # Renamed when complete; the ending must be .npz, or numpy appends it.
    temporary = path.with_suffix(".tmp.npz")
    np.savez_compressed(temporary, **parts)
    temporary.replace(path)


def _read(path: Path, settings: str) -> list[Row] | None:
    if not path.is_file():
        return None
    # A cache is a file like any other: nothing in it is unpickled.
    with damage_told(path), np.load(path, allow_pickle=False) as data:
        if str(data["settings"]) != settings:
            return None
        fields = ("vertices", "faces", "colours")
        return [
            (
                str(name),
                [(who, Mesh(*(data[f"{row}_{who}_{field}"] for field in fields))) for who in WHO],
            )
            for row, name in enumerate(data["names"])
        ]
