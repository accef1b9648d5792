"""The body: what it looks like, where its joints are, and what is said about it."""

import sys

import numpy as np
import pytest
from rewardft_plugins.humans.body import ASSETS, JOINTS, PARENTS, PARTS, describe_body, load_body
from rewardft_plugins.humans.motion import shipped_clips

from rewardft.errors import DataError

OPEN_FILE = ASSETS / "bodies/anny_lowpoly/smplx/SMPLX_NEUTRAL.npz"
TERMS = "The `smplx` package is licensed for non-commercial research only."


@pytest.fixture(autouse=True)
def _no_licensed_model(monkeypatch):
    monkeypatch.delenv("SMPLX_MODELS", raising=False)


@pytest.fixture(scope="module")
def body():
    return load_body("anny_lowpoly")


def _written(path, **changes):
    """The open body's file with arrays replaced, or dropped where the change is None."""
    with np.load(OPEN_FILE) as data:
        arrays = {name: data[name] for name in data.files}
    arrays.update(changes)
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


def test_rest_pose_stands_upright_and_faces_the_camera(body):
    vertices, joints = body.pose(np.zeros((1, 22, 3), np.float32))
    at = dict(zip(JOINTS, joints[0]))
    assert 1.5 < np.ptp(vertices[0, :, 1]) < 2.0
    assert (
        at["head"][1] > at["spine3"][1] > at["pelvis"][1] > at["left_knee"][1] > at["left_ankle"][1]
    )
    assert at["left_wrist"][0] > 0.5 > -0.5 > at["right_wrist"][0]
    assert at["left_foot"][2] > at["left_ankle"][2]  # toes point at +z


def test_forward_kinematics_agrees_with_the_mesh_model(body):
    poses = np.concatenate([clip.poses[::9] for clip in shipped_clips()])
    np.testing.assert_allclose(body.joints(poses), body.pose(poses)[1], atol=2e-6)


def test_shape_changes_the_body(body):
    rest = np.zeros((2, 22, 3), np.float32)
    betas = np.zeros((2, 10), np.float32)
    betas[1, 0] = 1.0
    vertices, _ = body.pose(rest, betas)
    assert 0.01 < np.abs(vertices[1] - vertices[0]).max() < 0.3


def test_every_face_has_a_part_and_sides_are_right(body):
    vertices, _ = body.pose(np.zeros((1, 22, 3), np.float32))
    centres = vertices[0][body.faces].mean(axis=1)
    assert set(np.unique(body.face_parts)) == set(range(1, len(PARTS)))
    for part, sign in (
        ("left_forearm", 1),
        ("right_forearm", -1),
        ("left_shin", 1),
        ("right_foot", -1),
    ):
        assert (sign * centres[body.face_parts == PARTS.index(part), 0] > 0).all(), part
    assert body.face_hair.any() and (body.face_parts[body.face_hair] == PARTS.index("head")).all()


def test_parents_are_those_of_the_model(body):
    assert [int(p) for p in body._model.parents[: len(JOINTS)]] == list(PARENTS)


def test_description_of_the_open_body(body):
    assert describe_body(body) == (
        "body: anny_lowpoly, an open body in the SMPL-X file layout (CC0 geometry); it is NOT the SMPL-X model. "
        f"{TERMS} Set SMPLX_MODELS or --body to a folder with SMPLX_NEUTRAL.npz to use the licensed model."
    )


def test_a_users_model_is_found_through_the_variable(tmp_path, monkeypatch):
    (tmp_path / "smplx").mkdir()
    file = _written(tmp_path / "smplx" / "SMPLX_NEUTRAL.npz", license=None)
    monkeypatch.setenv("SMPLX_MODELS", str(tmp_path))
    body = load_body()
    assert body.licensed
    expected = f"body: SMPL-X (SMPLX_NEUTRAL.npz), the licensed SMPL-X model from {file}. {TERMS}"
    assert describe_body(body) == expected


