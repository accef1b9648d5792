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

    name: of the split. clips: whole clips, in no other split.
    poses: how many poses farthest-point sampling takes. neighbours: consecutive frames per pose,
        itself among them.
    yaws: random headings per frame. targets: also store the six views. limit: at most so many
        samples. tumble: share of the samples that are turned at random about any axis, 0 to 1.
    """

    name: str
    clips: Sequence[Clip]
    poses: int = 1500
    neighbours: int = 10
    yaws: int = 1
    targets: bool = False
    limit: int | None = None
    tumble: float = 0.0


def plan_splits(
    clips: Sequence[Clip],
    *,
    poses: int = 1500,
    neighbours: int = 10,
    yaws: int = 1,
    targets: str = "val",
    val_samples: int = 128,
    tumble: float = 0.0,
) -> list[SplitPlan]:
    """Plan `plain_train`, `plain_val`, `acro_train` and `acro_val`, those of them that have clips.

    Training splits take `poses` poses with their neighbours; validation splits take `val_samples`
    samples that are far apart, turned to several headings where there are fewer frames. `tumble`
    is of training splits alone.

    Raises:
        DataError: `targets` is none of `none`, `val`, `all`, or a number is not positive, `tumble`
            is not within 0 and 1, or there are no clips.
    """
    _check_numbers(poses, neighbours, yaws, val_samples, tumble, targets)
    plans = []
    for kind, plain in (("plain", True), ("acro", False)):
        if train := [clip for clip in clips if clip.plain == plain and clip.split == "train"]:
            whole = targets == "all"
            name = f"{kind}_train"
            plans.append(SplitPlan(name, train, poses, neighbours, yaws, whole, tumble=tumble))
        if held_out := [clip for clip in clips if clip.plain == plain and clip.split == "val"]:
            plans.append(_validation(f"{kind}_val", held_out, val_samples, targets != "none"))
    if not plans:
        raise DataError("there are no motion clips to build a data set from.")
    return plans


def _check_numbers(
    poses: int, neighbours: int, yaws: int, val_samples: int, tumble: float, targets: str
) -> None:
    numbers = {"poses": poses, "neighbours": neighbours, "yaws": yaws, "val-samples": val_samples}
    if wrong := [f"{name} is {value}" for name, value in numbers.items() if value < 1]:
        raise DataError(f"{', '.join(wrong)}; expected at least 1.")
    if yaws > 360:
        raise DataError(
            f"yaws is {yaws}; expected at most 360, because headings are whole degrees."
        )
    if not 0 <= tumble <= 1:
        raise DataError(f"tumble is {tumble}; expected a share from 0 to 1.")
    if targets not in TARGETS:
        raise DataError(f"targets is {targets!r}.{did_you_mean(targets, TARGETS)}")


def _validation(name: str, clips: list[Clip], samples: int, targets: bool) -> SplitPlan:
    frames = sum(len(clip.poses) for clip in clips)
    return SplitPlan(name, clips, samples, 1, min(360, -(-samples // frames)), targets, samples)
