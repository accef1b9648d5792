"""`drpose15k`: (single image, SMPL-X pose) pairs in the manner of DrPose15K, with six-view targets
where wanted.

A data set is a folder: `manifest.json` and one plain `.npy` file per split and column, opened by
memory mapping. `rewardft drpose build-dataset` writes it (`build.py`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from rewardft_plugins.drpose.data.columns import (
    column_file,
    column_path,
    open_column,
    read_manifest,
    read_samples,
    resolve_split,
    samples_file,
    singular,
    verify_file,
)
from torch import Tensor

from rewardft.errors import DataError
from rewardft.files.paths import Place
from rewardft.recipe.bounds import Count

PAIR_COLUMNS = ("images", "joints", "joints2d", "offsets", "poses", "betas")
TARGET_COLUMNS = ("normals", "colours", "labels")
PICTURES = ("images", "normals", "colours")


class Drpose15k:
    """Pairs of a conditioning image and a pose, in the order of the build (shuffled by its seed).

    Each item holds, with s the picture size:
        id: unique, `clip/frame/yawDDD`. clip: name of the motion clip. plain: whether that is a
            plain clip.
        group: "plain" or "acrobatic"; evaluations are reported for each.
        image: `(3, s, s)` float32 in [0, 1], the front view.
        joints: `(23, 3)` float32 metres in the frame of the condition camera, pelvis at the origin.
        offset: `(3,)` float32 metres, pelvis in the rendered frame: `camera.project(joints +
            offset)` is `joints2d`.
        joints2d: `(6, 23, 2)` float32, [-1, 1] is the picture, x right, y down, mirrored for the
            mirrored views.
        pose: `(22, 3)` float32 axis-angle. betas: `(10,)` float32 body shape.
    and with `targets` also, in the published order of views, back and left stored mirrored:
        normals, colours: `(6, 3, s, s)` float32 in [0, 1] on white.
        labels: `(6, s, s)` uint8, index into `body.PARTS`, 0 = background.
    """

    provides = frozenset({"multiview"})

    def __init__(
        self,
        root: Annotated[str, Place()],
        split: str = "train",
        targets: bool = False,
        limit: Count | None = None,
    ) -> None:
        """Open a split, or several joined by `+`.

        Args:
            root: folder that `rewardft drpose build-dataset` wrote.
            split: name of the split; `train` and `val` mean `acro_train` and `acro_val` unless the
                set has its own. `acro_val+plain_val` is the one after the other.
            targets: also give the six views (normals, colours, labels) of each sample.
            limit: only the first `limit` samples of each split; they are a random choice, because
                samples are stored shuffled.

        Raises:
            DataError: the folder, the split or its targets are missing, a file is truncated or does
                not have the shape that the manifest states, a pose or joint is not finite, or
                `limit` is not positive.
        """
        self.root = Path(root)
        self.manifest = read_manifest(self.root)
        self.parts = [
            _Split(self.root, self.manifest, name, targets, limit) for name in split.split("+")
        ]
        self.split = "+".join(part.split for part in self.parts)
        self.targets = targets

    @staticmethod
    def tags(**options: Any) -> frozenset[str]:
        """`training_targets` when the samples hold the six clean views."""
        return frozenset({"training_targets"}) if options.get("targets") else frozenset()

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def __getitem__(self, index: int) -> dict[str, Any]:
        count = len(self)
        if not -count <= index < count:
            raise IndexError(f"sample {index} of a split of {count}")
        # Negative indices count from the end, as in a list.
        index %= count
        for part in self.parts[:-1]:
            if index < len(part):
                return part[index]
            index -= len(part)
        return self.parts[-1][index]


class _Split:
    """The memory-mapped columns of one split."""

    def __init__(
        self, root: Path, manifest: dict[str, Any], split: str, targets: bool, limit: Count | None
    ) -> None:
        self.root, self.split = root, resolve_split(manifest, split, root)
        entry = manifest["splits"][self.split]
        if targets and not entry["targets"]:
            raise DataError(
                f"split {self.split!r} of {self.root} holds no six-view targets; expected them "
                "because targets is true. Build it with `--targets all`, or take another split."
            )
        if limit is not None and limit < 1:
            raise DataError(
                f"drpose15k: limit is {limit}; expected at least 1, or null for all samples."
            )
        # Six views are most of a data set: they are mapped only where somebody wants them.
        columns = PAIR_COLUMNS + (TARGET_COLUMNS if targets else ())
        self._arrays = {name: open_column(self.root, self.split, name, entry) for name in columns}
        self._samples: list[dict[str, Any]] = read_samples(self.root, self.split, entry)
        # Values first: they say which sample is damaged, a checksum says only which file.
        self._check_finite()
        for name in (samples_file(self.split), *(column_file(self.split, c) for c in columns)):
            verify_file(self.root / name, entry["files"][name])
        self._count = min(len(self._samples), limit or len(self._samples))

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample = self._samples[index]
        # Evaluations report the two groups apart: the base has seen only plain poses.
        plain = bool(sample["plain"])
        item = {
            "id": sample["id"],
            "clip": sample["clip"],
            "plain": plain,
            "group": "plain" if plain else "acrobatic",
        }
        return item | {singular(name): self._tensor(name, index) for name in self._arrays}

    def _tensor(self, name: str, index: int) -> Tensor:
        # A copy: the mapped file is read-only
        row = torch.from_numpy(np.array(self._arrays[name][index]))
        # Pictures are bytes on disk, a quarter of the size.
        return row.float().div_(255.0) if name in PICTURES else row

    def _check_finite(self) -> None:
        for name in ("joints", "joints2d", "offsets", "poses", "betas"):
            # A NaN in a pose would make every loss of its batch NaN, far from its cause.
            bad = ~np.isfinite(self._arrays[name]).reshape(len(self._samples), -1).all(axis=1)
            if bad.any():
                row = int(bad.argmax())
                raise DataError(
                    f"{column_path(self.root, self.split, name)}: row {row} (sample "
                    f"{self._samples[row]['id']}) is not finite ({int(bad.sum())} such rows). The "
                    "data set is damaged; build it again."
                )
