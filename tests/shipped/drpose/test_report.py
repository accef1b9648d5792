"""DrPose's section of a comparison report: what it draws and counts, its cache, and whom it leaves out."""

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from rewardft_plugins.drpose.data.build import build_dataset
from rewardft_plugins.drpose.data.splits import Sampling, plan_splits
from rewardft_plugins.drpose.report import meshes
from rewardft_plugins.drpose.report import sections as report
from rewardft_plugins.drpose.report.html import (
    Shown,
    joint_errors,
    limbs,
    overlay_svg,
    section_html,
)
from rewardft_plugins.drpose.report.sections import Poses, look, report_sections
from rewardft_plugins.drpose.weights import ASSETS
from rewardft_plugins.humans.body import JOINTS, load_body
from rewardft_plugins.humans.camera import project
from rewardft_plugins.humans.motion import shipped_clips

from rewardft.contracts.records import ComparisonRecord, RunRecord, VariantRecord
from rewardft.errors import CheckpointError
from rewardft.testing import run_recipe

needs_weights = pytest.mark.skipif(
    not all((ASSETS / kind).is_dir() for kind in ("base", "skeleton", "judge")),
    reason="the shipped weights are not here",
)


def poses(offset=0.0):
    """Poses whose every joint but the pelvis is `offset` metres to the right of the truth."""
    joints = np.random.default_rng(0).uniform(-0.8, 0.8, (4, len(JOINTS), 3)).astype(np.float32)
    joints[:, 1:, 0] += np.float32(offset)
    return Poses(joints, project(joints), np.full((4, 6, 3, 64, 64), 128, np.uint8))


def shown(name, tuned):
    ids = ["a/1/yaw000", "b/2/yaw090", "c", "d"]
    return Shown(name, 0, ids, poses(), poses(0.3), poses(tuned))


def text(html):
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html))


def test_errors_are_measured_from_the_pelvis():
    truth, found = poses(), poses(0.25)
    assert joint_errors(truth, found)[:, 0].tolist() == [0.0] * 4
    assert joint_errors(truth, found)[:, 1:] == pytest.approx(250, abs=1e-3)
    found.joints[:] += 7.0  # the whole body elsewhere
    assert joint_errors(truth, found)[:, 1:] == pytest.approx(250, abs=1e-2)


def test_left_and_right_share_a_row_and_nothing_is_lost():
    rows = limbs()
    assert sorted(joint for joints in rows.values() for joint in joints) == list(
        range(1, len(JOINTS))
    )
    assert [JOINTS[i] for i in rows["wrist"]] == ["left_wrist", "right_wrist"]
    assert "pelvis" not in rows


def test_the_table_has_each_joint_for_each_variant():
    html = section_html([shown("drtune", 0.1), shown("ddpo", 0.3)])
    said = text(html)
    assert "knee 300 → 100 (-200) 300 → 300 (+0)" in said
    assert "mean of all 23 287 → 96 (-191) 287 → 287 (+0)" in said  # the pelvis counts as 0
    assert said.count("300 → 100 (-200)") == len(limbs())


def test_the_section_is_static_labelled_and_well_formed():
    html = section_html([shown("a <b>", 0.1), shown("ddpo", 0.3)])
    ET.fromstring(f"<div>{html}</div>")
    assert "<script" not in html and "http" not in html.replace("http://www.w3.org", "")
    assert (
        html.count("<svg") == html.count('role="img" aria-label="') == 3 * 3
    )  # three samples: base and two variants
    assert (
        'aria-label="base: true and found skeleton in front, right and back view, mean error 287 mm"'
        in html
    )
    assert "a &lt;b&gt;, 96 mm" in html
    assert 'tabindex="0" role="region" aria-label="Error of each joint by variant"' in html
    assert html.count('scope="row"') == len(limbs()) + 1


def test_another_base_is_drawn_and_named():
    other = shown("ddpo", 0.3)
    other.base.normals[:] = 7
    html = section_html([shown("drtune", 0.1), other])
    assert "base of ddpo, 287 mm" in html and html.count("<svg") == 3 * 4


def test_views_are_turned_back_with_their_skeletons():
    """A body that leans to its left does so in the front view to the right, and in the back view to the left."""
    joints = np.zeros((1, len(JOINTS), 3), np.float32)
    joints[0, 1:, 0] = 0.6
    places = project(joints)[0]
    normals = np.zeros((6, 3, 64, 64), np.uint8)
    svg = ET.fromstring(overlay_svg(normals, places, places, "x"))
    paths = [group.find("path").attrib["d"] for group in svg.findall("g")]
    ends = [float(re.match(r"M([\d.]+)", path)[1]) for path in paths]
    assert ends == [
        48.0,
        32.0,
        16.0,
    ]  # half of 1.2 m from the middle; the right view looks along the lean


