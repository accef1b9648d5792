"""Motion files as programs write them: each variant gives the poses of the plain file."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from rewardft_plugins.humans.motion import read_motions
from scipy.spatial.transform import Rotation

from rewardft.errors import DataError

JOINTS = {
    "Hips": (None, (0, 0, 0)),
    "LeftUpLeg": ("Hips", (4, -2, 0)),
    "LeftLeg": ("LeftUpLeg", (0, -18, 0)),
    "LeftFoot": ("LeftLeg", (0, -17, 0)),
    "LeftToeBase": ("LeftFoot", (0, -2, 6)),
    "RightUpLeg": ("Hips", (-4, -2, 0)),
    "RightLeg": ("RightUpLeg", (0, -18, 0)),
    "RightFoot": ("RightLeg", (0, -17, 0)),
    "RightToeBase": ("RightFoot", (0, -2, 6)),
    "Spine": ("Hips", (0, 5, 0)),
    "Spine1": ("Spine", (0, 6, 0)),
    "Spine2": ("Spine1", (0, 6, 0)),
    "Neck": ("Spine2", (0, 4, 0)),
    "Head": ("Neck", (0, 5, 0)),
    "LeftShoulder": ("Spine2", (2, 3, 0)),
    "LeftArm": ("LeftShoulder", (5, 0, 0)),
    "LeftForeArm": ("LeftArm", (10, 0, 0)),
    "LeftHand": ("LeftForeArm", (9, 0, 0)),
    "RightShoulder": ("Spine2", (-2, 3, 0)),
    "RightArm": ("RightShoulder", (-5, 0, 0)),
    "RightForeArm": ("RightArm", (-10, 0, 0)),
    "RightHand": ("RightForeArm", (-9, 0, 0)),
}
FRAMES = 6
_RNG = np.random.default_rng(0)
TURNS = {name: Rotation.from_rotvec(_RNG.normal(size=(FRAMES, 3)) * 0.3) for name in JOINTS}


def bvh(order="ZXY"):
    """Six frames of a made-up motion."""
    lines, angles = ["HIERARCHY"], []

    def block(name, depth):
        tab = "\t" * depth
        offset = " ".join(f"{x:.4f}" for x in JOINTS[name][1])
        lines.extend([f"{tab}{'JOINT' if depth else 'ROOT'} {name}", f"{tab}{{"])
        lines.append(f"{tab}\tOFFSET {offset}")
        channels = [f"{axis}rotation" for axis in order]
        lines.append(f"{tab}\tCHANNELS 3 {' '.join(channels)}")
        angles.append(TURNS[name].as_euler(order, degrees=True))
        children = [child for child, (parent, _) in JOINTS.items() if parent == name]
        for child in children:
            block(child, depth + 1)
        if not children:
            end = [f"{tab}\tEnd Site", f"{tab}\t{{", f"{tab}\t\tOFFSET 0 -1 0", f"{tab}\t}}"]
            lines.extend(end)
        lines.append(f"{tab}}}")

    block("Hips", 0)
    rows = np.concatenate(angles, axis=1)
    lines.extend(["MOTION", f"Frames: {FRAMES}", "Frame Time: 0.0333333"])
    lines.extend(" ".join(f"{x:.6f}" for x in row) for row in rows)
    return "\n".join(lines) + "\n"


def comma(text):
    head, motion = text.split("Frame Time:")
    return head + "Frame Time:" + motion.replace(".", ",")


VARIANTS = {
    "byte-order mark": lambda text: "\ufeff" + text,
    "Windows lines": lambda text: text.replace("\n", "\r\n"),
    "no blank after Frames:": lambda text: text.replace("Frames: ", "Frames:"),
    "tabs": lambda text: text.replace("Frame Time: ", "Frame Time:\t").replace(
        "Frames: ", "Frames:\t"
    ),
    "blank lines": lambda text: text.replace("\n", "\n\n"),
    "braces on the line": lambda text: re.sub(r"\n\t*\{", " {", text),
    "all braces on lines": lambda text: re.sub(r"\n\t*([{}])", r" \1", text),
    "small keywords": lambda text: re.sub(
        r"JOINT|ROOT|OFFSET|CHANNELS|End Site|Xrotation", lambda m: m[0].lower(), text
    ),
    "prefix with colon": lambda text: re.sub(r"(ROOT|JOINT) ", r"\1 mixamorig:", text),
    "prefix with number": lambda text: re.sub(r"(ROOT|JOINT) ", r"\1 mixamorig12:", text),
    "prefix with bar": lambda text: re.sub(r"(ROOT|JOINT) ", r"\1 Character1_", text),
    "toe": lambda text: text.replace("ToeBase", "Toe"),
    "toe end": lambda text: text.replace("ToeBase", "Toe_End"),
    "small names": lambda text: re.sub(
        r"(ROOT|JOINT) (\w+)", lambda m: m[0].replace(m[2], m[2].lower()), text
    ),
    "decimal comma": comma,
    "blanks at ends": lambda text: text.replace("\n", "  \n"),
    "more rows than announced": lambda text: text + text.splitlines()[-1] + "\n",
}


@pytest.mark.parametrize("case", VARIANTS)
def test_a_variant_of_bvh_reads_as_the_plain_file(tmp_path, case):
    (tmp_path / "plain.bvh").write_text(bvh())
    (tmp_path / "other.bvh").write_bytes(VARIANTS[case](bvh()).encode())
    (plain,), (other,) = (read_motions(tmp_path / f"{n}.bvh") for n in ("plain", "other"))
    assert plain.poses.shape == (FRAMES, 22, 3) and plain.fps == pytest.approx(30.0, rel=1e-5)
    np.testing.assert_array_equal(other.poses, plain.poses)
    assert other.fps == plain.fps


@pytest.mark.parametrize("order", ["XYZ", "YXZ", "ZYX"])
def test_the_order_of_axes_does_not_matter(tmp_path, order):
    (tmp_path / "plain.bvh").write_text(bvh())
    (tmp_path / "other.bvh").write_text(bvh(order))
    (plain,), (other,) = (read_motions(tmp_path / f"{n}.bvh") for n in ("plain", "other"))
    np.testing.assert_allclose(other.poses, plain.poses, atol=1e-5)


def test_a_foot_without_a_toe_ends_in_its_end_site(tmp_path):
    toe = r"\n\t*JOINT {0}ToeBase\n\t*{{\n\t*OFFSET[^\n]*\n\t*CHANNELS[^\n]*\n(\t*End Site\n\t*{{\n\t*OFFSET) 0 -1 0(\n\t*}}\n)\t*}}\n"
    text = bvh()
    for side in ("Left", "Right"):
        text = re.sub(toe.format(side), r"\n\1 0.0000 -2.0000 6.0000\2", text)
    head, motion = text.split("Frame Time: 0.0333333\n")
    kept = [k for k, name in enumerate(JOINTS) if not name.endswith("ToeBase")]
    rows = [line.split() for line in motion.splitlines()]
    short = [" ".join(x for k in kept for x in row[3 * k : 3 * k + 3]) for row in rows]
    (tmp_path / "plain.bvh").write_text(bvh())
    (tmp_path / "other.bvh").write_text(head + "Frame Time: 0.0333333\n" + "\n".join(short))
    (plain,), (other,) = (read_motions(tmp_path / f"{n}.bvh") for n in ("plain", "other"))
    np.testing.assert_array_equal(other.poses, plain.poses)


DAMAGED = {
    "no motion": ("MOTION\n", "\n", "it lacks HIERARCHY or MOTION"),
    "a row is short": (" 0.0000\n", "\n", "an OFFSET has fewer than three numbers"),
    "frames in words": (
        f"Frames: {FRAMES}",
        "Frames: six",
        "expected 'Frames: COUNT', got 'Frames: six'",
    ),
    "fewer rows": (
        f"Frames: {FRAMES}",
        "Frames: 99",
        f"{FRAMES} frames of the 99 that it announces",
    ),
    "no time": ("Frame Time: 0.0333333", "Frame Time: 0", f"{FRAMES} frames of 0.0 s"),
    "other channel": (
        "Zrotation",
        "Wrotation",
        "joint Hips has the channel 'wrotation'; expected Xposition, ...",
    ),
    "two of a name": ("LeftArm", "Head", "two joints are called 'Head'"),
    "not a number": (
        "Frame Time: 0.0333333\n",
        "Frame Time: 0.0333333\nx ",
        "could not convert string to float: 'x'",
    ),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_bvh_is_a_sentence(tmp_path, case):
    old, new, message = DAMAGED[case]
    file = tmp_path / "bad.bvh"
    file.write_text(bvh().replace(old, new))
    with pytest.raises(DataError) as caught:
        read_motions(file)
    assert str(caught.value) == f"{file} is damaged or not what its name says: {message}"


POSES = np.random.default_rng(1).normal(size=(12, 165)) * 0.1
ROOT, BODY = POSES[:, :3], POSES[:, 3:66]
TRANS = np.zeros((12, 3))
UPRIGHT = POSES[:, :66].reshape(12, 22, 3)
ARRAYS = {
    "SMPL-X names": ({"global_orient": ROOT, "body_pose": BODY, "transl": TRANS}, 30.0, 1),
    "SMPL-X names, joints apart": (
        {"global_orient": ROOT[:, None], "body_pose": BODY.reshape(12, 21, 3)},
        30.0,
        1,
    ),
    "SMPL body of 23 joints": ({"global_orient": ROOT, "body_pose": POSES[:, 3:72]}, 30.0, 1),
    "Motion-X names": ({"root_orient": ROOT, "pose_body": BODY}, 30.0, 1),
    "AIST++": ({"smpl_poses": POSES[:, :72], "smpl_trans": TRANS}, 30.0, 2),
    "joints apart": ({"poses": POSES[:, :72].reshape(12, 24, 3)}, 30.0, 1),
    "single precision": ({"poses": POSES.astype(np.float32)}, 30.0, 1),
    "a rate of its own": ({"poses": POSES, "fps": 60}, 30.0, 2),
    "objects beside": ({"poses": POSES, "extra": np.array([{"a": 1}], dtype=object)}, 30.0, 1),
}


@pytest.mark.parametrize("case", ARRAYS)
def test_poses_by_other_names(tmp_path, case):
    arrays, fps, every = ARRAYS[case]
    np.savez(tmp_path / "m.npz", **arrays)
    (clip,) = read_motions(tmp_path / "m.npz")
    assert clip.fps == fps
    np.testing.assert_allclose(clip.poses, UPRIGHT[::every], atol=1e-7)


@pytest.mark.parametrize("rate", [60, 60.0, "60", np.array([60.0])])
def test_amass_is_turned_upright_at_any_spelling_of_its_rate(tmp_path, rate):
    np.savez(tmp_path / "m.npz", poses=POSES, mocap_framerate=rate)
    (clip,) = read_motions(tmp_path / "m.npz")
    turned = Rotation.from_euler("x", -90, degrees=True) * Rotation.from_rotvec(ROOT[::2])
    np.testing.assert_allclose(clip.poses[:, 0], turned.as_rotvec(), atol=1e-6)
    np.testing.assert_allclose(clip.poses[:, 1:], UPRIGHT[::2, 1:], atol=1e-7)


NOT_READ = {
    "shape alone": (
        {"betas": np.zeros(16), "gender": "male"},
        "holds no motion: its arrays are betas, gender; expected clips [frames, 22, 3], poses, or global_orient and body_pose.",
    ),
    "no body": (
        {"global_orient": ROOT},
        "has global_orient and no pose_body or body_pose; expected both, or poses.",
    ),
    "lengths apart": (
        {"global_orient": ROOT[:5], "body_pose": BODY},
        "holds root orientations [5, 3] and body poses [12, 63]; expected [frames, 3] and [frames, 63 or more].",
    ),
    "a rate in words": (
        {"poses": POSES, "fps": "fast"},
        "states a frame rate of fast; expected a number of frames per second.",
    ),
    "absurd": (
        {"poses": POSES * 1e300},
        "turns by more than 100 radians at frame 0; expected axis-angle.",
    ),
}


@pytest.mark.parametrize("case", NOT_READ)
def test_what_is_no_motion_is_a_sentence(tmp_path, case):
    arrays, message = NOT_READ[case]
    np.savez(tmp_path / "m.npz", **arrays)
    with pytest.raises(DataError) as caught:
        read_motions(tmp_path / "m.npz")
    assert str(caught.value).startswith(str(tmp_path / "m.npz"))
    assert str(caught.value).endswith(message)


INDEX = {
    "fps": ("NaN", "clip 'a' has fps nan; expected a number from 0.1 to 1000."),
    "plain": ('"no"', "clip 'a' has plain 'no'; expected true or false."),
    "split": ('"test"', "clip 'a' has split 'test'; expected train or val."),
    "licence": ("3", "clip 'a' has licence 3; expected text."),
}


@pytest.mark.parametrize("key", INDEX)
def test_an_index_is_checked(tmp_path, key):
    value, message = INDEX[key]
    np.savez(tmp_path / "m.npz", a=UPRIGHT.astype(np.float32))
    Path(tmp_path / "m.json").write_text(f'{{"clips": {{"a": {{"{key}": {value}}}}}}}')
    with pytest.raises(DataError) as caught:
        read_motions(tmp_path / "m.npz")
    assert str(caught.value) == f"{tmp_path / 'm.json'}: {message}"
    Path(tmp_path / "m.json").write_text(json.dumps({"clips": {"a": {}}}))
    assert len(read_motions(tmp_path / "m.npz")) == 1
