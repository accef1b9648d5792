"""Annotations of other data sets: written here as their authors write them, and damaged in every
way that was thought of."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from rewardft_plugins.adhmr.annotated import AnnotatedPictures
from rewardft_plugins.adhmr.annotations import read_annotations
from rewardft_plugins.adhmr.dataset import PosePictures
from rewardft_plugins.adhmr.importing import import_annotations
from rewardft_plugins.adhmr.model import PoseDiffusion
from rewardft_plugins.humans.blazepose import Landmarks
from rewardft_plugins.humans.body import load_body
from scipy.spatial.transform import Rotation

from rewardft.cli import main
from rewardft.errors import DataError
from rewardft.policy.batches import make_batch

COUNT = 4
HALF_TURN = Rotation.from_rotvec([np.pi, 0, 0])  # y down and z away against y up and z towards


@pytest.fixture
def people(tmp_path):
    """Four people, the last upside down, in our frame; pictures with a white square each."""
    rng = np.random.default_rng(0)
    poses = rng.normal(0, 0.2, (COUNT, 22, 3)).astype(np.float32)
    poses[3, 0] = [0, 0, np.pi]
    folder = tmp_path / "images" / "downtown"
    folder.mkdir(parents=True)
    for i in range(COUNT):
        canvas = np.zeros((90, 120, 3), np.uint8)
        canvas[30:50, 20 + 10 * i : 40 + 10 * i] = 255
        Image.fromarray(canvas).save(folder / f"{i}.png")
    boxes = np.array([[20 + 10 * i, 30, 20, 20, 1] for i in range(COUNT)], np.float32)
    names = [f"downtown/{i}.png" for i in range(COUNT)]
    return tmp_path, names, boxes, poses


def opencv(poses):
    """Orientations as the sources have them."""
    return (HALF_TURN * Rotation.from_rotvec(poses[:, 0])).as_rotvec().astype(np.float32)


def human_data(people, mark="/", model="smplx", **changes):
    """An archive as `HumanData.dump` writes it, its dictionary flattened."""
    root, names, boxes, poses = people
    arrays = {
        "image_path": np.array(names),
        "bbox_xywh": boxes,
        "config": np.array("pw3d"),
        f"{model}{mark}global_orient": opencv(poses),
        f"{model}{mark}body_pose": poses[:, 1:],
        f"{model}{mark}betas": np.zeros((COUNT, 10), np.float32),
    }
    arrays = {k: v for k, v in (arrays | changes).items() if v is not None}
    np.savez(root / "pw3d.npz", **arrays)
    return root / "pw3d.npz"


def scorehypo(people, layout):
    """ScoreHypo's 3DPW_test.json, or its Sample_20_test_Human36M_smpl.json."""
    root, names, boxes, poses = people
    thetas = np.concatenate([opencv(poses)[:, None], poses[:, 1:], np.zeros((COUNT, 2, 3))], 1)
    images, annotations = [], []
    for i, name in enumerate(names):
        sequence, file = name.split("/")
        theta, box = thetas[i].ravel().tolist(), boxes[i, :4].tolist()
        if layout == "3dpw":
            images.append({"id": 7 + i, "file_name": file, "sequence": sequence, "width": 120})
            pose = {"smpl_param": {"pose": theta, "shape": [0] * 10}}
        else:
            images.append({"id": 7 + i, "file_name": name, "width": 120})
            pose = {"thetas": np.reshape(theta, (24, 3)).tolist(), "betas": [0] * 10}
        annotations.append({"image_id": 7 + i, "bbox": box, **pose})
    path = root / f"{layout}.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations[::-1]}))
    return path


def same_turns(found, expected):
    between = Rotation.from_rotvec(found.reshape(-1, 3)).inv() * Rotation.from_rotvec(
        expected.reshape(-1, 3)
    )
    return between.magnitude().max()


