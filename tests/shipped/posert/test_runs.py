"""Short runs of the shipped recipes, their samples, and the commands."""

import json
from pathlib import Path

import pytest
from rewardft_plugins.posert.model import PoseLM

from rewardft.cli import main
from rewardft.runs.samples import sample_run
from rewardft.testing import run_recipe

RECIPES = Path(__file__).resolve().parents[3] / "recipes"
SHORT = [
    "train.steps=2",
    "data.batch_size=3",
    "evaluate.samples=8",
    "evaluate.data={split: val, limit: 4}",
]


@pytest.mark.parametrize("recipe", ["posert_mini", "posert_grpo"])
def test_a_recipe_runs_and_is_judged_by_what_no_reward_knows(recipe, tmp_path):
    run = run_recipe(RECIPES / f"{recipe}.yaml", tmp_path / "run", *SHORT)
    found = json.loads((run.folder / "evaluations" / "step-00000002.json").read_text())
    values = found["per_sample"]
    assert found["groups"] == ["image"] * 4 + ["text"] * 4
    image, text = values["pose_answers/mpjpe"][:4], values["pose_answers/rules_mean"][4:]
    assert all(20 < value < 1500 for value in image) and all(0 <= value <= 1 for value in text)
    assert values["pose_answers/mpjpe"][4:] == values["pose_answers/rules"][:4] == [None] * 4
    assert all(0.01 < value < 1 for value in values["pose_answers/sigma"])
    passes = 3  # the roll-out, the policy's and the reference's
    assert run.steps[-1]["denoiser_forward_samples"] == 2 * 48 * passes
    assert run.steps[-1]["denoiser_backward_samples"] == 2 * 48
    assert run.column("ratio/tokens") == pytest.approx([1, 1], abs=1e-4)
    assert ("ratio/pose" in run.steps[0]) == (recipe == "posert_mini")


def test_supervised_training_and_its_weights(tmp_path):
    settings = ["model.width=16", "model.head_width=8", "model.heads=2", "evaluate.metrics=[]"]
    run = run_recipe(
        RECIPES / "posert_sft.yaml", tmp_path / "run", *SHORT, *settings, "data.limit=4"
    )
    assert run.column("loss")[0] > 0 and len(run.column("nll/pose")) == 2
    out = tmp_path / "base.safetensors"
    assert main(["posert", "export-base", str(run.folder), str(out)]) == 0
    PoseLM(str(out), width=16, head_width=8, heads=2)
    assert main(["posert", "export-base", str(tmp_path), str(out)]) != 0


def test_texts_of_samples_are_written_beside_their_poses(tmp_path):
    run = run_recipe(
        RECIPES / "posert_mini.yaml", tmp_path / "run", *SHORT, "evaluate.batch_size=2"
    )
    drawn, files = sample_run(run.folder, count=6)
    texts = json.loads((run.folder / "samples" / "texts.json").read_text())
    assert texts["ids"] == drawn.ids and len(texts["tuned"]["decoded.text"]) == 6
    assert [path.name for path in files][2:] == ["texts.json", "grid.png", "pictures"]
    assert drawn.base["x0.tokens"].shape == drawn.base["x0.mask"].shape
    assert drawn.base["decoded.joints"].shape == (6, 27, 3)


def test_captions_are_printed(capsys):
    assert main(["posert", "captions", "--count", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and all(line.count(",") == 3 for line in lines)
