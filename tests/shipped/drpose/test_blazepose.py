"""The second judge: its geometry with small networks, how the file is found and read, and the real
network."""

import os
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from rewardft_plugins.drpose.judges.blazepose import (
    LANDMARKS,
    BlazePoseJudge,
    LimbJudge,
    limb_errors,
)
from rewardft_plugins.humans.blazepose import MODEL_VARIABLE
from rewardft_plugins.humans.body import JOINTS
from rewardft_plugins.humans.camera import HALF_EXTENT, project

from rewardft.errors import ComponentError
from rewardft.types import Batch

SOURCE = (
    "It is mediapipe/modules/pose_landmark/pose_landmark_full.tflite in the wheel mediapipe "
    "0.10.21 (Apache-2.0), converted to ONNX, for example with tf2onnx."
)
NUMBERS = list(LANDMARKS.values())
COLUMNS = [JOINTS.index(name) for name in LANDMARKS]

# -- geometry, with small functions in place of the network ----------------------------------------


@pytest.fixture
def joints():
    """`(23, 3)` metres; no two have the same height, so their dots meet in no view."""
    generator = np.random.default_rng(3)
    heights = np.linspace(-1.0, 1.0, len(JOINTS))
    x, z = generator.uniform(-0.8, 0.8, (2, len(JOINTS)))
    return np.stack([x, generator.permutation(heights), z], axis=1).astype(np.float32)


def painted(joints2d):
    """Views `(6, 3, 256, 256)` with a dot of its own shade at each joint, as stored."""
    views = torch.zeros(6, 3, 256, 256)
    for view, places in enumerate((joints2d + 1) * 128):
        for number, (x, y) in enumerate(places.round().long().tolist()):
            views[view, :, y - 2 : y + 2, x - 2 : x + 2] = (number + 1) / 32
    return views


def find_dots(picture):
    """The network that reads those dots: each landmark that is a joint, the others far outside."""
    landmarks = np.full((33, 2), 1e4, dtype=np.float32)
    for landmark, column in zip(NUMBERS, COLUMNS):
        rows, columns = np.nonzero((picture[..., 0] * 32).round() == column + 1)
        landmarks[landmark] = columns.mean() + 0.5, rows.mean() + 0.5
    return landmarks


def test_every_joint_is_compared_with_its_landmark_in_every_view(joints):
    joints2d = torch.from_numpy(project(joints))
    errors = limb_errors(painted(joints2d)[None], joints2d[None], find_dots)
    assert errors.shape == (1, 6, 12) and errors.max() < 0.003, (
        "less than a pixel: the dots are rounded to pixels"
    )
    moved = joints2d.clone()
    moved[2, JOINTS.index("left_knee"), 0] += 0.5
    errors = limb_errors(painted(joints2d)[None], moved[None], find_dots)[0]
    assert errors[2, list(LANDMARKS).index("left_knee")] == pytest.approx(0.25, abs=0.003)
    assert (errors > 0.003).sum() == 1


def test_the_network_sees_back_and_left_as_a_camera_would(joints):
    seen = []

    def network(picture):
        seen.append(find_dots(picture))
        return seen[-1]

    joints2d = torch.from_numpy(project(joints))
    limb_errors(painted(joints2d)[None], joints2d[None], network)
    x, z = (joints[COLUMNS][:, axis] for axis in (0, 2))
    front, right, back, left = (seen[view][NUMBERS][:, 0] / 128 - 1 for view in (0, 2, 3, 4))
    for found, expected in ((front, x), (right, -z), (back, -x), (left, z)):
        assert found == pytest.approx(expected / HALF_EXTENT, abs=0.01)


def test_pictures_of_any_size_are_brought_to_the_network_s():
    shapes, corners = [], []

    def network(picture):
        shapes.append((picture.shape, picture.dtype))
        corners.append((picture[0, 0].tolist(), picture[-1, -1].tolist()))
        return np.zeros((33, 2), dtype=np.float32)

    for size in (64, 512):
        views = torch.zeros(1, 6, 3, size, size, dtype=torch.bfloat16)
        views[..., : size // 2, :] = torch.tensor([1.5, 0.5, 0.25], dtype=torch.bfloat16)[
            :, None, None
        ]
        limb_errors(views, torch.zeros(1, 6, 23, 2), network)
    assert shapes == [((256, 256, 3), np.dtype("float32"))] * 12
    assert corners == [([1.0, 0.5, 0.25], [0.0, 0.0, 0.0])] * 12, "channels last, limited to [0, 1]"