@pytest.mark.parametrize(("mark", "model"), [("/", "smplx"), (".", "smpl")])
def test_human_data_gives_names_boxes_and_poses_in_our_frame(people, mark, model):
    found = read_annotations(human_data(people, mark, model))
    _, names, boxes, poses = people
    assert found.names == names
    assert np.array_equal(found.boxes, boxes[:, :4])
    assert same_turns(found.poses, poses) < 1e-5


@pytest.mark.parametrize("layout", ["3dpw", "h36m"])
def test_scorehypo_joins_pictures_and_people_by_id(people, layout):
    found = read_annotations(scorehypo(people, layout))
    _, names, boxes, poses = people
    assert found.names == names[::-1]
    assert np.array_equal(found.boxes, boxes[::-1, :4])
    assert same_turns(found.poses, poses[::-1]) < 1e-5


def test_items_have_the_truth_and_what_is_in_the_box(people):
    root, names, _, poses = people
    data = AnnotatedPictures(human_data(people), root / "images", side=20)
    assert [data[i]["group"] for i in range(4)] == ["plain", "plain", "plain", "tilted"]
    assert data[2]["id"] == f"{names[2]}/2"
    joints = PoseDiffusion(weights=None, width=8, blocks=1).decode(data[1]["pose"])["joints"]
    expected = load_body(None).joints(poses)[1, :22]
    assert torch.allclose(joints[:22], torch.from_numpy(expected - expected[:1]), atol=1e-5)
    picture = data[1]["picture"]
    assert picture.shape == (3, 20, 20)
    # The box is 20 wide, the cut 25: 2.5 of 25 pixels beyond it on each side.
    assert float(picture[:, 3:17, 3:17].min()) == 1.0 and float(picture[:, :1].max()) == 0.0
    assert len(AnnotatedPictures(human_data(people), group="tilted")) == 1
    assert "picture" not in AnnotatedPictures(human_data(people))[0]


def test_a_model_with_an_image_condition_takes_them(people):
    data = AnnotatedPictures(human_data(people), people[0] / "images", side=32)
    model = PoseDiffusion(weights=None, condition="image", width=16, blocks=1)
    batch = make_batch([data[0], data[3]], [0, 0])
    x = model.clean(batch)
    assert model.denoise(x, torch.tensor([5, 5]), model.encode(batch)).shape == (2, 118)


class Centre:
    """A detector that sees all landmarks where the white pixels are."""

    def find(self, picture):
        rows, columns = np.nonzero(picture[..., 0] > 0.5)
        places = np.zeros((33, 3), np.float32)
        places[:, :2] = columns.mean() + 0.5, rows.mean() + 0.5
        places[[11, 12], 1] -= 30  # upright
        return Landmarks(places, np.ones(33, np.float32), np.zeros((33, 3), np.float32))


def test_imported_annotations_are_a_data_set_with_landmarks(people, tmp_path):
    files = {"train": human_data(people), "val": scorehypo(people, "3dpw")}
    made = import_annotations(tmp_path / "set", files, people[0] / "images", Centre())
    assert made["splits"]["val"]["groups"] == {"tilted": 1, "plain": 3}
    data = PosePictures(str(tmp_path / "set"), "train")
    assert float(data[1]["landmarks"][0, :2].abs().max()) < 0.01  # the box' centre
    direct = AnnotatedPictures(files["train"])
    assert torch.allclose(data[1]["pose"], direct[1]["pose"]) and data[1]["id"] == direct[1]["id"]
    with pytest.raises(DataError, match="exists; give a folder"):
        import_annotations(tmp_path / "set", files, people[0] / "images", Centre())


