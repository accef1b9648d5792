"""What goes into which split. Splits are by clip, and plain and acrobatic clips are kept apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rewardft_plugins.humans.clip import Clip

from rewardft.errors import DataError, did_you_mean

TARGETS = ("none", "val", "all")


@dataclass(frozen=True)
class SplitPlan:
    """What goes into one split.

    name: of the split.
    clips: whole clips, in no other split.
    poses: how many poses farthest-point sampling takes.
    neighbours: consecutive frames per pose, itself among them.
    yaws: random headings per frame.
    targets: also store the six views.
    limit: the most samples.
    tumble: fraction of the samples that are turned at random about any axis, 0 to 1.
    """

    name: str
    clips: Sequence[Clip]
    poses: int = 1500
    neighbours: int = 10
    yaws: int = 1
    targets: bool = False
    limit: int | None = None
    tumble: float = 0.0


@dataclass(frozen=True)
class Sampling:
    """How many samples each split takes from the clips.

    poses, neighbours, yaws, tumble: of each training split, as in `SplitPlan`.
    val_samples: of each validation split.
    targets: the splits that also store the six views: none, val or all.

    Raises DataError for a number that is not positive, a `tumble` that is not within 0 and 1, more
    headings than whole degrees, and other `targets`.
    """

    poses: int = 1500
    neighbours: int = 10
    yaws: int = 1
    val_samples: int = 128
    tumble: float = 0.0
    targets: str = "val"

    def __post_init__(self) -> None:
        counts = ("poses", "neighbours", "yaws", "val_samples")
        values = {name.replace("_", "-"): getattr(self, name) for name in counts}
        # All wrong ones at once, so that a command need not be tried again for each.
        if wrong := [f"{name} is {value}" for name, value in values.items() if value < 1]:
            raise DataError(f"{', '.join(wrong)}; expected at least 1.")
        if self.yaws > 360:
            raise DataError(
                f"yaws is {self.yaws}; expected at most 360, because headings are whole degrees."
            )
        if not 0 <= self.tumble <= 1:
            raise DataError(f"tumble is {self.tumble}; expected a share from 0 to 1.")
        if self.targets not in TARGETS:
            raise DataError(f"targets is {self.targets!r}.{did_you_mean(self.targets, TARGETS)}")


def plan_splits(clips: Sequence[Clip], sampling: Sampling | None = None) -> list[SplitPlan]:
    """Plan `plain_train`, `plain_val`, `acro_train` and `acro_val`, those of them that have clips.

    Validation splits take samples that are far apart, turned to several headings where there are
    fewer frames than samples. Raises DataError where there are no clips.
    """
    of = sampling or Sampling()
    plans = []
    # Apart, so that a base can be trained on plain poses, and the reward has the others to teach.
    for kind, plain in (("plain", True), ("acro", False)):
        if train := [clip for clip in clips if clip.plain == plain and clip.split == "train"]:
            amounts = (of.poses, of.neighbours, of.yaws, of.targets == "all")
            plans.append(SplitPlan(f"{kind}_train", train, *amounts, tumble=of.tumble))
        if held_out := [clip for clip in clips if clip.plain == plain and clip.split == "val"]:
            views = of.targets != "none"
            plans.append(_validation(f"{kind}_val", held_out, of.val_samples, views))
    if not plans:
        raise DataError("there are no motion clips to build a data set from.")
    return plans


def _validation(name: str, clips: list[Clip], samples: int, targets: bool) -> SplitPlan:
    # One frame per pose, and as many headings (rounded up) as make up for missing frames.
    frames = sum(len(clip.poses) for clip in clips)
    return SplitPlan(name, clips, samples, 1, min(360, -(-samples // frames)), targets, samples)
