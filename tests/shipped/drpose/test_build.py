"""The builder: what it chooses, that it can be repeated, and that it never leaves half a data set."""

import json

import numpy as np
import pytest
from rewardft_plugins.drpose.commands.app import app
from rewardft_plugins.drpose.data.build import build_dataset, choose_samples
from rewardft_plugins.drpose.data.dataset import Drpose15k
from rewardft_plugins.drpose.data.painter import RenderedPainter
from rewardft_plugins.drpose.data.splits import Sampling, SplitPlan, plan_splits
from rewardft_plugins.drpose.data.storage import verify_dataset
from rewardft_plugins.humans.body import load_body
from rewardft_plugins.humans.camera import AZIMUTHS, HALF_EXTENT, MIRRORED, VIEWS
from rewardft_plugins.humans.motion import shipped_clips
from typer.testing import CliRunner

from rewardft.errors import DataError


@pytest.fixture(scope="module")
def body():
    return load_body("anny_lowpoly")


@pytest.fixture(scope="module")
def clips():
    return {clip.name: clip for clip in shipped_clips()}


@pytest.fixture
def plan(clips):
    return SplitPlan(
        "acro_val", [clips["dm_cartwheel"], clips["dm_kick"]], poses=4, neighbours=2, targets=True
    )


class OtherPeople:
    """A painter with portraits of its own."""

    name = "portraits"
    matches_targets = False

    def paint(self, frames):
        return np.full_like(frames.colours, 7)


def _checksums(manifest):
    return {
        name: file["sha256"]
        for split in manifest["splits"].values()
        for name, file in split["files"].items()
    }


def test_the_same_seed_builds_the_same_bytes(tmp_path, body, plan):
    one, two = (build_dataset(tmp_path / name, [plan], body, size=16, seed=5) for name in "ab")
    assert _checksums(one) == _checksums(two)
    other = build_dataset(tmp_path / "c", [plan], body, size=16, seed=6)
    assert all(_checksums(other)[name] != digest for name, digest in _checksums(one).items())


def test_a_sample_does_not_depend_on_its_neighbours_in_the_build(tmp_path, body, clips):
    small = SplitPlan("s", [clips["dm_kick"]], poses=5, neighbours=1, targets=True)
    large = SplitPlan("s", [clips["dm_kick"]], poses=47, neighbours=1, targets=True)
    items = []
    for name, plan in (("small", small), ("large", large)):
        build_dataset(tmp_path / name, [plan], body, size=16)
        items.append(
            {item["id"]: item for item in Drpose15k(str(tmp_path / name), "s", targets=True)}
        )
    assert len(items[0]) == 5 and items[0].keys() < items[1].keys()
    for key, item in items[0].items():
        np.testing.assert_allclose(item["joints"], items[1][key]["joints"], atol=1e-5)
        difference = (item["colours"] - items[1][key]["colours"]).abs()
        assert (difference > 1.5 / 255).float().mean() < 1e-3  # rounding may move an edge


def test_a_share_of_the_training_samples_is_turned_about_any_axis(tmp_path, body, clips):
    """Walking people stand upright; of those that are turned, some lie and some stand on the head.
    What is not turned is as in a build without, and held-out samples are all so."""
    named = [clips["dm_walk"], clips["dm_run"]]
    made = {}
    for share in (0.0, 0.5):
        plans = plan_splits(named, Sampling(poses=30, neighbours=1, targets="none", tumble=share))
        build_dataset(tmp_path / str(share), plans, body, size=8, seed=2)
        for split in ("plain_train", "plain_val"):
            made[share, split] = list(Drpose15k(str(tmp_path / str(share)), split))
    changed = [
        not np.allclose(a["pose"], b["pose"])
        for a, b in zip(made[0.0, "plain_train"], made[0.5, "plain_train"])
    ]
    assert len(changed) == 30 and 8 <= sum(changed) <= 22
    heads = np.array([item["joints"][15, 1] for item in made[0.5, "plain_train"]])
    assert (heads[changed] < 0).any() and (heads[~np.array(changed)] > 0.3).all()
    for a, b in zip(made[0.0, "plain_val"], made[0.5, "plain_val"]):
        assert np.array_equal(a["pose"], b["pose"])


