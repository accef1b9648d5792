"""The human body: SMPL-X through the `smplx` package, from the licensed file or from an open body
in its layout.

The licensed model may not be shipped; the open body comes with the plugin and is NOT SMPL-X: same
joints, same file layout, another mesh and another shape space. `describe_body` says which one is in
use.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rewardft_plugins.humans.body_file import BETAS, PART_OF_JOINT, check_file, create_model
from scipy.spatial.transform import Rotation
from torch import Tensor

from rewardft.errors import DataError, did_you_mean

Floats = NDArray[np.float32]

ASSETS = Path(__file__).parent / "assets"
OPEN_BODIES = ("anny_lowpoly", "anny")
MODELS_VARIABLE = "SMPLX_MODELS"

JOINTS = (
    "pelvis",
    "left_hip",
    "right_hip",
    "spine1",
    "left_knee",
    "right_knee",
    "spine2",
    "left_ankle",
    "right_ankle",
    "spine3",
    "left_foot",
    "right_foot",
    "neck",
    "left_collar",
    "right_collar",
    "head",
    "left_shoulder",
    "right_shoulder",
    "left_elbow",
    "right_elbow",
    "left_wrist",
    "right_wrist",
    "jaw",
)
"""SMPL-X joints 0..22: the 22 body joints and the jaw. One channel each in the skeleton maps."""

PARENTS = (-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19, 15)

PARTS = (
    "background",
    "head",
    "torso",
    "left_upper_arm",
    "right_upper_arm",
    "left_forearm",
    "right_forearm",
    "left_hand",
    "right_hand",
    "left_thigh",
    "right_thigh",
    "left_shin",
    "right_shin",
    "left_foot",
    "right_foot",
)
"""Names of the values in the label maps; 0 is the background."""


@dataclass(frozen=True)
class Skinning:
    """What linear blend skinning needs, over the vertices that faces use; float32, metres.

    vertices: `(v, 3)` at rest.
    shapes: `(v, 3, 10)`.
    bends: `(189, v, 3)` pose blend shapes of the 21 body joints, None where the body has none.
    joints: `(23, 3)`.
    joint_shapes: `(23, 3, 10)`.
    weights: `(v, 55)`.
    parents: of the 55 joints, -1 for the root.
    """

    vertices: Tensor
    shapes: Tensor
    bends: Tensor | None
    joints: Tensor
    joint_shapes: Tensor
    weights: Tensor
    parents: list[int]


class Body:
    """A posable body. Rest pose: y up, facing +z, metres.

    Attributes:
        name: what the body is, for manifests and messages.
        licensed: True for the SMPL-X model itself, False for an open body in its layout.
        faces: `(f, 3)` int32 into the vertices that `pose` returns.
        face_parts: `(f,)` uint8, index into `PARTS`, never 0.
        rest_joints: `(23, 3)` joints of the mean shape in the rest pose, metres.
        rest_joints_all: `(55, 3)` the same with eyes and fingers.
        template, skinning: vertices `(v, 3)` of the mean shape in the rest pose, and how much each
            follows each of the 55 joints, `(v, 55)`.
        face_hair: `(f,)` bool, faces at the back and top of the head: painted as hair, so that
            front and back differ.
    """

    def __init__(self, file: Path, name: str, licensed: bool) -> None:
        self.file, self.name, self.licensed = file, name, licensed
        self._model = create_model(file)
        faces = np.asarray(self._model.faces).astype(np.int64)
        # Vertices that no face uses are left out: `anny_lowpoly` is padded with 8,701 of them to
        # the number that smplx needs.
        self._used, flat = np.unique(faces, return_inverse=True)
        self.faces = np.ascontiguousarray(flat.reshape(faces.shape), dtype=np.int32)
        weights = self._model.lbs_weights.numpy()[self._used]
        self.template, self.skinning = self._model.v_template.numpy()[self._used], weights
        self.face_parts = _face_parts(weights, self.faces)
        # SMPL-X places joints by regression from the vertices of the rest pose.
        self.rest_joints_all = (self._model.J_regressor @ self._model.v_template).numpy()
        self.rest_joints = self.rest_joints_all[: len(JOINTS)]
        self.face_hair = _hair(
            self._model.v_template.numpy()[self._used], self.faces, self.face_parts
        )

    @torch.no_grad()
    def pose(self, poses: Floats, betas: Floats | None = None) -> tuple[Floats, Floats]:
        """Pose the body.

        Args:
            poses: `(b, 22, 3)` axis-angle in radians, global orientation first.
            betas: `(b, 10)` shape coefficients in standard deviations; None = the mean shape.

        Returns:
            vertices `(b, v, 3)` and joints `(b, 23, 3)`, metres.
        """
        count = len(poses)
        pose = torch.from_numpy(np.ascontiguousarray(poses, dtype=np.float32)).reshape(count, 66)
        shape = (
            torch.zeros(count, BETAS)
            if betas is None
            else torch.from_numpy(np.asarray(betas, np.float32))
        )
        # Flat hands (15 joints each) and a face at rest: only the body moves.
        hands, face = torch.zeros(count, 45), torch.zeros(count, 3)
        # smplx falls back to parameters of its own batch size for whatever is not passed, so
        # everything is.
        out = self._model(
            betas=shape,
            global_orient=pose[:, :3],
            body_pose=pose[:, 3:],
            left_hand_pose=hands,
            right_hand_pose=hands,
            jaw_pose=face,
            leye_pose=face,
            reye_pose=face,
            transl=face,
            expression=torch.zeros(count, self._model.num_expression_coeffs),
        )
        return out.vertices[:, self._used].numpy(), out.joints[:, : len(JOINTS)].numpy()

    def skinning_arrays(self) -> Skinning:
        """The arrays behind `pose`, for code that needs gradients (`skinning.SkinnedBody`)."""
        model, used = self._model, self._used
        shapes = model.shapedirs[:, :, :BETAS]
        # (486, v, 3), 9 numbers of R - I per joint. The body's 21 come first; hands and face stay
        # at rest, so theirs would be multiplied by 0.
        bends = model.posedirs.unflatten(1, (-1, 3))[: 9 * 21, used]
        moved = model.J_regressor[: len(JOINTS)]
        return Skinning(
            vertices=model.v_template[used],
            shapes=shapes[used],
            bends=bends if bends.any() else None,
            joints=moved @ model.v_template,
            # (23, v) by (v, 3, 10): how the shape moves each joint.
            joint_shapes=torch.einsum("jv,vck->jck", moved, shapes),
            weights=model.lbs_weights[used],
            parents=[int(parent) for parent in model.parents],
        )

    def joints(self, poses: Floats) -> Floats:
        """Joints `(n, 23, 3)` of the mean shape by forward kinematics alone: no mesh,
        thousands of poses at once."""
        # Global rotations and places, from the pelvis outwards: parents stand before their
        # children.
        turned = [Rotation.from_rotvec(poses[:, 0])]
        placed = [np.tile(self.rest_joints[0].astype(np.float64), (len(poses), 1))]
        for joint in range(1, len(JOINTS)):
            parent = PARENTS[joint]
            bone = self.rest_joints[joint] - self.rest_joints[parent]
            placed.append(placed[parent] + turned[parent].apply(bone))
            moves = joint < poses.shape[1]  # the jaw is closed
            turned.append(
                turned[parent] * Rotation.from_rotvec(poses[:, joint]) if moves else turned[parent]
            )
        return np.stack(placed, axis=1).astype(np.float32)


def load_body(where: str | Path | None = None) -> Body:
    """Load a body.

    Args:
        where: a folder that holds the licensed `SMPLX_NEUTRAL.npz` (or `smplx/SMPLX_NEUTRAL.npz`),
            that file itself, or the name of a shipped open body (`anny_lowpoly`, `anny`). None: the
            folder that the environment variable SMPLX_MODELS names, else `anny_lowpoly`.

    Raises:
        DataError: there is no such body, its file is incomplete, or the `smplx` package is not
            installed.
    """
    where = where or os.environ.get(MODELS_VARIABLE) or OPEN_BODIES[0]
    if str(where) in OPEN_BODIES:
        name = str(where)
        return Body(ASSETS / "bodies" / name / "smplx" / "SMPLX_NEUTRAL.npz", name, licensed=False)
    file = _find_file(Path(where))
    licensed = check_file(file)
    return Body(file, f"SMPL-X ({file.name})" if licensed else f"open body ({file.name})", licensed)


def describe_body(body: Body) -> str:
    """Say which body is in use and what its licences ask for; every command prints this."""
    terms = "The `smplx` package is licensed for non-commercial research only."
    if body.licensed:
        return f"body: {body.name}, the licensed SMPL-X model from {body.file}. {terms}"
    return (
        f"body: {body.name}, an open body in the SMPL-X file layout (CC0 geometry); it is NOT the "
        f"SMPL-X model. {terms} Set {MODELS_VARIABLE} or --body to a folder with SMPLX_NEUTRAL.npz "
        "to use the licensed model."
    )


def _find_file(where: Path) -> Path:
    candidates = (
        [where]
        if where.suffix == ".npz"
        else [where / "SMPLX_NEUTRAL.npz", where / "smplx/SMPLX_NEUTRAL.npz"]
    )
    for file in candidates:
        if file.is_file():
            return file
    # A folder that is there lacks the file; one that is not may be a misspelt name.
    hint = "" if where.exists() else did_you_mean(str(where), OPEN_BODIES)
    raise DataError(
        f"no body model at {str(where)!r}: expected {' or '.join(str(c) for c in candidates)}. "
        "Download the SMPL-X model from its authors, or leave the option out to use the open body "
        f"that is shipped.{hint}"
    )


def _face_parts(weights: Floats, faces: NDArray[np.int32]) -> NDArray[np.uint8]:
    """Give each face the body part with the largest skinning weight over its corners."""
    # (55, 15): joints to the parts that they belong to.
    of_joint = np.eye(len(PARTS), dtype=np.float32)[np.asarray(PART_OF_JOINT)]
    return (weights @ of_joint)[faces].sum(axis=1).argmax(axis=1).astype(np.uint8)


def _hair(rest: Floats, faces: NDArray[np.int32], parts: NDArray[np.uint8]) -> NDArray[np.bool_]:
    head = parts == PARTS.index("head")
    centres = rest[faces].mean(axis=1)
    # Heights and depths as shares of the head's own box: any head size will do.
    low, high = centres[head].min(axis=0), centres[head].max(axis=0)
    height = (centres[:, 1] - low[1]) / (high[1] - low[1])
    depth = (centres[:, 2] - low[2]) / (high[2] - low[2])
    return head & (height > 0.35) & ((height > 0.88) | (depth < 0.45))
