"""`pose_pictures`: what a detector saw on pictures of people, and their true poses.

A data set is a folder with `manifest.json` and one archive for each split. Nothing in it is
pickled.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rewardft_plugins.adhmr.mirror import mirror_detected, mirror_poses
from rewardft_plugins.adhmr.skeleton import Skeleton, skeleton_of
from rewardft_plugins.adhmr.space import pack_rotations
from rewardft_plugins.adhmr.weights import ASSETS
from rewardft_plugins.humans.body import load_body
from torch import Tensor

from rewardft.errors import DataError, did_you_mean
from rewardft.files.paths import PathOrShipped

FORMAT = "rewardft-pose-pictures"
VERSION = 1
MANIFEST = "manifest.json"
SHIPPED = "shipped"
GROUPS = ("plain", "tilted")
DETECTED = ("landmarks", "world", "turned")
COLUMNS = ("ids", "clips", "groups", "poses", "centres", *DETECTED)


@dataclass(frozen=True)
class Split:
    """One split: n pictures. `poses` `(n, 22, 3)` axis-angle in the camera's frame; `pose` `(n,
    118)` the same as vectors."""

    ids: list[str]
    groups: list[str]
    poses: NDArray[np.float32]
    centres: NDArray[np.float32]
    pose: Tensor
    detected: Mapping[str, Tensor]

    def item(self, row: int) -> dict[str, Any]:
        """Id, group, the detector's columns and the true pose `(118,)`."""
        found = {name: values[row] for name, values in self.detected.items()}
        return {"id": self.ids[row], "group": self.groups[row], "pose": self.pose[row], **found}


def find_root(root: str) -> Path:
    """The folder that `root` names: the shipped one, or a path."""
    return ASSETS / "data" if root == SHIPPED else Path(root).expanduser()


def read_manifest(root: Path) -> dict[str, Any]:
    """Raises DataError when there is no data set at `root`, or one of another format."""
    path = root / MANIFEST
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{root}: expected a folder that `rewardft adhmr build-dataset` has written ({error})"
        ) from error
    if manifest.get("format") != FORMAT or manifest.get("version") != VERSION:
        raise DataError(f"{path}: expected the format {FORMAT}, version {VERSION}; build it again.")
    return manifest


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
    if not path.is_file() or hash_of(path) != entry["sha256"]:
        raise DataError(
            f"{path} is missing or differs from its checksum; build the data set again."
        )
    with np.load(path, allow_pickle=False) as archive:
        arrays = {column: archive[column] for column in COLUMNS}
    poses = arrays["poses"].astype(np.float32)
    detected = {key: torch.from_numpy(arrays[key].astype(np.float32)) for key in DETECTED}
    pose = pack_rotations(torch.from_numpy(poses), shipped_skeleton())
    ids, groups = arrays["ids"].tolist(), arrays["groups"].tolist()
    return Split(ids, groups, poses, arrays["centres"].astype(np.float32), pose, detected)


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
    return Split(
        split.ids + [f"{id_}/mirrored" for id_ in split.ids],
        split.groups * 2,
        np.concatenate([split.poses, poses]),
        np.concatenate([split.centres, split.centres * np.array([-1, 1, 1], np.float32)]),
        torch.cat([split.pose, pack_rotations(torch.from_numpy(poses), shipped_skeleton())]),
        {name: torch.cat([split.detected[name], seen[name]]) for name in DETECTED},
    )


@lru_cache(maxsize=1)
def shipped_skeleton() -> Skeleton:
    """The skeleton of the body that SMPLX_MODELS names, else of the shipped one."""
    return skeleton_of(load_body(None))


def hash_of(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def chosen(groups: list[str], group: str | None, limit: int | None) -> list[int]:
    """The first `limit` rows of each group, or of the one that is named. Raises DataError for an
    unknown group."""
    if group is not None and group not in GROUPS:
        raise DataError(
            f"group is one of {', '.join(GROUPS)}, got {group!r}.{did_you_mean(group, GROUPS)}"
        )
    if limit is not None and limit < 1:
        raise DataError(f"limit must be at least 1, got {limit}")
    wanted = GROUPS if group is None else (group,)
    rows = [[i for i, g in enumerate(groups) if g == name][:limit] for name in wanted]
    return sorted(row for part in rows for row in part)


class PosePictures:
    """Items: id, group (plain or tilted), the detector's columns, and `pose` `(118,)`, the truth as
    a clean sample.

    Args:
        root: folder of the data set; `shipped`: the miniature that comes with the plugin.
        split: such as train or val.
        group: plain or tilted alone; null: both.
        limit: the first so many of each group.
        mirrored: each picture also as the mirror shows it.
    """

    provides = frozenset({"training_targets"})

    def __init__(
        self,
        root: PathOrShipped = SHIPPED,
        split: str = "train",
        group: str | None = None,
        limit: int | None = None,
        mirrored: bool = False,
    ) -> None:
        whole = read_split(find_root(root), split)
        self.split = with_mirrored(whole) if mirrored else whole
        self.rows = chosen(self.split.groups, group, limit)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        return self.split.item(self.rows[index])
