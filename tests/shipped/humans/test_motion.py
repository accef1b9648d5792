"""Motion clips: what ships, every format that is read, and damaged files."""

import io
import json
import random
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from rewardft_plugins.humans.body import JOINTS, PARENTS, load_body
from rewardft_plugins.humans.clip import Clip, check_unique, classify, tilt
from rewardft_plugins.humans.mocap import parse_bvh
from rewardft_plugins.humans.motion import read_motions, shipped_clips, write_motions
from rewardft_plugins.humans.retarget import _rest_joints
from scipy.spatial.transform import Rotation

from rewardft.errors import DataError

BACKFLIP = Path(__file__).parent / "files" / "humanoid3d_backflip.txt"
CMU_NAMES = {
    "pelvis": "Hips",
    "spine1": "LowerBack",
    "spine2": "Spine",
    "spine3": "Spine1",
    "neck": "Neck1",
    "head": "Head",
    "left_hip": "LeftUpLeg",
    "left_knee": "LeftLeg",
    "left_ankle": "LeftFoot",
    "left_foot": "LeftToeBase",
    "left_collar": "LeftShoulder",
    "left_shoulder": "LeftArm",
    "left_elbow": "LeftForeArm",
    "left_wrist": "LeftHand",
}
CMU_NAMES |= {
    a.replace("left", "right"): b.replace("Left", "Right")
    for a, b in CMU_NAMES.items()
    if "left" in a
}


def _clip(name="walk", frames=4, seed=0):
    poses = np.random.default_rng(seed).normal(scale=0.3, size=(frames, 22, 3)).astype(np.float32)
    return Clip(name, poses)


def _angle(one, other):
    """Degrees between two sets of rotations."""
    return np.degrees(
        (
            Rotation.from_rotvec(one.reshape(-1, 3)).inv()
            * Rotation.from_rotvec(other.reshape(-1, 3))
        ).magnitude()
    )


def test_shipped_clips():
    clips = {clip.name: clip for clip in shipped_clips()}
    assert len(clips) == 15 and sum(len(clip.poses) for clip in clips.values()) == 969
    by = {
        (plain, split): {c.name for c in clips.values() if (c.plain, c.split) == (plain, split)}
        for plain in (True, False)
        for split in ("train", "val")
    }
    assert by[True, "train"] == {"dm_walk", "dm_punch"}
    assert by[True, "val"] == {"dm_run", "dm_jump"}
    assert by[False, "val"] == {"dm_cartwheel", "dm_kick", "dm_getup_facedown"}
    assert {clip.licence for clip in clips.values()} == {"zlib (pybullet 3.2.7)"}
    assert max(tilt(clip.poses).max() for clip in clips.values() if clip.plain) < 45
    assert tilt(clips["dm_cartwheel"].poses).max() > 150  # it does turn upside down


def test_deepmimic_text_becomes_the_shipped_clip():
    (read,) = read_motions(BACKFLIP)
    shipped = next(clip for clip in shipped_clips() if clip.name == "dm_backflip")
    assert (
        read.name == "dm_backflip"
        and read.fps == pytest.approx(shipped.fps, abs=1e-3)
        and not read.plain
    )
    assert _angle(read.poses, shipped.poses).max() < 0.1  # stored in half precision


def _bvh(channels, frames):
    """A T pose in BVH with CMU's names: rest offsets in centimetres, per-joint Euler angles from `channels`."""
    rest = _rest_joints()
    lines = ["HIERARCHY"]
    order = []

    def write(j, depth):
        name, pad = JOINTS[j], "  " * depth
        origin = rest[JOINTS[PARENTS[j]]] if j else rest[name]
        offset = " ".join(f"{100 * x:.6f}" for x in rest[name] - origin)
        lines.append(f"{pad}{'JOINT' if j else 'ROOT'} {CMU_NAMES[name]}")
        lines.extend([f"{pad}{{", f"{pad}  OFFSET {offset}"])
        kinds = ["Xposition", "Yposition", "Zposition"] if j == 0 else []
        kinds += ["Zrotation", "Xrotation", "Yrotation"]
        lines.append(f"{pad}  CHANNELS {len(kinds)} {' '.join(kinds)}")
        order.append(name)
        children = [c for c in range(22) if PARENTS[c] == j]
        for child in children:
            write(child, depth + 1)
        if not children:
            lines.extend([f"{pad}  End Site", f"{pad}  {{", f"{pad}    OFFSET 0 1 0", f"{pad}  }}"])
        lines.append(f"{pad}}}")

    write(0, 0)
    rows = []
    for t in range(frames):
        numbers = [0.0, 90.0, 0.0]
        for name in order:
            numbers += list(channels(name, t))
        rows.append(" ".join(f"{x:.6f}" for x in numbers))
    return "\n".join([*lines, "MOTION", f"Frames: {frames}", "Frame Time: 0.0083333", *rows]) + "\n"