def test_manifest_says_what_was_built(tmp_path, body, clips):
    plans = plan_splits(list(clips.values()), Sampling(poses=3, neighbours=3, val_samples=4))
    manifest = build_dataset(tmp_path / "set", plans, body, size=16, seed=2)
    assert json.loads((tmp_path / "set/manifest.json").read_text()) == json.loads(
        json.dumps(manifest)
    )
    assert (
        manifest["views"]
        == VIEWS
        == ("front", "front_right", "right", "back", "left", "front_left")
    )
    assert manifest["azimuths"] == AZIMUTHS == (0, 45, 90, 180, 270, 315)
    assert manifest["mirrored"] == MIRRORED == (False, False, False, True, True, False)
    assert (manifest["half_extent"], manifest["size"], manifest["seed"]) == (HALF_EXTENT, 16, 2)
    assert (
        manifest["body"]["licensed_smplx"] is False
        and "NOT the SMPL-X model" in manifest["body"]["notice"]
    )
    assert manifest["aliases"] == {"train": "acro_train", "val": "acro_val"}
    assert {name: split["targets"] for name, split in manifest["splits"].items()} == {
        "plain_train": False,
        "plain_val": True,
        "acro_train": False,
        "acro_val": True,
    }
    spread = manifest["diversity"]
    assert spread["ratio"] == pytest.approx(spread["all"] / spread["plain"])
    assert 2.0 < spread["ratio"] < 3.0  # acrobatics against walking: more than the paper's 1.73
    assert manifest["splits"]["acro_val"]["clips"]["dm_kick"]["licence"] == "zlib (pybullet 3.2.7)"


def test_poses_come_with_their_neighbours(body, clips):
    samples = choose_samples(
        SplitPlan("s", [clips["dm_crawl"]], poses=2, neighbours=10), body, seed=0
    )
    frames = sorted(sample.frame for sample in samples)
    runs = np.split(frames, np.flatnonzero(np.diff(frames) > 1) + 1)
    assert [len(run) for run in runs] in ([10, 10], [20]) or len(frames) < 20


