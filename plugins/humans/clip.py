"""A motion clip: poses at a frame rate, and what kind of motion it is."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from rewardft.errors import DataError

Floats = NDArray[np.float32]

FPS = 30.0
BODY_JOINTS = 22
# Degrees: a clip whose pelvis never tilts further is plain, unless its index says otherwise.
PLAIN_TILT = 45.0
HELD_OUT_SHARE = 0.1


@dataclass(frozen=True)
class Clip:
    """One motion.

    name: unique among the clips of a data set.
    poses: `(frames, 22, 3)` float32 axis-angle, global orientation first, y up.
    fps: frames per second, at most 30.
    plain: upright locomotion, standing or reaching; everything else is acrobatic.
    split: `train` or `val`; a clip is never in both.
    licence: of the motion data, as the index states it.
    """

    name: str
    poses: Floats
    fps: float = FPS
    plain: bool = True
    split: str = "train"
    licence: str = "unknown"


def classify(
    name: str, poses: Floats, fps: float = FPS, licence: str = "unknown", **known: Any
) -> Clip:
    """Make a clip, deriving what is not `known`: plain if the pelvis never tilts by more than 45
    degrees; the split from its name."""
    plain = known.get("plain", bool(tilt(poses).max() <= PLAIN_TILT))
    # By name: a clip is on the same side in every data set, whatever else is in it.
    held_out = zlib.crc32(name.encode()) / 2**32 < HELD_OUT_SHARE
    split = known.get("split", "val" if held_out else "train")
    return Clip(name, poses, fps, plain, split, licence)


def tilt(poses: Floats) -> Floats:
    """Angle between the pelvis' up axis and the vertical in degrees,
    `(frames,)`; over 90 is upside down."""
    # The clip keeps a rounding beyond 1 from becoming NaN.
    up = Rotation.from_rotvec(poses[:, 0]).apply([0.0, 1.0, 0.0])[:, 1]
    return np.rad2deg(np.arccos(np.clip(up, -1.0, 1.0))).astype(np.float32)


def check_unique(clips: Iterable[Clip]) -> list[Clip]:
    """Return the clips as a list.

    Raises:
        DataError: two of them have the same name, so that one clip could stand in two splits.
    """
    listed, seen = list(clips), set()
    for clip in listed:
        if clip.name in seen:
            # The name decides the split: a copy under another name may be on the other side.
            raise DataError(
                f"two motion clips are named {clip.name!r}; give one of the files another name."
            )
        seen.add(clip.name)
    return listed


def thin(frames: NDArray[Any], fps: float) -> tuple[NDArray[Any], float]:
    """Drop frames evenly so that at most about 30 per second remain; return them and their rate."""
    step = max(1, round(fps / FPS))
    return frames[::step], fps / step
