"""Preferences: who wins, what is written, and what each form hands to training."""

import json

import numpy as np
import pytest
import torch
from rewardft_plugins.adhmr.dataset import PosePictures
from rewardft_plugins.adhmr.preferences import (
    Making,
    PosePreferences,
    Preferences,
    fingerprint,
    load_preferences,
    pair,
    save_preferences,
)
from rewardft_plugins.adhmr.space import SIZE
from rewardft_plugins.humans.poses.pictures import PICTURES, read_manifest, read_split

from rewardft.errors import DataError
from rewardft.files.digests import sha256


def ranked(count=3):
    g = torch.Generator().manual_seed(0)
    return torch.randn(count, 6, SIZE, generator=g), torch.randn(count, 6, generator=g)


def test_the_best_is_paired_with_the_worst():
    samples, scores = ranked()
    made = pair(samples, scores, samples[:, 0], Making(hypotheses=6))
    rows = torch.arange(3)
    assert torch.equal(made.winners, samples[rows, scores.argmax(1)])
    assert torch.equal(made.losers, samples[rows, scores.argmin(1)])
    assert made.rows.tolist() == [0, 1, 2]


def test_the_k_best_are_paired_with_the_k_worst_in_order():
    samples, scores = ranked()
    making = Making(hypotheses=6, pairing="top_bottom", pairs=2)
    made = pair(samples, scores, samples[:, 0], making)
    order = np.argsort(-scores.numpy(), axis=1)
    assert made.rows.tolist() == [0, 0, 1, 1, 2, 2]
    for i in range(3):
        assert torch.equal(made.winners[2 * i + 1], samples[i, order[i, 1]])
        assert torch.equal(made.losers[2 * i + 1], samples[i, order[i, -2]])


def test_the_truth_may_win():
    samples, scores = ranked()
    made = pair(samples, scores, samples[:, 0] + 1, Making(hypotheses=6, pairing="truth"))
    assert torch.equal(made.winners, samples[:, 0] + 1) and made.right == 1.0


def test_right_is_the_share_of_pairs_whose_winner_is_truly_better():
    samples, scores = ranked()
    truth = samples[:, 0]
    scores[:] = torch.tensor([0.0, 1, 2, 3, 4, 5])  # the truth itself comes last
    assert pair(samples, scores, truth, Making(hypotheses=6)).right == 0.0
    assert pair(samples, -scores, truth, Making(hypotheses=6)).right == 1.0