def test_the_open_body_is_never_called_smplx_wherever_it_lies(tmp_path):
    file = _written(tmp_path / "SMPLX_NEUTRAL.npz")
    body = load_body(file)
    assert not body.licensed
    assert "it is NOT the SMPL-X model" in describe_body(body)


def test_missing_model(tmp_path):
    with pytest.raises(DataError) as caught:
        load_body(tmp_path)
    assert str(caught.value) == (
        f"no body model at {str(tmp_path)!r}: expected {tmp_path}/SMPLX_NEUTRAL.npz or"
        f" {tmp_path}/smplx/SMPLX_NEUTRAL.npz. Download the SMPL-X model from its authors, or leave the option out"
        " to use the open body that is shipped."
    )


def test_misspelt_open_body():
    with pytest.raises(DataError, match=r"Did you mean 'anny_lowpoly'\?$"):
        load_body("any_lowpoly")


def test_incomplete_model(tmp_path):
    file = _written(tmp_path / "SMPLX_NEUTRAL.npz", weights=None, posedirs=None)
    with pytest.raises(DataError) as caught:
        load_body(tmp_path)
    assert (
        str(caught.value)
        == f"{file} is not an SMPL-X body model: it lacks the arrays posedirs, weights."
    )


def test_too_few_vertices(tmp_path):
    file = _written(tmp_path / "SMPLX_NEUTRAL.npz", v_template=np.zeros((100, 3), np.float32))
    with pytest.raises(DataError) as caught:
        load_body(tmp_path)
    assert str(caught.value) == f"{file} has 100 vertices; the smplx package needs at least 9930."


@pytest.mark.parametrize("content", [b"", b"not a zip", OPEN_FILE.read_bytes()[:5000]])
def test_damaged_model(tmp_path, content):
    file = tmp_path / "SMPLX_NEUTRAL.npz"
    file.write_bytes(content)
    with pytest.raises(DataError) as caught:
        load_body(tmp_path)
    assert str(caught.value).startswith(f"{file} is not a readable .npz body model: ")


def test_missing_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "smplx", None)
    with pytest.raises(DataError) as caught:
        load_body("anny_lowpoly")
    assert str(caught.value) == (
        "posing a body needs the `smplx` package (non-commercial research licence): pip install 'rewardft[drpose]'."
    )


class _Trap:
    """Unpickling it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_a_body_file_never_runs_code(tmp_path):
    trap = tmp_path / "ran"
    bad = np.array([_Trap(trap)], dtype=object)
    _written(tmp_path / "SMPLX_NEUTRAL.npz", part2num=bad, extra=bad)
    body = load_body(tmp_path)  # as the licensed file, which holds objects that nobody needs
    rest = np.zeros((1, 22, 3), np.float32)
    np.testing.assert_array_equal(body.pose(rest)[1], load_body("anny_lowpoly").pose(rest)[1])
    for name in ("v_template", "hands_meanl", "kintree_table"):
        _written(tmp_path / "SMPLX_NEUTRAL.npz", **{name: bad})
        with pytest.raises(DataError) as caught:
            load_body(tmp_path)
        file = tmp_path / "SMPLX_NEUTRAL.npz"
        expected = f"{file}: {name!r} holds Python objects, which are never read; expected numbers."
        assert str(caught.value) == expected
    assert not trap.exists()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("v_template", np.full((10475, 3), np.nan), "must hold finite numbers only."),
        ("weights", np.full((10475, 55), "x"), "must hold finite numbers only."),
        ("J_regressor", np.zeros((2, 2)), "the array 'J_regressor' is [2, 2]; expected [55, "),
        ("f", np.full((5, 3), 10**6), "the array 'f' must hold faces of its "),
        ("f", np.zeros((0, 3), int), "the array 'f' must hold faces of its "),
    ],
)
def test_a_body_of_other_arrays_is_a_sentence(tmp_path, name, value, message):
    _written(tmp_path / "SMPLX_NEUTRAL.npz", **{name: value})
    with pytest.raises(DataError) as caught:
        load_body(tmp_path)
    assert message in str(caught.value) and str(tmp_path) in str(caught.value)
