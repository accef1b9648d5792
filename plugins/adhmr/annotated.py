"""`annotated_pictures`: people in pictures of other data sets, read from their own annotations."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from rewardft_plugins.adhmr.annotations import Annotations, read_annotations
from rewardft_plugins.adhmr.dataset import chosen
from rewardft_plugins.adhmr.space import pack_rotations
from rewardft_plugins.humans.clip import tilt
from rewardft_plugins.humans.poses.skeleton import shipped_skeleton
from torch import Tensor

from rewardft.errors import DataError
from rewardft.files.pictures import decoded, read_inside
from rewardft.recipe.bounds import Count

MARGIN = 1.25  # the square that is cut out, in longer sides of the box
LEANING = 60.0  # degrees of the pelvis: from there on, tilted


class AnnotatedPictures:
    """Items: id, group (plain or tilted, in the camera's frame), `pose` `(118,)`, the truth as a
    clean sample, and with `images` also `picture` `(3, side, side)` in [0, 1].

    Args:
        file: HumanData as `.npz`, or annotations of ScoreHypo as `.json`.
        images: folder that the annotations' names are relative to; null: no pictures, only truths.
        side: of the pictures, in pixels.
        group, limit: as in `pose_pictures`.
    """

    provides = frozenset({"training_targets"})

    def __init__(
        self,
        file: Path,
        images: Path | None = None,
        side: Count = 64,
        group: str | None = None,
        limit: Count | None = None,
    ) -> None:
        if side < 8:
            raise DataError(f"side must be at least 8 pixels, got {side}")
        self.people, self.images, self.side = read_annotations(file), images, side
        self.groups = groups_of(self.people)
        self.rows = chosen(self.groups, group, limit)
        self.pose = pack_rotations(torch.from_numpy(self.people.poses), shipped_skeleton())

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        row = self.rows[index]
        item = {
            "id": f"{self.people.names[row]}/{row}",
            "group": self.groups[row],
            "pose": self.pose[row],
        }
        if self.images is None:
            return item
        cut = cut_out(self.images, self.people.names[row], self.people.boxes[row], self.side)
        return item | {"picture": as_tensor(cut)}


def groups_of(people: Annotations) -> list[str]:
    """plain or tilted, by how the pelvis stands in the picture."""
    return ["tilted" if angle >= LEANING else "plain" for angle in tilt(people.poses)]


def cut_out(images: Path, name: str, box: NDArray[np.float32], side: int) -> NDArray[np.uint8]:
    """The square `(side, side, 3)` around a box; what lies beyond the picture is black.

    Raises DataError for a picture that is missing, damaged, or outside `images`.
    """
    where = f"{images}, picture {name!r:.200}"
    picture = decoded(read_inside(images, name, where), where)
    left, top, width, height = (float(value) for value in box)
    # A square, so that nobody is stretched; larger than the box, which often cuts hands and feet.
    half = MARGIN * max(width, height) / 2
    x, y = left + width / 2, top + height / 2
    found = picture.transform(
        (side, side),
        Image.Transform.EXTENT,
        (x - half, y - half, x + half, y + half),
        Image.Resampling.BILINEAR,
    )
    return np.asarray(found)


def as_tensor(picture: NDArray[np.uint8]) -> Tensor:
    """`(h, w, 3)` bytes as `(3, h, w)` in [0, 1]."""
    return torch.from_numpy(picture.copy()).permute(2, 0, 1).float() / 255