BAD = {
    "object": (
        {"smplx/body_pose": None, "smplx/global_orient": None, "smplx/betas": None}
        | {"smplx": {"body_pose": np.zeros((4, 21, 3))}},
        "flatten it once",
    ),
    "pickled": ({"smplx/body_pose": np.array([{}] * 4)}, "holds Python objects"),
    "no body": ({"smplx/body_pose": None}, "lacks smplx/body_pose; it has bbox_xywh"),
    "no boxes": ({"bbox_xywh": None}, "lacks bbox_xywh"),
    "text": ({"bbox_xywh": np.array(["a"] * 4)}, "'bbox_xywh' holds <U1, expected numbers"),
    "few": ({"bbox_xywh": np.ones((3, 5))}, "4 pictures, 3 boxes and 4 poses"),
    "short": (
        {"smplx/body_pose": np.zeros((4, 5, 3))},
        r"at least 63 .* got \[4, 3\] and \[4, 15\]",
    ),
    "empty box": ({"bbox_xywh": np.zeros((4, 5))}, "the box of person 0 is empty"),
    "nan": ({"bbox_xywh": np.full((4, 5), np.nan)}, "must be finite"),
    "none": (
        dict.fromkeys(("image_path", "bbox_xywh", "smplx/global_orient"), np.zeros((0, 3)))
        | {"smplx/body_pose": np.zeros((0, 21, 3))},
        "at least one",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_flawed_archive_is_refused_in_words(people, kind):
    changes, words = BAD[kind]
    path = human_data(people, **changes)
    with pytest.raises(DataError, match=words) as found:
        read_annotations(path)
    assert str(path) in str(found.value)


def test_the_advice_for_a_pickled_file_works(people, tmp_path):
    """The command in the message flattens the file that it is about."""
    _, _, _, poses = people
    smplx = {"global_orient": opencv(poses), "body_pose": poses[:, 1:]}
    changes = dict.fromkeys(("smplx/body_pose", "smplx/global_orient", "smplx/betas"))
    path = human_data(people, **changes, smplx=smplx)
    with pytest.raises(DataError) as found:
        read_annotations(path)
    script = re.search(r"<<'END'\n(.*)\nEND", str(found.value), re.DOTALL)[1]
    flat = tmp_path / "flat.npz"
    subprocess.run([sys.executable, "-c", script, path, flat], check=True)
    assert same_turns(read_annotations(flat).poses, poses) < 1e-5


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.npz", b"PK\x03\x04 not really", "not a readable .npz"),
        ("a.npz", None, "not a readable .npz"),
        ("a.json", b"{", "JSONDecodeError"),
        ("a.json", b"[]", "expected ScoreHypo's annotations"),
        ("a.json", b'{"images": [], "annotations": []}', "at least one"),
        ("a.json", b'{"images": [], "annotations": [{"image_id": 1}]}', "KeyError: 'smpl_param'"),
        ("a.json", b"[" * 100000, "RecursionError"),
        ("a.pkl", b"", "expected a HumanData archive"),
    ],
)
def test_a_file_of_another_kind_is_refused_in_words(tmp_path, name, content, words):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=re.escape(words)):
        read_annotations(path)


def test_pictures_must_be_there_whole_and_inside(people):
    root = people[0]
    images = root / "images"
    data = AnnotatedPictures(human_data(people), images)
    (images / "downtown/1.png").unlink()
    (images / "downtown/2.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(
        DataError, match=r"'downtown/1.png' cannot be read \(.*: there is no such file"
    ):
        data[1]
    with pytest.raises(DataError, match="not a readable image"):
        data[2]
    outside = human_data(people, image_path=np.array(["../pw3d.npz"] * 4))
    with pytest.raises(DataError, match="lies outside"):
        AnnotatedPictures(outside, images)[0]


def test_the_command_says_what_it_needs(people, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("REWARDFT_BLAZEPOSE", raising=False)
    images = ["--images", str(people[0] / "images")]
    assert main(["adhmr", "import", str(tmp_path / "set"), *images]) == 2
    assert "give annotations with --train, --val, or both" in capsys.readouterr().err
    train = ["--train", str(human_data(people))]
    assert main(["adhmr", "import", str(tmp_path / "set"), *images, *train]) != 0
    assert "needs the BlazePose landmark network" in capsys.readouterr().err
    assert not (tmp_path / "set").exists()
