"""From joint positions to SMPL-X rotations: limbs keep the direction that they have in the
recording.

Works on positions alone, so it does not matter how a rig defines its rotations. What positions do
not tell is filled in: the spine's rotation is shared among its joints, the twist of a straight limb
follows its parent, wrists and toes do not twist.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from rewardft_plugins.humans.body import ASSETS, JOINTS, PARENTS
from scipy.spatial.transform import Rotation

Doubles = NDArray[np.float64]
Floats = NDArray[np.float32]
Positions = dict[str, Doubles]

# Sine of the bend: below, the hinge axis is unknown; above, it is trusted fully.
_STRAIGHT, _BENT = 0.1, 0.35
# An elbow whose hinge points further against its rest axis is taken for a badly tracked one.
_NOT_BACKWARDS = -0.3


def solve(positions: Positions) -> Floats:
    """Find poses whose limbs point as in the recording.

    Args:
        positions: `(frames, 3)` for SMPL-X joint names, y up, any unit. Hips, knees, ankles, feet,
            shoulders, elbows and wrists of both sides, pelvis and head are needed; spine, neck and
            collars are used where given.

    Returns:
        `(frames, 22, 3)` float32 axis-angle.
    """
    solver = _Solver(positions)
    solver.trunk()
    solver.head()
    for side in ("left", "right"):
        solver.arm(side)
        solver.leg(side)
    return solver.local_rotations()


class _Solver:
    """Global rotations of the joints, found from the pelvis outwards."""

    def __init__(self, positions: Positions) -> None:
        self.place = positions
        self.rest = _rest_joints()
        self.turned: dict[str, Rotation] = {}

    def trunk(self) -> None:
        # (frames, 3) of the recording, (3,) of the rest pose, throughout.
        hips, rest_hips = self._middle("hip")
        shoulders, rest_shoulders = self._middle("shoulder")
        low, rest_low = self._lower_spine(hips, shoulders, rest_shoulders)
        across, rest_across = self._across("hip")
        # The line of the hips is taken exactly, the spine settles the turn about it.
        self.turned["pelvis"] = _align(across, low - hips, rest_across, rest_low - rest_hips)
        up, rest_up = shoulders - hips, rest_shoulders - rest_hips
        if "neck" in self.place and "spine3" in self.place:
            up, rest_up = self._bone("spine3", "neck")
        across, rest_across = self._across("shoulder")
        self.turned["spine3"] = _align(across, up, rest_across, rest_up)
        bend = (self.turned["pelvis"].inv() * self.turned["spine3"]).as_rotvec()
        # Three joints lead from pelvis to chest; each takes a third of the bend.
        for share, joint in enumerate(("spine1", "spine2"), start=1):
            self.turned[joint] = self.turned["pelvis"] * Rotation.from_rotvec(bend * share / 3)

    def head(self) -> None:
        chest = self.turned["spine3"]
        neck = self.place["neck"] if "neck" in self.place else self._middle("shoulder")[0]
        # In the rest pose the head is above the neck and a little before it.
        self.turned["head"] = chest * _swing(
            np.array([0.0, 1.0, 0.1]), chest.inv().apply(self.place["head"] - neck)
        )
        # Half of it in the neck, half in the head.
        bend = (chest.inv() * self.turned["head"]).as_rotvec()
        self.turned["neck"] = chest * Rotation.from_rotvec(bend / 2)

    def arm(self, side: str) -> None:
        collar = f"{side}_collar"
        self.turned[collar] = self.turned["spine3"]
        if collar in self.place:
            self.turned[collar] = self._follow("spine3", collar, f"{side}_shoulder")
        # In the rest pose the arms are stretched sideways and elbows bend forwards: about -y on the
        # left, +y right.
        axis = np.array([0.0, -1.0 if side == "left" else 1.0, 0.0])
        self._limb(
            collar, f"{side}_shoulder", f"{side}_elbow", f"{side}_wrist", axis, only_forwards=True
        )
        self.turned[f"{side}_wrist"] = self.turned[f"{side}_elbow"]

    def leg(self, side: str) -> None:
        names = (f"{side}_hip", f"{side}_knee", f"{side}_ankle")
        # Knees bend backwards, about +x on both sides.
        self._limb("pelvis", *names, np.array([1.0, 0.0, 0.0]), only_forwards=False)
        self.turned[names[2]] = self._follow(names[1], names[2], f"{side}_foot")
        self.turned[f"{side}_foot"] = self.turned[names[2]]

    def local_rotations(self) -> Floats:
        """Rotations relative to the parent joint, `(frames, 22, 3)`."""
        local = [self.turned["pelvis"].as_rotvec()]
        for joint in range(1, 22):
            parent = self.turned[JOINTS[PARENTS[joint]]]
            local.append((parent.inv() * self.turned[JOINTS[joint]]).as_rotvec())
        return np.stack(local, axis=1).astype(np.float32)

    def _limb(
        self, root: str, upper: str, joint: str, end: str, axis: Doubles, only_forwards: bool
    ) -> None:
        """Turn a two-bone limb: its bones' directions are given, the bend fixes the twist of the
        upper bone."""
        (upper_bone, rest_upper), (lower_bone, rest_lower) = (
            self._bone(upper, joint),
            self._bone(joint, end),
        )
        base = self.turned[root] * _swing(rest_upper, self.turned[root].inv().apply(upper_bone))
        # Where the hinge points if the limb does not twist against its parent.
        expected = base.apply(axis)
        # (frames, 3): the axis of the bend, as long as its sine.
        hinge = np.cross(_unit(upper_bone), _unit(lower_bone))
        bend = np.linalg.norm(hinge, axis=1, keepdims=True)
        hinge = np.where(bend > 1e-4, _unit(hinge), expected)
        if only_forwards:
            backwards = (hinge * expected).sum(axis=1, keepdims=True) < _NOT_BACKWARDS
            hinge = np.where(backwards, expected, hinge)
        # Blended and not switched, so that a limb that straightens does not jump.
        trust = np.clip((bend - _STRAIGHT) / (_BENT - _STRAIGHT), 0.0, 1.0)
        hinge = _unit(trust * hinge + (1.0 - trust) * expected)
        rest_axis = axis - _unit(rest_upper) * (axis @ _unit(rest_upper))
        # The frame is built from the bone first: its direction is exact, the hinge only settles the
        # twist.
        self.turned[upper] = _align(upper_bone, hinge, rest_upper, rest_axis)
        self.turned[joint] = self.turned[upper] * _swing(
            rest_lower, self.turned[upper].inv().apply(lower_bone)
        )

    def _follow(self, parent: str, joint: str, child: str) -> Rotation:
        """The rotation of `joint` that points its bone to `child` without a twist of its own."""
        bone, rest_bone = self._bone(joint, child)
        return self.turned[parent] * _swing(rest_bone, self.turned[parent].inv().apply(bone))

    def _bone(self, start: str, end: str) -> tuple[Doubles, Doubles]:
        return self.place[end] - self.place[start], self.rest[end] - self.rest[start]

    def _across(self, joint: str) -> tuple[Doubles, Doubles]:
        return self._bone(f"right_{joint}", f"left_{joint}")

    def _middle(self, joint: str) -> tuple[Doubles, Doubles]:
        left, right = f"left_{joint}", f"right_{joint}"
        return (self.place[left] + self.place[right]) / 2, (self.rest[left] + self.rest[right]) / 2

    def _lower_spine(
        self, hips: Doubles, shoulders: Doubles, rest_shoulders: Doubles
    ) -> tuple[Doubles, Doubles]:
        """The lowest spine joint clearly above the hips; the shoulders where a rig has none."""
        joint = next((name for name in ("spine1", "spine2") if name in self.place), None)
        if joint is not None:
            height = np.linalg.norm(self.place[joint] - hips, axis=1).mean()
            # Some rigs have a spine joint in the middle of the hips, which gives no direction.
            if height >= 1e-3 * np.linalg.norm(shoulders - hips, axis=1).mean() + 1e-6:
                return self.place[joint], self.rest[joint]
        return shoulders, rest_shoulders


@lru_cache(maxsize=1)
def _rest_joints() -> Positions:
    """Joints of the open body in its rest pose; bone directions are all that is used of them."""
    with np.load(
        ASSETS / "bodies" / "anny" / "smplx" / "SMPLX_NEUTRAL.npz", allow_pickle=False
    ) as data:
        joints = data["J_regressor"] @ data["v_template"].astype(np.float64)
    return dict(zip(JOINTS, joints))


def _unit(vectors: Doubles) -> Doubles:
    return np.asarray(vectors / (np.linalg.norm(vectors, axis=-1, keepdims=True) + 1e-9))


def _frame(first: Doubles, second: Doubles) -> Doubles:
    """Orthonormal frames as columns: x along `first`, y towards `second`."""
    x = _unit(first)
    z = _unit(np.cross(x, second))
    return np.stack([x, np.cross(z, x), z], axis=-1)


def _align(first: Doubles, second: Doubles, rest_first: Doubles, rest_second: Doubles) -> Rotation:
    """The rotations that take the frame of the rest vectors to the frames of the vectors `(frames,
    3)`."""
    rest = _frame(rest_first[None], rest_second[None])[0]
    return Rotation.from_matrix(_frame(first, second) @ rest.T)


def _swing(start: Doubles, end: Doubles) -> Rotation:
    """The smallest rotations that take the direction `start` `(3,)` to the directions `end`
    `(frames, 3)`."""
    start, end = np.broadcast_to(_unit(start), end.shape), _unit(end)
    cross = np.cross(start, end)
    sine = np.linalg.norm(cross, axis=1, keepdims=True)
    angle = np.arctan2(sine, (start * end).sum(axis=1, keepdims=True))
    opposite = _unit(np.cross(start, [0.0, 0.0, 1.0]))  # any axis will do for a half turn
    return Rotation.from_rotvec(np.where(sine > 1e-6, cross / (sine + 1e-12), opposite) * angle)
