"""The data set's items, and what is said when its folder is not as it should be."""

import json
import shutil

import numpy as np
import pytest
import torch
from rewardft_plugins.drpose.data.build import build_dataset
from rewardft_plugins.drpose.data.dataset import Drpose15k
from rewardft_plugins.drpose.data.splits import Sampling, plan_splits
from rewardft_plugins.humans.body import load_body
from rewardft_plugins.humans.camera import project
from rewardft_plugins.humans.motion import shipped_clips

from rewardft.errors import DataError

SIZE = 32


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    root = tmp_path_factory.mktemp("drpose") / "mini"
    plans = plan_splits(shipped_clips(), Sampling(poses=6, neighbours=2, val_samples=5))
    build_dataset(root, plans, load_body("anny_lowpoly"), size=SIZE, seed=0)
    return root


@pytest.fixture
def copy(built, tmp_path):
    """A data set that a test may damage."""
    return shutil.copytree(built, tmp_path / "copy")


def test_items_are_as_documented(built):
    data = Drpose15k(str(built), "val", targets=True)
    assert len(data) == 5
    item = data[0]
    shapes = {
        name: tuple(value.shape) for name, value in item.items() if isinstance(value, torch.Tensor)
    }
    assert shapes == {
        "image": (3, SIZE, SIZE),
        "joints": (23, 3),
        "joints2d": (6, 23, 2),
        "offset": (3,),
        "pose": (22, 3),
        "betas": (10,),
        "normals": (6, 3, SIZE, SIZE),
        "colours": (6, 3, SIZE, SIZE),
        "labels": (6, SIZE, SIZE),
    }
    assert item["labels"].dtype == torch.uint8 and item["labels"].max() <= 14
    for name in ("image", "normals", "colours"):
        assert item[name].dtype == torch.float32 and item[name].min() >= 0 and item[name].max() == 1
    assert (
        item["clip"] in {"dm_cartwheel", "dm_kick", "dm_getup_facedown"} and item["plain"] is False
    )
    assert item["id"].startswith(item["clip"] + "/") and item["id"].count("/") == 2


def test_the_image_is_the_front_view_and_joints_project_to_joints2d(built):
    for item in Drpose15k(str(built), "plain_val", targets=True):
        torch.testing.assert_close(item["image"], item["colours"][0])
        assert item["joints"][0].abs().max() == 0
        projected = project((item["joints"] + item["offset"]).numpy())
        np.testing.assert_allclose(projected, item["joints2d"].numpy(), atol=1e-6)
        assert item["joints2d"].abs().max() < 1


def test_views_agree_with_each_other(built):
    item = Drpose15k(str(built), "val", targets=True)[1]
    covered = item["labels"] > 0
    rows = covered.any(dim=2).int()
    assert (rows - rows[0]).abs().sum(dim=1).max() <= 2  # every view sees the same rows of the body
    white = (item["normals"] == 1).all(dim=1) & (item["colours"] == 1).all(dim=1)
    assert not (white & covered).any()


def test_training_split_has_pairs_only(built):
    item = Drpose15k(str(built))[0]
    assert "normals" not in item and item["image"].shape == (3, SIZE, SIZE)
    with pytest.raises(DataError) as caught:
        Drpose15k(str(built), "train", targets=True)
    assert str(caught.value) == (
        f"split 'acro_train' of {built} holds no six-view targets; expected them because targets is true."
        " Build it with `--targets all`, or take another split."
    )


def test_ids_are_unique_and_no_clip_is_in_two_splits(built):
    seen_ids, owner = set(), {}
    for split in ("plain_train", "plain_val", "acro_train", "acro_val"):
        for item in Drpose15k(str(built), split):
            assert item["id"] not in seen_ids
            seen_ids.add(item["id"])
            assert owner.setdefault(item["clip"], split) == split
    assert len(owner) > 6


def test_limit_and_indices(built):
    data = Drpose15k(str(built), "val", limit=2)
    assert len(data) == 2 and data[-1]["id"] == data[1]["id"]
    with pytest.raises(IndexError, match=r"^sample 2 of a split of 2$"):
        data[2]
    with pytest.raises(DataError) as caught:
        Drpose15k(str(built), limit=0)
    assert (
        str(caught.value) == "drpose15k: limit is 0; expected at least 1, or null for all samples."
    )


def test_tags():
    assert Drpose15k.provides == {"multiview"}
    assert Drpose15k.tags(root="x", targets=True) == {"training_targets"}
    assert Drpose15k.tags(root="x") == frozenset()


def test_a_row_is_a_copy(built):
    data = Drpose15k(str(built), "val", targets=True)
    before = data[0]["labels"].clone()
    data[0]["labels"].fill_(99)
    torch.testing.assert_close(data[0]["labels"], before)


def test_unknown_split(built):
    with pytest.raises(DataError) as caught:
        Drpose15k(str(built), "acro_vall")
    assert str(caught.value) == f"{built} has no split 'acro_vall'. Did you mean 'acro_val'?"