def test_headings_are_spread_and_different(body, clips):
    samples = choose_samples(
        SplitPlan("s", [clips["dm_kick"]], poses=3, neighbours=1, yaws=7), body, seed=0
    )
    assert len({sample.id for sample in samples}) == 21
    for frame in {sample.frame for sample in samples}:
        yaws = sorted(sample.yaw for sample in samples if sample.frame == frame)
        assert [yaw // 51 for yaw in yaws] == list(range(7))


def test_validation_splits_reach_their_size_with_several_headings(body, clips):
    plans = {
        plan.name: plan for plan in plan_splits(list(clips.values()), Sampling(val_samples=128))
    }
    samples = choose_samples(plans["plain_val"], body, seed=0)  # run and jump have 79 frames
    assert len(samples) == 128 and plans["plain_val"].yaws == 2


def test_random_background_changes_only_the_background(tmp_path, body, plan):
    painter = RenderedPainter("random", seed=1)
    build_dataset(tmp_path / "set", [plan], body, size=32, painter=painter)
    item = Drpose15k(str(tmp_path / "set"), "acro_val", targets=True)[0]
    inside = (item["labels"][0] > 0) & (item["colours"][0] < 1).any(dim=0)
    outside = (item["colours"][0] == 1).all(dim=0)
    assert (item["image"] - item["colours"][0]).abs().amax(dim=0)[inside].median() < 0.01
    assert item["image"][:, outside].amax() < 1 and item["image"][:, outside].std() > 0.01
    with pytest.raises(
        DataError, match=r"^background is 'green'\. Choose one of: random, white\.$"
    ):
        RenderedPainter("green")


def test_a_painter_of_its_own(tmp_path, body, clips, plan):
    pairs = SplitPlan("acro_train", [clips["dm_roll"]], poses=2, neighbours=1)
    build_dataset(tmp_path / "set", [pairs], body, size=16, painter=OtherPeople())
    assert Drpose15k(str(tmp_path / "set"))[0]["image"].unique().tolist() == [
        pytest.approx(7 / 255)
    ]
    with pytest.raises(DataError) as caught:
        build_dataset(tmp_path / "other", [plan], body, size=16, painter=OtherPeople())
    assert str(caught.value) == (
        "split 'acro_val' asks for targets, but the images of the painter 'portraits' do not show the rendered person."
        " Build it with `--targets none`."
    )


def test_a_painter_that_returns_the_wrong_thing(tmp_path, body, plan):
    class Wrong(RenderedPainter):
        def paint(self, frames):
            return frames.colours[:, :1]

    with pytest.raises(DataError) as caught:
        build_dataset(tmp_path / "set", [plan], body, size=16, painter=Wrong())
    assert str(caught.value) == (
        "the painter 'renderer, white background' returned uint8 [8, 1, 16, 16]; expected uint8 [8, 3, 16, 16]."
    )


def test_a_build_that_fails_leaves_nothing_and_keeps_what_was_there(tmp_path, body, plan):
    before = build_dataset(tmp_path / "set", [plan], body, size=16)

    class Broken(RenderedPainter):
        def paint(self, frames):
            raise RuntimeError("out of paint")

    with pytest.raises(RuntimeError, match="out of paint"):
        build_dataset(tmp_path / "set", [plan], body, size=16, painter=Broken(), overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
    assert verify_dataset(tmp_path / "set") == len(_checksums(before))


def test_places_that_are_taken(tmp_path, body, plan):
    root = tmp_path / "set"
    build_dataset(root, [plan], body, size=16)
    with pytest.raises(DataError) as caught:
        build_dataset(root, [plan], body, size=16)
    assert str(caught.value) == (
        f"{root} holds a data set already; give another folder, or replace it: rewardft drpose "
        f"build-dataset {root} --overwrite"
    )
    assert build_dataset(root, [plan], body, size=24, overwrite=True)["size"] == 24
    (tmp_path / "home").mkdir()
    with pytest.raises(DataError) as caught:
        build_dataset(tmp_path / "home", [plan], body, size=16, overwrite=True)
    assert str(caught.value) == (
        f"{tmp_path / 'home'} exists and is not a data set; give a folder that does not exist yet."
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "set"]


def test_a_clip_in_two_splits(tmp_path, body, clips):
    plans = [SplitPlan("train", [clips["dm_kick"]]), SplitPlan("val", [clips["dm_kick"]])]
    with pytest.raises(DataError) as caught:
        build_dataset(tmp_path / "set", plans, body)
    assert (
        str(caught.value)
        == "clip 'dm_kick' is in the splits 'train' and 'val'; splits are by clip."
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"poses": 0, "yaws": -1}, "poses is 0, yaws is -1; expected at least 1."),
        ({"tumble": 1.5}, "tumble is 1.5; expected a share from 0 to 1."),
        ({"yaws": 361}, "yaws is 361; expected at most 360, because headings are whole degrees."),
        ({"targets": "some"}, "targets is 'some'. Choose one of: all, none, val."),
    ],
)
def test_impossible_plans(clips, options, message):
    with pytest.raises(DataError) as caught:
        plan_splits(list(clips.values()), Sampling(**options))
    assert str(caught.value) == message


def test_no_clips():
    with pytest.raises(DataError, match=r"^there are no motion clips to build a data set from\.$"):
        plan_splits([])


def test_verification_finds_a_flipped_byte(tmp_path, body, plan):
    root = tmp_path / "set"
    files = len(_checksums(build_dataset(root, [plan], body, size=16)))
    path = root / "acro_val.images.npy"
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(DataError) as caught:
        verify_dataset(root)
    assert (
        str(caught.value)
        == f"{root}: 1 of {files} files are missing or damaged: acro_val.images.npy."
    )


def test_commands_build_and_verify_and_name_the_body(tmp_path):
    root, run = str(tmp_path / "set"), CliRunner()
    options = [
        "--poses",
        "2",
        "--neighbours",
        "1",
        "--val-samples",
        "2",
        "--size",
        "16",
        "--body",
        "anny_lowpoly",
    ]
    built = run.invoke(app, ["build-dataset", root, *options])
    assert built.exit_code == 0, built.output
    assert (
        "body: anny_lowpoly, an open body in the SMPL-X file layout (CC0 geometry); it is NOT"
        in built.output
    )
    assert "non-commercial research only" in built.output
    assert "acro_val: 2 samples of 3 clips, with six views" in built.output
    assert len(Drpose15k(root, "val", targets=True)) == 2
    verified = run.invoke(app, ["verify-dataset", root])
    assert verified.exit_code == 0 and "files are as they were written." in verified.output
    assert "it is NOT the SMPL-X model" in verified.output