def test_what_is_written_is_read_again_and_belongs_to_its_pictures(tmp_path):
    data = PosePictures(split="val")
    making = Making(split="val", hypotheses=4)
    g = torch.Generator().manual_seed(1)
    samples = torch.randn(len(data), 4, SIZE, generator=g).half().float()
    made = pair(samples, torch.randn(len(data), 4, generator=g), data.pose, making)
    path = tmp_path / "p" / "pairs.npz"
    save_preferences(path, made, making)
    again, facts = load_preferences(path)
    assert facts == making and again.right == made.right
    assert torch.equal(again.winners, made.winners) and torch.equal(again.rows, made.rows)
    with np.load(path, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    arrays["facts"] = np.array(str(arrays["facts"]).replace(fingerprint(making), "0" * 64))
    np.savez(tmp_path / "other.npz", **arrays)
    with pytest.raises(DataError, match="was made from other pictures than 'shipped' has now"):
        load_preferences(tmp_path / "other.npz")
    np.savez(tmp_path / "list.npz", **arrays | {"facts": np.array("[1]")})
    with pytest.raises(DataError, match="expected preferences that `rewardft adhmr build-pairs`"):
        load_preferences(tmp_path / "list.npz")
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(DataError, match="expected preferences that `rewardft adhmr build-pairs`"):
        load_preferences(path)


def test_a_recipe_that_asks_for_other_preferences_than_the_files_is_refused(tmp_path):
    data = PosePictures(split="train")
    making = Making(hypotheses=4, seed=3)
    g = torch.Generator().manual_seed(1)
    samples = torch.randn(len(data), 4, SIZE, generator=g)
    path = tmp_path / "pairs.npz"
    made = pair(samples, torch.randn(len(data), 4, generator=g), data.pose, making)
    save_preferences(path, made, making)
    assert len(PosePreferences(file=path)) == len(data)
    assert len(PosePreferences(file=path, hypotheses=4, seed=3)) == len(data)
    with pytest.raises(DataError) as error:
        PosePreferences(file=path, hypotheses=50, pairing="truth")
    assert str(error.value) == (
        f"{path} holds other preferences than the recipe asks for (hypotheses: 50, the file 4; "
        "pairing: 'truth', the file 'best_worst'); leave these options out, or build the file "
        "again."
    )


def test_held_out_pictures_come_with_the_truth_and_without_preferences():
    data = PosePreferences(split="val", limit=2)
    assert len(data) == 4
    assert set(data[0]) == {"id", "group", "pose", "landmarks", "world", "turned"}
    assert PosePreferences.tags("pairs") == {"pairs"} and PosePreferences.tags("groups") == {
        "groups"
    }
    assert PosePreferences.tags("winners") == {"training_targets"}


def test_bad_settings_are_refused():
    with pytest.raises(DataError) as error:
        Making(pairing="x")
    choices = "Choose one of: best_worst, top_bottom, truth."
    assert str(error.value) == f"there is no pairing 'x'. {choices}"
    message = r"^expected hypotheses >= 2 and 1 <= pairs <= hypotheses / 2, got 6 and 4$"
    with pytest.raises(DataError, match=message):
        Making(hypotheses=6, pairs=4)


def test_the_shipped_pictures_are_whole_and_split_by_clip():
    root = PICTURES
    train, val = read_split(root, "train"), read_split(root, "val")
    assert read_manifest(root)["splits"]["train"]["groups"] == {"plain": 1300, "tilted": 2138}
    assert val.groups.count("plain") == 316 and val.groups.count("tilted") == 333
    clips = [{id_.split("/")[1] for id_ in split.ids} for split in (train, val)]
    assert not clips[0] & clips[1] and len(clips[1]) == 5
    with pytest.raises(
        DataError, match=r"has no split 'vla'; it has train, val. Did you mean 'val'\?$"
    ):
        read_split(root, "vla")


def test_a_split_that_has_changed_is_refused(tmp_path):
    for file in PICTURES.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    with (tmp_path / "val.npz").open("ab") as file:
        file.write(b"x")
    with pytest.raises(DataError, match="is missing or differs from its checksum"):
        PosePictures(str(tmp_path), "val")


def resigned(folder, **changes):
    """The shipped pictures with other arrays, and a manifest that agrees."""
    for file in PICTURES.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    with np.load(folder / "val.npz") as archive:
        arrays = {name: archive[name] for name in archive.files}
    arrays |= {name: change(arrays[name]) for name, change in changes.items()}
    np.savez(folder / "val.npz", **{k: v for k, v in arrays.items() if v is not None})
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["splits"]["val"]["sha256"] = sha256(folder / "val.npz")
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"poses": lambda a: a[:, :21]},
            "expected finite numbers of shape (649, 22, 3) in 'poses', got float16 of shape (649, 21, 3)",
        ),
        (
            {"world": lambda a: a * np.float16("nan")},
            "expected finite numbers of shape (649, 33, 3) in 'world', got float16 of shape (649, 33, 3)",
        ),
        (
            {"turned": lambda a: a.astype(np.int64)},
            "expected finite numbers of shape (649, 2) in 'turned', got int64 of shape (649, 2)",
        ),
        (
            {"groups": lambda a: a[:5]},
            "expected texts of shape (649,) in 'groups', got <U7 of shape (5,)",
        ),
    ],
)
def test_a_split_of_another_form_is_refused(tmp_path, changes, said):
    with pytest.raises(DataError) as error:
        PosePictures(str(resigned(tmp_path, **changes)), "val")
    assert str(error.value) == f"{tmp_path / 'val.npz'}: {said}; build the data set again."


def test_a_split_that_lacks_a_column_or_is_none(tmp_path):
    resigned(tmp_path, centres=lambda a: None)
    with pytest.raises(DataError, match=r"val.npz lacks centres; build the data set again.$"):
        PosePictures(str(tmp_path), "val")
    for content in ("[]", "{}", '{"splits": 3}', "[" * 100000, "no JSON"):
        (tmp_path / "manifest.json").write_text(content)
        with pytest.raises(DataError, match="expected "):
            read_split(tmp_path, "train")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"samples": lambda a: a + np.float16("inf")}, "'samples' has another shape than the others, or numbers that are"),
        ({"losers": lambda a: a[:3]}, "'losers' has another shape than the others, or numbers that are NaN"),
        ({"rows": lambda a: a + 10**6}, "'rows' must be numbers of the 649 pictures"),
        ({"scores": lambda a: None}, "'scores'"),
    ],
)  # fmt: skip
def test_preferences_of_another_form_are_refused(tmp_path, changes, said):
    making = Making(split="val", hypotheses=2)
    x = torch.zeros(649, 2, 118)
    path = tmp_path / "pairs.npz"
    save_preferences(
        path, Preferences(x, x[..., 0], torch.arange(649), x[:, 0], x[:, 1], 1.0), making
    )
    assert load_preferences(path)[1] == making
    with np.load(path) as archive:
        arrays = {name: archive[name] for name in archive.files}
    arrays |= {name: change(arrays[name]) for name, change in changes.items()}
    np.savez(path, **{k: v for k, v in arrays.items() if v is not None})
    with pytest.raises(DataError) as error:
        load_preferences(path)
    assert f"has written ({said}" in str(error.value)
