"""Data sets: items of the three tasks, captions that are true, and readers of others' files."""

import json

import numpy as np
import pytest
import torch
from rewardft_plugins.posert import posecodes
from rewardft_plugins.posert.dataset import PoseDialogues
from rewardft_plugins.posert.rotations import joints, pack_axis_angle
from rewardft_plugins.posert.scripts import bedlam_script, pose_script
from rewardft_plugins.posert.text import ANSWER_TEXT, OTHER_ANSWERS
from scipy.spatial.transform import Rotation

from rewardft.errors import DataError
from rewardft.testing import check_dataset


def test_items_of_the_three_tasks(items):
    assert [item["group"] for item in items] == ["image"] * 2 + ["text"] * 2 + ["describe"] * 2
    for item in items:
        task, caption = item["group"], item["caption"]
        assert bool(item["landmarks"].any()) == (task == "image")
        assert bool(item["body"].any()) == (task == "describe")
        if task == "describe":
            assert item["reference"] == caption and torch.equal(item["body"], item["pose"])
        else:
            assert item["answer"] == item["reference"] == ANSWER_TEXT
        if task != "image":
            assert len(posecodes.read(caption)) == 4
            assert posecodes.satisfied([caption], joints(item["pose"][None])) == 1
    check_dataset(PoseDialogues(tasks=("image", "text"), limit=5))


def test_other_captions_of_a_frame_and_other_answers():
    data = PoseDialogues(tasks=("text",), captions=3, answers="mixed")
    count = len(data) // 3
    first, again = (data[i]["caption"] for i in (0, count))
    assert data.questions[0].row == data.questions[count].row and first != again
    answers = [data[i]["answer"] for i in range(len(data))]
    shares = [answers.count(text) / len(data) for text in (ANSWER_TEXT, *OTHER_ANSWERS)]
    assert shares == pytest.approx([0.7, 0.12, 0.18], abs=0.04)
    assert data[5]["answer"] == data[5]["answer"]


def test_splits_share_no_clip():
    clips = [
        {q.id.split("/")[1] for q in PoseDialogues(tasks=("text",), split=split).questions}
        for split in ("train", "val")
    ]
    assert not clips[0] & clips[1] and all(clips)


def test_what_a_data_set_refuses():
    with pytest.raises(
        DataError, match=r"^tasks are image, text, describe, got 'txt'. Did you mean"
    ):
        PoseDialogues(tasks=("txt",))
    with pytest.raises(DataError, match=r"^limit and captions must be at least 1, got 0 and 1$"):
        PoseDialogues(limit=0)
    with pytest.raises(DataError, match=r"have no clip of the split 'test'; they have train, val"):
        PoseDialogues(tasks=("text",), split="test")


@pytest.fixture
def amass(tmp_path):
    """A sequence, z up, of a person who stands and then lies down; captions and index beside it."""
    poses = np.zeros((2, 156))
    upright = Rotation.from_euler("x", 90, degrees=True)
    poses[0, :3] = upright.as_rotvec()
    poses[1, :3] = 0.0
    (tmp_path / "KIT").mkdir()
    np.savez(tmp_path / "KIT" / "a_poses.npz", poses=poses)
    frames = {"0": ["AMASS", "KIT/a_poses.npz", 0], "7": ["AMASS", "KIT/a_poses.npz", 1]}
    captions = {"0": ["The person stands.", "Standing upright."], "7": "Lying on the back."}
    (tmp_path / "index.json").write_text(json.dumps(frames))
    (tmp_path / "captions.json").write_text(json.dumps(captions))
    (tmp_path / "split.json").write_text("[7]")
    return {name: tmp_path / f"{name}.json" for name in ("captions", "index")} | {"amass": tmp_path}


def test_posescript_is_read_with_its_poses(amass, tmp_path):
    data = pose_script(**amass)
    assert [item["caption"] for item in data] == [
        "The person stands.",
        "Standing upright.",
        "Lying on the back.",
    ]
    torso = posecodes.true_phrases(joints(torch.stack([item["pose"] for item in data])))[:, 10]
    said = [posecodes.PHRASES[i] for i in torso.tolist()]
    assert said == ["torso upright", "torso upright", "torso horizontal"]
    (one,) = pose_script(**amass, ids=tmp_path / "split.json", task="describe")
    assert one["id"] == "describe/7/0" and torch.equal(one["body"], one["pose"])
    check_dataset(data)


def test_what_is_wrong_with_others_files_is_said(amass, tmp_path):
    (tmp_path / "index.json").write_text('{"0": ["AMASS", "KIT/a_poses.npz", 9], "7": 3}')
    with pytest.raises(DataError, match=r"KIT/a_poses.npz has no frame 9, it has 2.$"):
        pose_script(**amass)
    (tmp_path / "index.json").write_text('{"0": ["AMASS", "../elsewhere.npz", 0]}')
    with pytest.raises(DataError, match=r"'../elsewhere.npz' of '0' is not below "):
        pose_script(**amass)
    (tmp_path / "index.json").write_text('{"0": 3}')
    with pytest.raises(DataError, match=r"id '0' is 3; expected \[data set, sequence, frame\].$"):
        pose_script(**amass)
    (tmp_path / "captions.json").write_text("[1]")
    with pytest.raises(DataError, match=r"captions.json holds a list; expected a dict.$"):
        pose_script(**amass)
    (tmp_path / "captions.json").write_text('{"0": 4}')
    with pytest.raises(DataError, match=r"'0' is 4; expected a caption or a list.$"):
        pose_script(**amass)
    (tmp_path / "captions.json").write_text("{")
    with pytest.raises(DataError, match=r"captions.json is not readable JSON: "):
        pose_script(**amass)


def test_bedlam_is_read_in_camera_axes(tmp_path):
    rows = np.zeros((2, 165))
    rows[:, 0] = np.pi  # upright before a camera whose y axis points down
    np.savez(tmp_path / "b.npz", imgname=np.array(["s/0.png", "s/1.png"]), pose_cam=rows)
    (tmp_path / "c.json").write_text('{"s/1.png": "Somebody in a T-pose."}')
    (item,) = bedlam_script(tmp_path / "c.json", tmp_path / "b.npz")
    assert item["id"] == "text/s/1.png/0"
    assert torch.allclose(item["pose"], pack_axis_angle(torch.zeros(1, 22, 3))[0], atol=1e-5)
    both = np.array(["s/1.png", "s/1.png"])  # two people: whose pose is the caption's?
    np.savez(tmp_path / "b.npz", imgname=both, pose_cam=rows)
    with pytest.raises(DataError, match=r"c.json: none of its 1 captions has a pose.$"):
        bedlam_script(tmp_path / "c.json", tmp_path / "b.npz")
    np.savez(tmp_path / "b.npz", imgname=np.array(["x"]), pose_cam=rows[:1])
    with pytest.raises(DataError, match=r"c.json: none of its 1 captions has a pose.$"):
        bedlam_script(tmp_path / "c.json", tmp_path / "b.npz")
    np.savez(tmp_path / "b.npz", imgname=np.array([object()], dtype=object), pose_cam=rows[:1])
    with pytest.raises(DataError, match=r"holds Python objects, which are never read"):
        bedlam_script(tmp_path / "c.json", tmp_path / "b.npz")
