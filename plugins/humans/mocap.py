"""Motion-capture files as joint positions: BVH and DeepMimic's text format;
`retarget.py` makes poses of them."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rewardft_plugins.humans.clip import Clip, classify, thin
from rewardft_plugins.humans.retarget import solve
from rewardft_plugins.humans.rigs import HUMANOID, HUMANOID_COLUMNS, RIGS, smplx_joint_names
from scipy.spatial.transform import Rotation

from rewardft.errors import DataError
from rewardft.files.paths import read_text

LARGEST_TEXT = 2**27  # bytes: hours of motion
FARTHEST = 1e9  # in whatever unit: a joint further away is an error of the file

Doubles = NDArray[np.float64]
Positions = dict[str, Doubles]
"""World position of each joint by name, `(frames, 3)`, y up. Units do not matter: only directions
are used."""


def read_mocap(path: Path) -> Clip:
    """Read a `.bvh` or DeepMimic `.txt` file and retarget it.

    Raises:
        DataError: the file is damaged, or its joints do not have names that are known.
    """
    text = read_text(path, LARGEST_TEXT)
    try:
        positions, fps = parse_bvh(text) if path.suffix.lower() == ".bvh" else parse_deepmimic(text)
        named = _smplx_names(path, positions)
        # Not `>=` any: a NaN is below nothing, so it is refused as well.
        if not all(np.abs(place).max() < FARTHEST for place in named.values()):
            raise ValueError("a joint is nowhere, or absurdly far away")
        with np.errstate(invalid="ignore", divide="ignore"):  # joints in one place: seen below
            poses = solve(named)
    except (ArithmeticError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise DataError(f"{path} is damaged or not what its name says: {error}") from error
    if not np.isfinite(poses).all():
        raise DataError(f"{path}: joint positions are not finite.")
    return classify(path.stem.replace("humanoid3d_", "dm_"), poses, fps)


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
    parts = re.split(r"^[ \t]*MOTION[ \t\r]*$", text, maxsplit=1, flags=re.M | re.I)
    if len(parts) < 2 or not parts[0].lstrip().upper().startswith("HIERARCHY"):
        raise ValueError("it lacks HIERARCHY or MOTION")
    joints = _bvh_joints(parts[0])
    rows, fps = _bvh_rows(parts[1], sum(len(joint.channels) for joint in joints))
    return _bvh_positions(joints, rows), fps


def _bvh_joints(head: str) -> list[_BvhJoint]:
    """Joints in the order of their channels; an end site is one without, called `NAME End`.

    Braces may stand on the line of what they open, and keywords be written in any case.
    """
    joints: list[_BvhJoint] = []
    blocks: list[int] = []  # the joints whose blocks are open
    waiting = False  # for the brace of a joint that has been named
    for words in (line.split() for line in re.sub(r"([{}])", r"\n\1\n", head).splitlines()):
        keyword = words[0].upper() if words else ""
        if keyword in ("ROOT", "JOINT", "END"):
            parent = blocks[-1] if blocks else -1
            named = f"{joints[parent].name} End" if keyword == "END" and joints else ""
            joints.append(_BvhJoint(named or " ".join(words[1:]), parent))
            waiting = True
        elif keyword == "{" and waiting:
            blocks.append(len(joints) - 1)
            waiting = False
        elif keyword == "}":
            if not blocks:
                raise ValueError("a closing brace too many")
            blocks.pop()
        elif keyword == "OFFSET" and blocks:
            joints[blocks[-1]].offset = np.array(_numbers(words[1:4]))
        elif keyword == "CHANNELS" and blocks:
            joints[blocks[-1]].channels = _channels(joints[blocks[-1]].name, words)
    if blocks or waiting or not joints:
        raise ValueError("the hierarchy is cut short")
    _check_joints(joints)
    return joints


def _channels(joint: str, words: list[str]) -> list[str]:
    """['CHANNELS', '3', 'Zrotation', ...] -> ['zrotation', ...]."""
    names = [word.lower() for word in words[2:]]
    if len(words) < 2 or int(words[1]) != len(names):
        raise ValueError(f"joint {joint} announces {words[1:2]} channels and lists {len(names)}")
    wrong = [name for name in names if not re.fullmatch(r"[xyz](position|rotation)", name)]
    if wrong:
        raise ValueError(f"joint {joint} has the channel {wrong[0]!r}; expected Xposition, ...")
    return names


def _check_joints(joints: list[_BvhJoint]) -> None:
    names = [joint.name for joint in joints]
    twice = [name for name in names if names.count(name) > 1 and not name.endswith(" End")]
    if twice:
        raise ValueError(f"two joints are called {twice[0]!r}")
    if any(joint.offset.shape != (3,) for joint in joints):
        raise ValueError("an OFFSET has fewer than three numbers")


def _bvh_rows(motion: str, columns: int) -> tuple[Doubles, float]:
    # Announced and real numbers of frames differ in files that were cut short.
    lines = [line for line in motion.splitlines() if line.strip()]
    count = _header(lines[:1], r"frames\s*:?\s*(\d{1,9})", "Frames: COUNT")
    seconds = _header(lines[1:2], r"frame\s*time\s*:?\s*(\S+)", "Frame Time: SECONDS")
    if not 1e-4 <= seconds <= 1.0 or count < 1:
        raise ValueError(f"{count:g} frames of {seconds} s")
    if len(lines) - 2 < count:
        raise ValueError(f"{len(lines) - 2} frames of the {count:g} that it announces")
    # Thinned before parsing: files of 120 frames a second are common, and text is slow.
    kept, fps = thin(np.arange(int(count)), 1.0 / seconds)
    rows = [_numbers(lines[2 + i].split()) for i in kept]
    for number, row in zip(kept, rows):
        if len(row) != columns:
            raise ValueError(f"frame {number} has {len(row)} numbers, expected {columns}")
    return np.array(rows), fps


def _header(lines: list[str], pattern: str, expected: str) -> float:
    found = re.fullmatch(pattern, lines[0].strip(), re.I) if lines else None
    if found is None:
        raise ValueError(
            f"expected {expected!r}, got {lines[0].strip() if lines else 'the end'!r:.80}"
        )
    return _numbers([found[1]])[0]


def _numbers(words: list[str]) -> list[float]:
    """Some programs write a decimal comma."""
    return [float(word.replace(",", ".") if word.count(",") == 1 else word) for word in words]


def _bvh_positions(joints: list[_BvhJoint], rows: Doubles) -> Positions:
    positions: list[Doubles] = []
    turned: list[Rotation] = []
    column = 0
    for joint in joints:
        shift, order, angles = np.tile(joint.offset, (len(rows), 1)), "", []
        for channel in joint.channels:
            axis = channel[0].upper()
            if channel.endswith("position"):
                # A position channel gives the place itself and replaces the offset.
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
    # The last frame has no duration.
    seconds = float(np.median(rows[:-1, 0])) if len(rows) > 1 else 1 / 30
    if not 1e-4 <= seconds <= 1.0:
        raise ValueError(f"frames of {seconds} s")
    kept, fps = thin(rows, 1.0 / seconds)
    return _humanoid_positions(kept), fps


def _humanoid_positions(rows: Doubles) -> Positions:
    def quaternion(column: int) -> Rotation:
        # The file has w first, scipy wants it last.
        return Rotation.from_quat(rows[:, [column + 1, column + 2, column + 3, column]])

    positions, turned, column = {"root": rows[:, 1:4]}, {"root": quaternion(4)}, 8
    for joint, parent, offset, kind in HUMANOID:
        positions[joint] = positions[parent] + turned[parent].apply(offset)
        # Local rotations; a fixed joint has none.
        own = Rotation.identity(len(rows))
        if kind == "ball":
            own = quaternion(column)
        elif kind == "hinge":
            own = Rotation.from_rotvec(np.outer(rows[:, column], [0.0, 0.0, 1.0]))
        column += {"ball": 4, "hinge": 1, "fixed": 0}[kind]
        turned[joint] = turned[parent] * own
    # The rig ends at neck and ankle. A point above and one ahead of them, in metres, give their
    # rotations a direction.
    positions["head_top"] = positions["neck"] + turned["neck"].apply([0.0, 0.18, 0.0])
    for side in ("left", "right"):
        foot = turned[f"{side}_ankle"].apply([0.18, -0.05, 0.0])
        positions[f"{side}_toe"] = positions[f"{side}_ankle"] + foot
    return positions


def _smplx_names(path: Path, positions: Positions) -> Positions:
    """Rename joints to SMPL-X names, by the first rig whose joints are all there.

    A prefix that all of them have, such as `mixamorig:`, is passed over, and upper case too.
    """
    known = {name.casefold(): value for name, value in positions.items()}
    for rig in RIGS.values():
        names = smplx_joint_names(rig)
        pelvis = names["pelvis"].casefold()
        # Whatever stands before the pelvis' name may be the prefix of all.
        for prefix in [name.removesuffix(pelvis) for name in known if name.endswith(pelvis)]:
            found = {joint: _spelling(prefix + n.casefold(), known) for joint, n in names.items()}
            if None not in found.values():
                return {joint: known[str(name)] for joint, name in found.items()}
    listed = ", ".join(sorted(positions)[:40])
    raise DataError(
        f"{path}: the joints {listed} belong to no rig that is known."
        f" Rigs that are read: {', '.join(RIGS)}."
    )


def _spelling(name: str, known: Positions) -> str | None:
    """The name of a joint as the file has it; toes go by several, or are the end of the foot."""
    others = [name]
    if name.endswith("toebase"):
        stem = name.removesuffix("toebase")
        others += [f"{stem}toe", f"{stem}toe_end", f"{stem}toeend", f"{stem}foot end"]
    return next((other for other in others if other in known), None)
