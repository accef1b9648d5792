"""Whole runs: resumed, exported, reported, and with a text-to-image prior."""

import base64

import pytest
import torch
from rewardft_plugins.ddpo3d.ply import read_ply
from rewardft_plugins.ddpo3d.turntable import report_sections

from rewardft.cli import main
from rewardft.contracts.records import ComparisonRecord, RunRecord, VariantRecord
from rewardft.errors import RecipeError
from rewardft.testing import check_resume, run_recipe
from tests.documents import ROOT
from tests.shipped.text2image import checkpoints

DIGITS = ROOT / "recipes" / "ddpo3d_digits.yaml"
SMALL = (
    "model.scenes=2",
    "model.gaussians=10",
    "data.scenes=2",
    "data.batch_size=4",
    "evaluate.samples=8",
    "train.steps=4",
    "train.log_every=1",
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return run_recipe(DIGITS, tmp_path_factory.mktemp("ddpo3d") / "run", *SMALL)


def test_a_run_of_the_digits(finished):
    assert finished.summary["status"] == "finished"
    assert finished.summary["denoiser_forwards"] > 0
    # Per picture: the step, six actions, and the step again with autograd.
    assert finished.summary["denoiser_forward_samples"] == 4 * 4 * 8
    assert finished.summary["denoiser_backward_samples"] == 4 * 4
    assert finished.summary["reward_evaluations"] == 4 * 4 * 6
    names = {row["name"] for row in finished.summary["evaluation"]}
    assert {
        "digit_judge/accuracy",
        "side1/digit_judge/accuracy",
        "reward/digit_likelihood",
    } <= names
    assert finished.column("learning_rate/position") == pytest.approx([0.01] * 4)
    assert finished.column("learning_rate/rest") == pytest.approx([0.03] * 4)
    turntables = sorted(p.name for p in (finished.folder / "samples").glob("*.gif"))
    assert turntables == ["turntable-00000000.gif", "turntable-00000004.gif"]


def test_a_run_goes_on_bit_for_bit(tmp_path):
    check_resume(DIGITS, tmp_path, *SMALL, "save.every=2", "algorithm.reward_of=render", stop=2)


def test_scenes_are_exported(finished, tmp_path, capsys):
    assert (
        main(
            ["ddpo3d", "export-ply", str(finished.folder), str(tmp_path / "a.ply"), "--scene", "1"]
        )
        == 0
    )
    assert capsys.readouterr().out == f"{tmp_path / 'a.ply'}: 10 Gaussians\n"
    columns = read_ply(tmp_path / "a.ply")
    from safetensors.torch import load_file

    trained = load_file(finished.folder / "adapter" / "model.safetensors")["position"][1]
    assert torch.allclose(torch.from_numpy(columns["x"].copy()), trained[:, 0])
    assert (
        main(
            ["ddpo3d", "turntable", str(finished.folder), str(tmp_path / "a.gif"), "--frames", "3"]
        )
        == 0
    )
    assert (tmp_path / "a.gif").read_bytes()[:3] == b"GIF"
    assert (
        main(
            ["ddpo3d", "turntable", str(finished.folder), str(tmp_path / "b.gif"), "--scenes", "2"]
        )
        == 2
    )
    assert "expected numbers of scenes below 2, as 0,3,7; got '2'" in capsys.readouterr().err


def test_an_adapter_of_low_rank_is_refused(tmp_path):
    with pytest.raises(RecipeError) as caught:
        run_recipe(DIGITS, tmp_path / "run", "adapter={kind: lora}")
    assert str(caught.value) == (
        f"{DIGITS}: 1 problem\n  - --set adapter={{kind: lora}}: gaussian_scene is trained as a whole; write "
        "`adapter: {kind: full}`."
    )


def test_a_black_box_reward_on_a_text_to_image_prior(tmp_path):
    """The shipped recipe with tiny weights: JPEG files get smaller, through the autoencoder."""
    weights = checkpoints.FAMILIES["stable_diffusion"](tmp_path / "weights")
    run = run_recipe(
        ROOT / "recipes" / "ddpo3d_text.yaml",
        tmp_path / "run",
        f"model.prior.weights={weights}",
        "model.prior.guidance=2",
        "model.size=16",
        "model.gaussians=30",
        "model.scale=0.2",
        "train.steps=2",
        "data.batch_size=2",
        "evaluate.samples=4",
        "evaluate.every=1",
        "train.log_every=1",
    )
    assert run.summary["status"] == "finished"
    assert run.summary["reward_evaluations"] == 2 * 2 * 4
    assert all(value < 0 for value in run.column("reward/jpeg_compressibility"))
    assert run.column("gradient_norm")[0] > 0
    (row,) = [r for r in run.summary["evaluation"] if r["name"] == "reward/jpeg_compressibility"]
    assert row["count"] == 4 and row["before"] != row["after"]


def test_the_report_shows_the_last_turntable_of_each_variant(finished, tmp_path):
    def variant(name, folder):
        run = RunRecord(seed=0, folder=folder, status="finished")
        return VariantRecord(name=name, recipe="r", algorithm="ddpo3d", runs=[run])

    record = ComparisonRecord(
        title="t",
        date="d",
        command="c",
        seeds=[0],
        variants=[variant("<seen>", finished.folder.name), variant("unseen", "nowhere")],
    )
    (section,) = report_sections(record, finished.folder.parent)
    last = (finished.folder / "samples" / "turntable-00000004.gif").read_bytes()
    assert section.title == "Turntables" and section.plugin == "ddpo3d"
    assert section.html.count("<img") == 1 and "<figcaption>&lt;seen&gt;" in section.html
    assert base64.b64encode(last).decode() in section.html
    assert report_sections(record, tmp_path) == []