def test_bvh_in_the_rest_pose_is_the_rest_pose(tmp_path):
    file = tmp_path / "tpose.bvh"
    file.write_text(_bvh(lambda name, t: (0, 0, 0), frames=9))
    (clip,) = read_motions(file)
    assert clip.name == "tpose" and clip.plain
    assert clip.poses.shape == (3, 22, 3) and clip.fps == pytest.approx(
        30, abs=0.01
    )  # 120 fps thinned by 4
    limbs = [
        j for j in range(22) if JOINTS[j] not in ("neck", "head")
    ]  # the head's direction is a convention
    turned = np.degrees(np.linalg.norm(clip.poses[0, limbs], axis=-1))
    assert (
        turned.max() < 2.5 and np.median(turned) < 0.01
    )  # the twist of a straight leg is not recorded


def test_bvh_limbs_keep_their_directions(tmp_path):
    bent = {
        "left_elbow": (0, 0, -70),
        "right_knee": (0, 50, 0),
        "left_hip": (0, -60, 0),
        "pelvis": (0, 0, 90),
    }
    text = _bvh(lambda name, t: bent.get(name, (0, 0, 0)), frames=1)
    (tmp_path / "bent.bvh").write_text(text)
    (clip,) = read_motions(tmp_path / "bent.bvh")
    recorded, _ = parse_bvh(text)
    joints = dict(zip(JOINTS, load_body("anny").joints(clip.poses)[0]))
    for side in ("left", "right"):
        for start, end in (
            ("shoulder", "elbow"),
            ("elbow", "wrist"),
            ("hip", "knee"),
            ("knee", "ankle"),
            ("ankle", "foot"),
        ):
            ours = joints[f"{side}_{end}"] - joints[f"{side}_{start}"]
            theirs = (
                recorded[CMU_NAMES[f"{side}_{end}"]] - recorded[CMU_NAMES[f"{side}_{start}"]]
            )[0]
            cosine = ours @ theirs / np.linalg.norm(ours) / np.linalg.norm(theirs)
            assert np.degrees(np.arccos(min(1.0, cosine))) < 0.05, (side, start)
    elbow = Rotation.from_euler("y", -70, degrees=True).as_rotvec()
    assert _angle(clip.poses[0, JOINTS.index("left_elbow")], elbow).max() < 0.5
    assert (
        _angle(clip.poses[0, 0], Rotation.from_euler("y", 90, degrees=True).as_rotvec()).max()
        < 0.01
    )


def test_amass_is_turned_upright_and_thinned(tmp_path):
    clip = _clip(frames=8)
    z_up = clip.poses.copy()
    z_up[:, 0] = (
        Rotation.from_euler("x", 90, degrees=True) * Rotation.from_rotvec(clip.poses[:, 0])
    ).as_rotvec()
    rows = np.concatenate([z_up.reshape(8, 66), np.ones((8, 99))], axis=1)
    np.savez(
        tmp_path / "walk.npz",
        poses=rows,
        mocap_frame_rate=np.array(120.0),
        gender=np.array("neutral"),
    )
    (read,) = read_motions(tmp_path / "walk.npz")
    assert read.fps == 30 and len(read.poses) == 2
    assert _angle(read.poses, clip.poses[::4]).max() < 0.01


def test_motionx_arrays(tmp_path):
    clip = _clip()
    np.save(
        tmp_path / "dance.npy",
        np.concatenate([clip.poses.reshape(4, 66), np.ones((4, 256))], axis=1),
    )
    (read,) = read_motions(tmp_path / "dance.npy")
    np.testing.assert_allclose(read.poses, clip.poses)
    np.savez(
        tmp_path / "dance.npz",
        root_orient=clip.poses[:, 0],
        pose_body=clip.poses[:, 1:].reshape(4, 63),
    )
    (read,) = read_motions(tmp_path / "dance.npz")
    np.testing.assert_allclose(read.poses, clip.poses)


