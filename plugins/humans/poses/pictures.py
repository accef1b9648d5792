"""Pictures of people with what a detector saw in them, and their true poses: how they are stored.

A data set is a folder with `manifest.json` and one archive for each split. Nothing in it is
pickled.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rewardft_plugins.humans.archives import DAMAGED, fault, read_archive
from rewardft_plugins.humans.poses.mirror import mirror_detected, mirror_poses
from torch import Tensor

from rewardft.errors import DataError, did_you_mean
from rewardft.files.digests import sha256
from rewardft.files.json_text import parse
from rewardft.files.paths import read_text

FORMAT = "rewardft-pose-pictures"
VERSION = 1
MANIFEST = "manifest.json"
SHIPPED = "shipped"
PICTURES = Path(__file__).resolve().parents[1] / "assets" / "pictures"
GROUPS = ("plain", "tilted")
DETECTED = ("landmarks", "world", "turned")
TEXTS = ("ids", "clips", "groups")
NUMBERS = {  # and the shape of each for one picture
    "poses": (22, 3),
    "centres": (3,),
    "landmarks": (33, 4),
    "world": (33, 3),
    "turned": (2,),
}
COLUMNS = (*TEXTS, *NUMBERS)
LARGEST = 2**32  # bytes of a split: some millions of pictures


@dataclass(frozen=True)
class Split:
    """One split: n pictures.

    poses: `(n, 22, 3)` axis-angle in the camera's frame.
    centres: `(n, 3)` metres, the picture's centre from the pelvis.
    detected: what the detector saw, a row for each picture.
    """

    ids: list[str]
    groups: list[str]
    poses: NDArray[np.float32]
    centres: NDArray[np.float32]
    detected: Mapping[str, Tensor]


def find_root(root: str) -> Path:
    """The folder that `root` names: the shipped one, or a path."""
    return PICTURES if root == SHIPPED else Path(root).expanduser()


def read_manifest(root: Path) -> dict[str, Any]:
    """Raises DataError when there is no data set at `root`, or one of another format."""
    path = root / MANIFEST
    try:
        manifest: Any = parse(read_text(path))
    except (DataError, ValueError, RecursionError) as error:
        raise DataError(
            f"{root}: expected a folder that `rewardft adhmr build-dataset` has written ({error})"
        ) from error
    # Another version may have the same columns with another meaning.
    known = isinstance(manifest, dict) and isinstance(manifest.get("splits"), dict)
    if not known or (manifest.get("format"), manifest.get("version")) != (FORMAT, VERSION):
        raise DataError(f"{path}: expected the format {FORMAT}, version {VERSION}; build it again.")
    found: dict[str, Any] = manifest
    return found


@lru_cache(maxsize=8)
def read_split(root: Path, name: str) -> Split:
    """Read and check one split. Raises DataError for one that is missing, damaged or has
    changed."""
    manifest = read_manifest(root)
    entry = manifest["splits"].get(name)
    if entry is None:
        splits = ", ".join(manifest["splits"])
        raise DataError(
            f"{root} has no split {name!r}; it has "
            f"{splits}.{did_you_mean(name, manifest['splits'])}"
        )
    path = root / f"{name}.npz"
    # Checked before it is opened, so that a damaged archive is never parsed.
    listed = entry.get("sha256") if isinstance(entry, dict) else None
    if not path.is_file() or sha256(path) != listed:
        raise DataError(
            f"{path} is missing or differs from its checksum; build the data set again."
        )
    arrays = read_columns(path)
    # float16 on disk halves the file.
    poses = arrays["poses"].astype(np.float32)
    detected = {key: torch.from_numpy(arrays[key].astype(np.float32)) for key in DETECTED}
    ids, groups = arrays["ids"].tolist(), arrays["groups"].tolist()
    return Split(ids, groups, poses, arrays["centres"].astype(np.float32), detected)


def read_columns(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of a split, a row for each picture. Raises DataError for others than are
    written."""
    try:
        arrays = read_archive(path, COLUMNS, LARGEST)
    except DAMAGED as error:
        raise DataError(f"{path} is not a readable .npz archive: {fault(error)}") from error
    if missing := sorted(set(COLUMNS) - set(arrays)):
        raise DataError(f"{path} lacks {', '.join(missing)}; build the data set again.")
    count = len(np.atleast_1d(arrays["ids"]))
    for name, array in arrays.items():
        wanted = (count, *NUMBERS.get(name, ()))
        sound = array.dtype.kind == "U" if name in TEXTS else are_numbers(array)
        if array.shape != wanted or not sound:
            kind = "texts" if name in TEXTS else "finite numbers"
            raise DataError(
                f"{path}: expected {kind} of shape {wanted} in {name!r}, got {array.dtype} of "
                f"shape {array.shape}; build the data set again."
            )
    return arrays


def are_numbers(array: NDArray[Any]) -> bool:
    """Whether all are finite floating-point numbers."""
    return array.dtype.kind == "f" and bool(np.isfinite(array).all())


def read_pictures(root: Path, name: str) -> dict[str, NDArray[np.uint8]]:
    """The pictures `(128, 128, 3)` that a split keeps for figures, by id; empty where it keeps
    none."""
    path = root / f"{name}_pictures.npz"
    if not path.is_file():
        return {}
    with np.load(path, allow_pickle=False) as archive:
        return dict(zip(archive["ids"].tolist(), archive["pictures"]))


def with_mirrored(split: Split) -> Split:
    """The split and its mirror pictures, whose ids end in `/mirrored`."""
    poses = mirror_poses(split.poses)
    seen = mirror_detected(dict(split.detected))
    # What a detector would see in the mirror needs no second run of it.
    return Split(
        split.ids + [f"{id_}/mirrored" for id_ in split.ids],
        split.groups * 2,
        np.concatenate([split.poses, poses]),
        np.concatenate([split.centres, split.centres * np.array([-1, 1, 1], np.float32)]),
        {name: torch.cat([split.detected[name], seen[name]]) for name in DETECTED},
    )