def test_missing_data_set(tmp_path):
    with pytest.raises(DataError) as caught:
        Drpose15k(str(tmp_path / "no"))
    root = tmp_path / "no"
    assert str(caught.value) == (
        f"no data set at {str(root)!r}: expected the file {root}/manifest.json."
        f" Build one with `rewardft drpose build-dataset {root} --yaws 4`, which is what the recipes train on."
    )


def test_missing_column(copy):
    (copy / "acro_val.poses.npy").unlink()
    with pytest.raises(DataError) as caught:
        Drpose15k(str(copy), "val")
    path = copy / "acro_val.poses.npy"
    assert (
        str(caught.value)
        == f"{path} is missing, though the manifest lists it. Build the data set again."
    )


def test_truncated_column(copy):
    path = copy / "acro_val.images.npy"
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.truncate(size - 100)
    with pytest.raises(DataError) as caught:
        Drpose15k(str(copy), "val")
    assert str(caught.value) == (
        f"{path} has {size - 100} bytes, expected {size}: it is truncated or was replaced. Build the data set again."
    )


def test_wrong_shape(copy):
    path = copy / "acro_val.joints.npy"
    np.save(path, np.load(path).transpose(0, 2, 1).copy())
    with pytest.raises(DataError) as caught:
        Drpose15k(str(copy), "val")
    assert str(caught.value) == (
        f"{path} holds float32 [5, 3, 23], expected float32 [5, 23, 3]. Build the data set again."
    )


def test_not_a_number(copy):
    path = copy / "acro_val.joints2d.npy"
    array = np.load(path)
    array[3, 2, 1, 0] = np.nan
    np.save(path, array)
    sample = json.loads((copy / "acro_val.samples.json").read_text())[3]["id"]
    with pytest.raises(DataError) as caught:
        Drpose15k(str(copy), "val")
    assert str(caught.value) == (
        f"{path}: row 3 (sample {sample}) is not finite (1 such rows). The data set is damaged; build it again."
    )


def test_pickled_column_is_refused(copy):
    path = copy / "acro_val.poses.npy"
    size = path.stat().st_size
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    path.write_bytes(path.read_bytes().ljust(size, b"\0"))
    with pytest.raises(DataError, match=r"acro_val\.poses\.npy is not a readable \.npy file \("):
        Drpose15k(str(copy), "val")


def test_sample_list_of_another_length(copy):
    path = copy / "acro_val.samples.json"
    path.write_text(json.dumps(json.loads(path.read_text())[:4]))
    with pytest.raises(DataError) as caught:
        Drpose15k(str(copy), "val")
    assert str(caught.value) == f"{path} lists 4 samples, expected 5. Build the data set again."


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "{",
            "{path} is not readable JSON (Expecting property name enclosed in double quotes: line 1 column 2"
            " (char 1)). Build the data set again.",
        ),
        (
            "[]",
            "{path} is not the manifest of a drpose15k data set: expected format 'rewardft-drpose'.",
        ),
        (
            '{"format": "rewardft-drpose", "version": 99, "splits": {}}',
            "{path} has format version 99; this rewardft reads version 1. Build the data set again.",
        ),
    ],
)
def test_bad_manifest(tmp_path, text, message):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(DataError) as caught:
        Drpose15k(str(tmp_path))
    assert str(caught.value) == message.replace("{path}", str(tmp_path / "manifest.json"))


def test_a_column_without_a_type_in_the_manifest(copy):
    path = copy / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["splits"]["acro_val"]["files"]["acro_val.poses.npy"]["dtype"]
    path.write_text(json.dumps(manifest))
    with pytest.raises(DataError) as caught:
        Drpose15k(str(copy), "val")
    assert str(caught.value) == (
        f"{path} is damaged at splits.acro_val.files: Value error, acro_val.poses.npy needs `dtype` and "
        "`shape`. Build the data set again."
    )


def test_an_edit_of_the_same_size_is_found_and_a_sound_file_is_read_once(
    tmp_path, monkeypatch, built
):
    """`images.npy` with one byte changed."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = tmp_path / "copy"
    shutil.copytree(built, root)
    Drpose15k(str(root), split="acro_val")
    assert len(json.loads((tmp_path / "cache/rewardft/sha256.json").read_text())) == 7
    digests = []
    monkeypatch.setattr("rewardft.files.digests.sha256", lambda path: digests.append(path))
    Drpose15k(str(root), split="acro_val")
    assert digests == []
    monkeypatch.undo()
    file = root / "acro_val.images.npy"
    raw = bytearray(file.read_bytes())
    raw[-1] ^= 1
    file.write_bytes(raw)
    with pytest.raises(DataError) as caught:
        Drpose15k(str(root), split="acro_val")
    assert str(caught.value) == (
        f"{file} is not the file that was built: its SHA-256 differs from the one in manifest.json. "
        "Build the data set again."
    )