def test_own_layout_round_trip_keeps_hand_made_tags(tmp_path):
    out = tmp_path / "mine.npz"
    clips = [
        _clip("a"),
        Clip("b", _clip(seed=1).poses, 25.0, plain=False, split="val", licence="own work"),
    ]
    write_motions(out, clips)
    index = json.loads(out.with_suffix(".json").read_text())
    index["clips"]["a"]["split"] = "val"
    out.with_suffix(".json").write_text(json.dumps(index))
    write_motions(out, clips)
    a, b = read_motions(out)
    assert (a.split, b.plain, b.split, b.licence, b.fps) == ("val", False, "val", "own work", 25.0)
    np.testing.assert_allclose(b.poses, clips[1].poses, atol=1e-3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.json", "mine.npz"]


def test_untagged_clips_are_classified(tmp_path):
    upright, lying = np.zeros((3, 22, 3), np.float32), np.zeros((3, 22, 3), np.float32)
    lying[1, 0, 0] = np.deg2rad(80)
    np.savez(tmp_path / "clips.npz", upright=upright, lying=lying)
    assert [(clip.name, clip.plain) for clip in read_motions(tmp_path / "clips.npz")] == [
        ("upright", True),
        ("lying", False),
    ]
    splits = [classify(f"clip{i}", upright).split for i in range(2000)]
    assert 0.08 < splits.count("val") / 2000 < 0.12


def test_names_are_unique():
    with pytest.raises(DataError) as caught:
        check_unique([_clip("a"), _clip("b"), _clip("a")])
    assert (
        str(caught.value) == "two motion clips are named 'a'; give one of the files another name."
    )


def _npz(**arrays):
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


NAN = np.zeros((5, 22, 3), np.float32)
NAN[3, 7] = np.nan
BAD = [
    (
        "x.mp4",
        b"",
        "{path}: .mp4 is not a motion format that is read. Choose one of: .bvh, .npy, .npz, .txt.",
    ),
    ("x.npz", _npz(a=NAN), "{path}: clip 'a' is not finite at frame 3."),
    (
        "x.npz",
        _npz(a=np.zeros((5, 21, 3))),
        "{path}: clip 'a' is float64 [5, 21, 3]; expected floating-point [frames, 22, 3] axis-angle.",
    ),
    ("x.npz", _npz(a=np.zeros((0, 22, 3))), "{path}: clip 'a' has no frames."),
    (
        "x.npz",
        _npz(poses=np.zeros((5, 63))),
        "{path} holds poses [5, 63]; expected at least 66 columns (22 joints).",
    ),
    (
        "x.npz",
        _npz(root_orient=np.zeros((5, 3))),
        "{path} has root_orient and no pose_body or body_pose; expected both, or poses.",
    ),
    (
        "x.npz",
        _npz(poses=np.zeros((5, 66)), mocap_frame_rate=np.array(0.0)),
        "{path} states a frame rate of 0.0; expected a number of frames per second.",
    ),
    ("x.npy", None, "{path} holds an array [5, 66]; expected Motion-X's [frames, 322]."),
    (
        "x.bvh",
        b"HIERARCHY\nROOT Hips\n{\n OFFSET 0 0 0\n",
        "{path} is damaged or not what its name says: it lacks HIERARCHY or MOTION",
    ),
    (
        "x.bvh",
        b"HIERARCHY\nROOT Hips\n{\n OFFSET 0 0 0\nMOTION\nFrames: 1\nFrame Time: 0.1\n1\n",
        "{path} is damaged or not what its name says: the hierarchy is cut short",
    ),
    (
        "x.bvh",
        b"HIERARCHY\nROOT Hips\n{\n CHANNELS 1 Xposition\n}\nMOTION\nFrames: 99\nFrame Time: 0.1\n1\n",
        "{path} is damaged or not what its name says: 1 frames of the 99 that it announces",
    ),
    (
        "x.bvh",
        b"HIERARCHY\nROOT Pelvis\n{\n CHANNELS 1 Xposition\n}\nMOTION\nFrames: 1\nFrame Time: 0.1\n1\n",
        "{path}: the joints Pelvis belong to no rig that is known."
        " Rigs that are read: CMU (ASF names), Mixamo, humanoid bones, DeepMimic.",
    ),
    (
        "x.txt",
        b'{"Frames": [[1, 2]]}',
        "{path} is damaged or not what its name says: frames of shape [1, 2], expected [frames, 44]",
    ),
]


@pytest.mark.parametrize(("name", "content", "message"), BAD)
def test_bad_files(tmp_path, name, content, message):
    path = tmp_path / name
    if content is None:
        np.save(path, np.zeros((5, 66)))
    else:
        path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_motions(path)
    assert str(caught.value) == message.format(path=path)


def test_missing_file(tmp_path):
    with pytest.raises(DataError) as caught:
        read_motions(tmp_path / "no.npz")
    assert str(caught.value) == f"no motion file at {str(tmp_path / 'no.npz')!r}."


def test_pickles_are_not_opened(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (Path(tmp_path / "exploded").touch, ())

    np.savez(tmp_path / "x.npz", a=np.array([Bomb()], dtype=object))
    with pytest.raises(DataError) as caught:
        read_motions(tmp_path / "x.npz")
    file = tmp_path / "x.npz"
    assert (
        str(caught.value)
        == f"{file}: 'a' holds Python objects, which are never read; expected numbers."
    )
    assert not (tmp_path / "exploded").exists()


def _header(shape):
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        stream, {"descr": "<f4", "fortran_order": False, "shape": shape}
    )
    return stream.getvalue()


def _refusal(path):
    """What reading says, and the most memory that it took, in MB."""
    tracemalloc.start()
    try:
        with pytest.raises(DataError) as caught:
            read_motions(path)
        return str(caught.value), tracemalloc.get_traced_memory()[1] / 1e6
    finally:
        tracemalloc.stop()


def _too_large(path, mebibytes):
    return (
        f"{path} would unpack to {mebibytes} MiB of arrays or more; at most 512 MiB are read from one file. Is it a motion "
        f"file? Split a larger set into several files."
    )


def test_a_bomb_is_refused_before_it_unfolds(tmp_path):
    """Half a megabyte that would unpack to 600, all of it as its header says."""
    bomb, frames = tmp_path / "bomb.npz", 600 * 2**20 // (22 * 3 * 4)
    kind = {"compression": zipfile.ZIP_DEFLATED, "compresslevel": 1}
    with zipfile.ZipFile(bomb, "w", **kind) as archive, archive.open("poses.npy", "w") as file:
        file.write(_header((frames, 66)))
        for start in range(0, frames, 10_000):
            file.write(bytes(min(10_000, frames - start) * 66 * 4))
    assert bomb.stat().st_size < 3e6
    message, peak = _refusal(bomb)
    assert message == _too_large(bomb, 600) and peak < 2


def test_many_arrays_count_together(tmp_path):
    with zipfile.ZipFile(tmp_path / "many.npz", "w") as archive:
        for name in "abc":
            archive.writestr(f"{name}.npy", _header((2**20, 66)))
    message, peak = _refusal(tmp_path / "many.npz")
    assert message == _too_large(tmp_path / "many.npz", 528) and peak < 2


def test_a_header_that_is_itself_a_bomb_is_not_read(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(
            "a.npy", np.lib.format.magic(2, 0) + (2**26).to_bytes(4, "little") + bytes(2**26)
        )
    message, peak = _refusal(tmp_path / "x.npz")
    path = tmp_path / "x.npz"
    assert (
        message
        == f"{path} is not a readable motion archive: {path}: 'a' has a header of 67108864 bytes"
        and peak < 2
    )


def test_a_plain_array_that_claims_too_much(tmp_path):
    (tmp_path / "x.npy").write_bytes(_header((2**20, 322)))
    message, peak = _refusal(tmp_path / "x.npy")
    assert message == _too_large(tmp_path / "x.npy", "1,288") and peak < 2


@pytest.mark.parametrize("source", ["npz", "npy", "bvh", "txt"])
def test_altered_files_never_raise_anything_but_data_errors(tmp_path, source):
    """Cut and flip bytes at random: each file is either read or refused with its name."""
    path = tmp_path / f"x.{source}"
    if source == "npy":
        np.save(path, np.zeros((3, 322), np.float32))
    elif source == "npz":
        np.savez_compressed(path, a=_clip().poses, b=_clip().poses)
    elif source == "bvh":
        path.write_text(_bvh(lambda name, t: (0, 0, 0), frames=2))
    else:
        path.write_bytes(BACKFLIP.read_bytes())
    whole, rng = path.read_bytes(), random.Random(0)
    for _ in range(60):
        data = bytearray(whole[: rng.choice([len(whole), rng.randrange(len(whole))])])
        for _ in range(rng.randrange(6)):
            if data:
                data[rng.randrange(min(len(data), rng.choice([200, len(data)])))] = rng.randrange(
                    256
                )
        path.write_bytes(bytes(data))
        try:
            clips = read_motions(path)
        except DataError as error:
            assert str(path) in str(error)
        else:
            assert all(np.isfinite(clip.poses).all() for clip in clips)


def test_a_header_that_numpy_cannot_parse(tmp_path):
    path = tmp_path / "e.npy"
    path.write_bytes(b"\x93NUMPY\x01\x00\x01\x00v")
    with pytest.raises(DataError) as caught:
        read_motions(path)
    assert (
        str(caught.value) == f"{path} is not a readable motion archive: its header is not numpy's"
    )
