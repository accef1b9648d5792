"""Skeletons that motion-capture files come with: joint names,
and the bones of DeepMimic's humanoid."""

from __future__ import annotations

# DeepMimic's humanoid: joint, parent, offset from the parent in metres (x forward, y up, z to the
# right), and whether the joint turns as a ball (four numbers, w x y z), as a hinge about z (one
# number) or not at all.
HUMANOID: tuple[tuple[str, str, tuple[float, float, float], str], ...] = (
    ("chest", "root", (0.0, 0.236151, 0.0), "ball"),
    ("neck", "chest", (0.0, 0.223894, 0.0), "ball"),
    ("right_hip", "root", (0.0, 0.0, 0.084887), "ball"),
    ("right_knee", "right_hip", (0.0, -0.421546, 0.0), "hinge"),
    ("right_ankle", "right_knee", (0.0, -0.40987, 0.0), "ball"),
    ("right_shoulder", "chest", (-0.02405, 0.2435, 0.18311), "ball"),
    ("right_elbow", "right_shoulder", (0.0, -0.274788, 0.0), "hinge"),
    ("right_wrist", "right_elbow", (0.0, -0.258947, 0.0), "fixed"),
    ("left_hip", "root", (0.0, 0.0, -0.084887), "ball"),
    ("left_knee", "left_hip", (0.0, -0.421546, 0.0), "hinge"),
    ("left_ankle", "left_knee", (0.0, -0.40987, 0.0), "ball"),
    ("left_shoulder", "chest", (-0.02405, 0.2435, -0.18311), "ball"),
    ("left_elbow", "left_shoulder", (0.0, -0.274788, 0.0), "hinge"),
    ("left_wrist", "left_elbow", (0.0, -0.258947, 0.0), "fixed"),
)
HUMANOID_COLUMNS = 44  # duration, root position and rotation, then the joints above

# Names of a rig's joints, by the SMPL-X joint whose place they mark. `{S}` is the side: Left.
# A "Shoulder" is often the collar bone, and an "UpLeg" begins at the hip.
_LIMBS = {
    "hip": "{S}UpLeg",
    "knee": "{S}Leg",
    "ankle": "{S}Foot",
    "foot": "{S}ToeBase",
    "collar": "{S}Shoulder",
    "shoulder": "{S}Arm",
    "elbow": "{S}ForeArm",
    "wrist": "{S}Hand",
}
RIGS: dict[str, dict[str, str]] = {
    "CMU (ASF names)": {
        "pelvis": "Hips",
        "spine1": "LowerBack",
        "spine2": "Spine",
        "spine3": "Spine1",
        "neck": "Neck1",
        "head": "Head",
        **_LIMBS,
    },
    "Mixamo": {
        "pelvis": "Hips",
        "spine1": "Spine",
        "spine2": "Spine1",
        "spine3": "Spine2",
        "neck": "Neck",
        "head": "Head",
        **_LIMBS,
    },
    "humanoid bones": {
        "pelvis": "Hips",
        "spine1": "Spine",
        "spine3": "Chest",
        "neck": "Neck",
        "head": "Head",
        "hip": "UpperLeg_{s}",
        "knee": "LowerLeg_{s}",
        "ankle": "Foot_{s}",
        "foot": "Toes_{s}",
        "collar": "Shoulder_{s}",
        "shoulder": "UpperArm_{s}",
        "elbow": "LowerArm_{s}",
        "wrist": "Hand_{s}",
    },
    "DeepMimic": {
        "pelvis": "root",
        "spine2": "chest",
        "neck": "neck",
        "head": "head_top",
        "hip": "{side}_hip",
        "knee": "{side}_knee",
        "ankle": "{side}_ankle",
        "foot": "{side}_toe",
        "shoulder": "{side}_shoulder",
        "elbow": "{side}_elbow",
        "wrist": "{side}_wrist",
    },
}


def smplx_joint_names(rig: dict[str, str]) -> dict[str, str]:
    """Name of the rig's joint for each SMPL-X joint, with both sides written out."""
    names: dict[str, str] = {}
    for joint, name in rig.items():
        # A joint of the middle has no side.
        if "{" not in name:
            names[joint] = name
            continue
        for side in ("left", "right"):
            names[f"{side}_{joint}"] = name.format(
                S=side.capitalize(), s=side[0].upper(), side=side
            )
    return names
