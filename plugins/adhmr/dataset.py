"""`pose_pictures`: what a detector saw in pictures of people, and their true poses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from rewardft_plugins.adhmr.space import pack_rotations
from rewardft_plugins.humans.poses.pictures import (
    GROUPS,
    SHIPPED,
    find_root,
    read_split,
    with_mirrored,
)
from rewardft_plugins.humans.poses.skeleton import shipped_skeleton

from rewardft.errors import DataError, did_you_mean
from rewardft.files.paths import PathOrShipped
from rewardft.recipe.bounds import Count


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
    # Per group, so that a small limit still shows both.
    rows = [[i for i, g in enumerate(groups) if g == name][:limit] for name in wanted]
    return sorted(row for part in rows for row in part)


class PosePictures:
    """Items: id, group (plain or tilted), the detector's columns, and `pose` `(118,)`, the truth as
    a clean sample.

    Args:
        root: folder of the data set; `shipped`: the miniature that comes with the plugin humans.
        split: such as train or val.
        group: plain or tilted alone; null: both.
        limit: only the first `limit` of each group.
        mirrored: each picture also as the mirror shows it.
    """

    provides = frozenset({"training_targets"})

    def __init__(
        self,
        root: PathOrShipped = SHIPPED,
        split: str = "train",
        group: str | None = None,
        limit: Count | None = None,
        mirrored: bool = False,
    ) -> None:
        whole = read_split(find_root(root), split)
        self.split = with_mirrored(whole) if mirrored else whole
        self.pose = pack_rotations(torch.from_numpy(self.split.poses), shipped_skeleton())
        self.rows = chosen(self.split.groups, group, limit)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        row = self.rows[index]
        found = {name: values[row] for name, values in self.split.detected.items()}
        fixed = {"id": self.split.ids[row], "group": self.split.groups[row]}
        return {**fixed, "pose": self.pose[row], **found}
