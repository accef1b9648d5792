"""A `pose_pictures` data set from annotated photographs: what the detector sees of each person,
found once."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rewardft_plugins.adhmr.annotated import cut_out, groups_of
from rewardft_plugins.adhmr.annotations import Annotations, read_annotations
from rewardft_plugins.adhmr.build import Shots, write_split
from rewardft_plugins.adhmr.detector import Network, detect
from rewardft_plugins.humans.blazepose import SIDE
from rewardft_plugins.humans.poses.pictures import FORMAT, MANIFEST, VERSION

from rewardft.errors import DataError
from rewardft.files.atomic import make_folder, write_folder


def import_annotations(
    out: Path,
    files: Mapping[str, Path],
    images: Path,
    network: Network,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, Any]:
    """Cut people out, detect and write; `out` is complete or absent. Returns the manifest.

    Args:
        files: annotations of each split, read by `read_annotations`.
        images: folder that their names are relative to.

    Raises DataError when `out` exists, or annotations or pictures are not what they should be.
    """
    if out.exists():
        raise DataError(f"{out} exists; give a folder that does not exist yet.")
    # All are read before any is written or detected, which takes the longest.
    splits = {name: read_annotations(file) for name, file in files.items()}
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "sources": {name: file.name for name, file in files.items()},
        "splits": {},
    }

    def fill(folder: Path) -> None:
        for name, people in splits.items():
            rows = []
            for row in range(len(people.names)):
                # One person at a time, as the detector takes one picture.
                rows.append(seen(people, row, images, network))
                if progress:
                    progress(name, row + 1, len(people.names))
            manifest["splits"][name] = write_split(folder / f"{name}.npz", shots(people), rows)
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")

    make_folder(out.parent)
    write_folder(out, fill)
    return manifest


def seen(people: Annotations, row: int, images: Path, network: Network) -> dict[str, Any]:
    """Columns of one person. Photographs do not say where the pelvis was: the centre is zero."""
    found = detect(cut_out(images, people.names[row], people.boxes[row], SIDE), network)
    return {
        "poses": people.poses[row : row + 1],
        "centres": np.zeros((1, 3), np.float16),
        "landmarks": found.landmarks[None].astype(np.float16),
        "world": found.world[None].astype(np.float16),
        "turned": found.turned[None].astype(np.float16),
    }


def shots(people: Annotations) -> Shots:
    """Ids and groups as `annotated_pictures` has them; a picture's folder is its clip."""
    ids = [f"{name}/{row}" for row, name in enumerate(people.names)]
    clips = [str(Path(name).parent) for name in people.names]
    return Shots(ids, clips, groups_of(people), people.poses)