def centred(picture):
    """All joints at the picture's centre, moved to the right by the shade of its corner."""
    return np.full((33, 2), 128, dtype=np.float32) + np.float32([256 * picture[0, 0, 0], 0])


def samples(shades, rows=12):
    """One sample per shade: colours of that shade, normals (and face rows) white."""
    decoded = torch.ones(len(shades), rows, 3, 64, 64)
    decoded[:, rows // 2 : rows // 2 + 6] = torch.tensor(shades)[:, None, None, None, None]
    columns = {"joints2d": torch.zeros(len(shades), 6, 23, 2)}
    return SimpleNamespace(decoded=decoded), Batch(
        tuple(map(str, shades)), (0,) * len(shades), columns
    )


def test_both_tables_hold_every_sample_whatever_the_batches():
    judge = LimbJudge(centred)
    assert {name: tuple(table.shape) for name, table in judge.compute().items()} == {
        "pck": (0,),
        "error_mm": (0,),
    }
    shades = [0.0, 0.04, 0.06]
    for shade in shades:
        judge.update(*samples([shade]))
    alone = judge.compute()
    judge.reset()
    judge.update(*samples(shades, rows=14))
    expected = pytest.approx([2400 * shade for shade in shades], abs=1e-2)
    assert alone["error_mm"].tolist() == judge.compute()["error_mm"].tolist() == expected, (
        "the picture is 2.4 m wide"
    )
    assert alone["pck"].tolist() == judge.compute()["pck"].tolist() == [1.0, 1.0, 0.0]


def test_pck_is_the_fraction_of_joints_and_views():
    judge = LimbJudge(centred)
    rollout, batch = samples([0.0])
    batch["joints2d"][0, :3, JOINTS.index("right_wrist"), 1] = (
        0.2  # a tenth of the width, in three of the six views
    )
    batch["joints2d"][0, :, JOINTS.index("head")] = 0.9  # not one of the twelve
    judge.update(rollout, batch)
    assert judge.compute()["pck"].tolist() == pytest.approx([1 - 3 / 72])
    assert judge.compute()["error_mm"].tolist() == pytest.approx([240 * 3 / 72])


def test_the_normals_are_judged_on_request():
    judge = LimbJudge(centred, domain="normal")
    judge.update(*samples([0.0]))
    assert judge.compute()["error_mm"].tolist() == [2400.0]


def test_a_batch_without_the_pose_is_explained():
    rollout, _ = samples([0.0])
    with pytest.raises(ComponentError) as error:
        LimbJudge(centred).update(rollout, Batch(("a",), (0,), {}))
    assert str(error.value) == "blazepose needs the column 'joints2d': a data set such as drpose15k"


# -- the file ------------------------------------------------------------------------------------------------------------


def refusal(*arguments):
    with pytest.raises(ComponentError) as error:
        BlazePoseJudge(*arguments)
    return str(error.value)


def test_without_a_path_the_message_says_where_the_network_comes_from(monkeypatch):
    monkeypatch.delenv(MODEL_VARIABLE, raising=False)
    assert refusal() == (
        "blazepose needs the BlazePose landmark network in ONNX format, which rewardft does not "
        "ship: give its path as the option `model` or in the environment variable "
        f"REWARDFT_BLAZEPOSE. {SOURCE}"
    )


def test_a_path_that_is_no_file_is_refused_with_its_origin(monkeypatch, tmp_path):
    path = str(tmp_path / "no.onnx")
    monkeypatch.setenv(MODEL_VARIABLE, str(tmp_path))
    assert (
        refusal(path)
        == f"blazepose: the option `model` says {path!r}, which is not a file. {SOURCE}"
    )
    expected = f"blazepose: the environment variable REWARDFT_BLAZEPOSE says {str(tmp_path)!r}, which is not a file. {SOURCE}"
    assert refusal() == expected


def test_without_onnxruntime_the_message_says_what_to_install(monkeypatch, tmp_path):
    (tmp_path / "some.onnx").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert refusal(str(tmp_path / "some.onnx")) == (
        "blazepose needs the package onnxruntime, which is not installed: pip install "
        "'rewardft[blazepose]'."
    )


def onnx_file(path, side):
    """An ONNX network, `(n, side, side, 3)` -> the first 195 values of each picture, written out in
    protobuf."""

    def number(value):
        return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + number(value >> 7)

    def field(tag, value):
        if isinstance(value, int):
            return number(tag << 3) + number(value)
        data = value.encode() if isinstance(value, str) else value
        return number(tag << 3 | 2) + number(len(data)) + data

    def node(kind, source, target, **attributes):
        values = [
            field(5, field(1, name) + field(20, 7) + field(8, value))
            if name in ("axes", "starts", "ends")
            else field(5, field(1, name) + field(20, 2) + field(3, value))
            for name, value in attributes.items()
        ]
        return field(1, field(1, source) + field(2, target) + field(4, kind) + b"".join(values))

    def tensor(tag, name, *shape):
        sizes = [field(1, field(2 if isinstance(size, str) else 1, size)) for size in shape]
        return field(
            tag, field(1, name) + field(2, field(1, field(1, 1) + field(2, b"".join(sizes))))
        )

    graph = node("Flatten", "picture", "flat", axis=1)
    graph += node("Slice", "flat", "values", axes=1, starts=0, ends=195) + field(2, "first")
    graph += tensor(11, "picture", "n", side, side, 3) + tensor(12, "values", "n", 195)
    graph += tensor(
        12, "flat", "n", side * side * 3
    )  # onnxruntime would put the number in the place of a name
    path.write_bytes(field(1, 4) + field(8, field(2, 9)) + field(7, graph))
    return str(path)


NO_RUNTIME = "onnxruntime is not installed: pip install 'rewardft[blazepose]'"


def test_landmarks_are_read_from_the_output_of_39_points_with_five_values(tmp_path):
    pytest.importorskip("onnxruntime", reason=NO_RUNTIME)
    judge = BlazePoseJudge(onnx_file(tmp_path / "first.onnx", 256))
    picture = np.random.default_rng(0).random((256, 256, 3), dtype=np.float32)
    landmarks = judge.network(picture)
    assert landmarks.shape == (33, 2)
    assert landmarks[13].tolist() == picture.ravel()[[65, 66]].tolist()


def test_another_network_is_refused(tmp_path):
    pytest.importorskip("onnxruntime", reason=NO_RUNTIME)
    path = onnx_file(tmp_path / "other.onnx", 128)
    assert refusal(path) == (
        f"{path} is not the BlazePose landmark network: expected one input [n, 256, 256, 3] and "
        "one output [n, 195], got inputs [['n', 128, 128, 3]] and outputs [['n', 195], ['n', "
        f"49152]]. {SOURCE}"
    )


def test_a_damaged_file_is_refused(tmp_path):
    pytest.importorskip("onnxruntime", reason=NO_RUNTIME)
    path = tmp_path / "cut.onnx"
    path.write_bytes(b"\x08\x04:\xff\xff")
    message = refusal(str(path))
    assert message.startswith(f"{path} cannot be read as an ONNX network (truncated?): ")
    assert message.endswith(f". {SOURCE}") and "Protobuf" in message


# -- the real network ----------------------------------------------------------------------------------------------------


def test_the_real_network_finds_the_limbs_of_rendered_bodies(rendered_bodies):
    pytest.importorskip("onnxruntime", reason=NO_RUNTIME)
    if not os.environ.get(MODEL_VARIABLE):
        pytest.skip(
            f"the BlazePose network is not here: set {MODEL_VARIABLE} to its path. {SOURCE}"
        )
    judge = BlazePoseJudge()
    views, joints2d = rendered_bodies["colours"], rendered_bodies["joints2d"]
    errors = limb_errors(views, joints2d, judge.network)
    assert (errors < 0.05).float().mean() > 0.8 and errors.mean() < 0.05
    others = limb_errors(views, joints2d.flip(0), judge.network)
    sides = limb_errors(views.flip(-1), joints2d * torch.tensor([-1.0, 1.0]), judge.network)
    assert others.mean() > 1.3 * errors.mean(), "poses of other samples fit less well"
    assert (sides < 0.05).float().mean() < 0.5, "in a mirrored person left and right are exchanged"
