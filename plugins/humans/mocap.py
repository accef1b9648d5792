"""Motion-capture files as joint positions: BVH and DeepMimic's text format;
`retarget.py` makes poses of them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rewardft_plugins.humans.motion import Clip, classify, thin
from rewardft_plugins.humans.retarget import solve
from rewardft_plugins.humans.rigs import HUMANOID, HUMANOID_COLUMNS, RIGS, smplx_joint_names
from scipy.spatial.transform import Rotation

from rewardft.errors import DataError

Doubles = NDArray[np.float64]
Positions = dict[str, Doubles]
"""World position of each joint by name, `(frames, 3)`, y up. Units do not matter: only directions
are used."""


def read_mocap(path: Path) -> Clip:
    """Read a `.bvh` or DeepMimic `.txt` file and retarget it.

    Raises:
        DataError: the file is damaged, or its joints do not have names that are known.
    """
    text = _text(path)
    try:
        positions, fps = parse_bvh(text) if path.suffix.lower() == ".bvh" else parse_deepmimic(text)
    except (ValueError, KeyError, IndexError, TypeError, OverflowError, RecursionError) as error:
        raise DataError(f"{path} is damaged or not what its name says: {error}") from error
    poses = solve(_smplx_names(path, positions))
    if not np.isfinite(poses).all():
        raise DataError(f"{path}: joint positions are not finite.")
    return classify(path.stem.replace("humanoid3d_", "dm_"), poses, fps)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not a readable text file: {error}") from error


@dataclass
class _BvhJoint:
    name: str
    parent: int
    offset: Doubles = field(default_factory=lambda: np.zeros(3))
    channels: list[str] = field(default_factory=list)


def parse_bvh(text: str) -> tuple[Positions, float]:
    """Parse BVH; return joint positions of at most about 30 frames per second, and that rate.

    Raises:
        ValueError: it is not complete BVH.
    """
    head, separator, motion = text.partition("MOTION")
    if not separator or not head.lstrip().startswith("HIERARCHY"):
        raise ValueError("it lacks HIERARCHY or MOTION")
    joints = _bvh_joints(head)
    rows, fps = _bvh_rows(motion, sum(len(joint.channels) for joint in joints))
    return _bvh_positions(joints, rows), fps


def _bvh_joints(head: str) -> list[_BvhJoint]:
    joints: list[_BvhJoint] = []
    open_blocks: list[int | None] = []  # None: an end site, whose offset is not a joint
    for words in (line.split() for line in head.splitlines()):
        inside = open_blocks[-1] if open_blocks else None
        match words:
            case ["ROOT" | "JOINT", *name]:
                joints.append(_BvhJoint(" ".join(name), -1 if inside is None else inside))
                open_blocks.append(len(joints) - 1)
            case ["End", *_]:
                open_blocks.append(None)
            case ["OFFSET", x, y, z] if inside is not None:
                joints[inside].offset = np.array([float(x), float(y), float(z)])
            case ["CHANNELS", count, *names] if inside is not None:
                if int(count) != len(names):
                    raise ValueError(
                        f"joint {joints[inside].name} announces {count} channels and lists "
                        f"{len(names)}"
                    )
                joints[inside].channels = names
            case ["}"]:
                if not open_blocks:
                    raise ValueError("a closing brace too many")
                open_blocks.pop()
            case _:
                pass
    if open_blocks or not joints:
        raise ValueError("the hierarchy is cut short")
    return joints


def _bvh_rows(motion: str, columns: int) -> tuple[Doubles, float]:
    lines = motion.strip().splitlines()
    count, seconds = int(lines[0].split()[1]), float(lines[1].split()[2])
    if not 1e-4 <= seconds <= 1.0 or count < 1:
        raise ValueError(f"{count} frames of {seconds} s")
    if len(lines) - 2 < count:
        raise ValueError(f"{len(lines) - 2} frames of the {count} that it announces")
    kept, fps = thin(np.arange(count), 1.0 / seconds)
    rows = np.array([[float(word) for word in lines[2 + i].split()] for i in kept])
    if rows.ndim != 2 or rows.shape[1] != columns:
        raise ValueError(f"frames of {rows.shape[-1]} numbers, expected {columns}")
    return rows, fps


def _bvh_positions(joints: list[_BvhJoint], rows: Doubles) -> Positions:
    positions: list[Doubles] = []
    turned: list[Rotation] = []
    column = 0
    for joint in joints:
        shift, order, angles = np.tile(joint.offset, (len(rows), 1)), "", []
        for channel in joint.channels:
            axis = channel[0].upper()
            if channel.lower().endswith("position"):
                shift[:, "XYZ".index(axis)] = rows[:, column]
            else:
                order += axis
                angles.append(rows[:, column])
            column += 1
        # A lone axis wants a column of angles too, hence the stack.
        own = (
            Rotation.from_euler(order, np.stack(angles, 1), degrees=True)
            if order
            else Rotation.identity(len(rows))
        )
        if joint.parent < 0:
            positions.append(shift)
            turned.append(own)
        else:
            positions.append(positions[joint.parent] + turned[joint.parent].apply(shift))
            turned.append(turned[joint.parent] * own)
    return {joint.name: position for joint, position in zip(joints, positions)}


def parse_deepmimic(text: str) -> tuple[Positions, float]:
    """Parse a `humanoid3d_*` motion; return joint positions of at most about 30 frames per second,
    and that rate.

    Raises:
        ValueError: it is not such a motion.
    """
    content: Any = json.loads(text)
    rows = np.array(content["Frames"], dtype=np.float64)
    if rows.ndim != 2 or rows.shape[1] != HUMANOID_COLUMNS:
        raise ValueError(
            f"frames of shape {list(rows.shape)}, expected [frames, {HUMANOID_COLUMNS}]"
        )
    seconds = (
        float(np.median(rows[:-1, 0])) if len(rows) > 1 else 1 / 30
    )  # the last frame has no duration
    if not 1e-4 <= seconds <= 1.0:
        raise ValueError(f"frames of {seconds} s")
    kept, fps = thin(rows, 1.0 / seconds)
    return _humanoid_positions(kept), fps


def _humanoid_positions(rows: Doubles) -> Positions:
    def quaternion(column: int) -> Rotation:
        return Rotation.from_quat(rows[:, [column + 1, column + 2, column + 3, column]])

    positions, turned, column = {"root": rows[:, 1:4]}, {"root": quaternion(4)}, 8
    for joint, parent, offset, kind in HUMANOID:
        positions[joint] = positions[parent] + turned[parent].apply(offset)
        own = Rotation.identity(len(rows))
        if kind == "ball":
            own = quaternion(column)
        elif kind == "hinge":
            own = Rotation.from_rotvec(np.outer(rows[:, column], [0.0, 0.0, 1.0]))
        column += {"ball": 4, "hinge": 1, "fixed": 0}[kind]
        turned[joint] = turned[parent] * own
    positions["head_top"] = positions["neck"] + turned["neck"].apply([0.0, 0.18, 0.0])
    for side in ("left", "right"):
        foot = turned[f"{side}_ankle"].apply([0.18, -0.05, 0.0])
        positions[f"{side}_toe"] = positions[f"{side}_ankle"] + foot
    return positions


def _smplx_names(path: Path, positions: Positions) -> Positions:
    """Rename joints to SMPL-X names,
    by the first rig whose joints are all there (prefixes `name:` are ignored)."""
    bare = {name.rsplit(":", 1)[-1]: value for name, value in positions.items()}
    for rig in RIGS.values():
        names = smplx_joint_names(rig)
        if set(names.values()) <= set(bare):
            return {joint: bare[name] for joint, name in names.items()}
    raise DataError(
        f"{path}: the joints {', '.join(sorted(bare))} belong to no rig that is known."
        f" Rigs that are read: {', '.join(RIGS)}."
    )