# -- on real runs ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    """Two tiny runs of the shipped recipe, one that failed, and their record."""
    pytest.importorskip("smplx")
    folder = tmp_path_factory.mktemp("comparison")
    data = folder / "data"
    build_dataset(
        data,
        plan_splits(shipped_clips(), Sampling(poses=2, neighbours=1, val_samples=4)),
        load_body("anny_lowpoly"),
    )
    from importlib.resources import files

    recipe = Path(str(files("rewardft_recipes") / "drpose_mini.yaml"))
    small = [
        f"data.root={data}",
        "sampler.steps=3",
        "algorithm.early_stop=1",
        "train.steps=1",
        "data.batch_size=2",
        "evaluate.samples=2",
        "evaluate.data.limit=3",
    ]
    for seed in (0, 1):
        run_recipe(recipe, folder / f"run{seed}", *small, f"seed={seed}")
    runs = [
        RunRecord(seed=s, folder=f"run{s}", status=status)
        for s, status in ((0, "failed"), (1, "finished"))
    ]
    variants = [VariantRecord(name="drtune", recipe="drpose_mini", algorithm="drtune", runs=runs)]
    variants.append(
        VariantRecord(
            name="gone",
            recipe="x",
            algorithm="x",
            runs=[RunRecord(seed=0, folder="nowhere", status="missing")],
        )
    )
    return ComparisonRecord(
        title="t", date="d", command="c", seeds=[0, 1], variants=variants
    ), folder


@needs_weights
def test_the_first_finished_run_of_each_variant_is_shown(comparison):
    record, folder = comparison
    (section,) = report_sections(record, folder)
    assert (section.title, section.plugin) == ("Poses", "drpose")
    assert (
        "3 held-out acrobatic samples" in section.html and "Runs (seed): drtune 1." in section.html
    )
    assert not (folder / "run0" / report.CACHE).exists()
    looked = look(folder / "run1")
    assert all(name.startswith(("dm_cartwheel", "dm_kick", "dm_getup")) for name in looked.ids)
    assert looked.base.normals.shape == (3, 6, 3, 64, 64)
    assert not np.array_equal(looked.base.joints, looked.tuned.joints)


@needs_weights
def test_what_was_found_is_kept_until_it_was_made_otherwise(comparison, monkeypatch):
    _, folder = comparison
    first = look(folder / "run1")

    def refuse(*_):
        raise AssertionError("sampled again")

    monkeypatch.setattr(report, "judged", refuse)
    again = look(folder / "run1")
    assert again.ids == first.ids and np.array_equal(again.tuned.places, first.tuned.places)
    with pytest.raises(AssertionError, match="sampled again"):
        look(folder / "run1", count=2)


@pytest.mark.parametrize("damage", ["half", "empty", "text", "without arrays"])
@pytest.mark.parametrize("name", ["poses", "meshes"])
def test_a_damaged_cache_is_told(tmp_path, damage, name):
    file = tmp_path / "cache.npz"
    np.savez_compressed(file, settings=np.array("s"), ids=np.array(["a"]))
    if damage != "without arrays":
        whole = {"half": file.read_bytes()[:150], "empty": b"", "text": b"no archive"}
        file.write_bytes(whole[damage])
    read = report.read_cache if name == "poses" else meshes._read
    with pytest.raises(CheckpointError) as caught:
        read(file, "s")
    said = str(caught.value)
    assert said.startswith(f"{file}: expected what an earlier report has kept, and it is damaged (")
    assert said.endswith("). Delete it: the next report makes it again.")
    file.unlink()
    assert read(file, "s") is None


def test_other_models_have_no_section(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.yaml").write_text(
        "plugins: [toy]\nmodel: {use: toy}\nsampler: {use: ddim, steps: 2}\ndata: {use: toy_blobs}\n"
        "rewards: [{use: brightness}]\nalgorithm: {use: draft_k}\noptimizer: {lr: 1e-3}\ntrain: {steps: 1}\n"
    )
    runs = [RunRecord(seed=0, folder="run", status="finished")]
    variants = [VariantRecord(name="a", recipe="r", algorithm="draft_k", runs=runs)]
    record = ComparisonRecord(title="t", date="d", command="c", seeds=[0], variants=variants)
    assert report_sections(record, tmp_path) == []
