"""Files of the user's in the place of a run's: left as they are."""

import pytest

from rewardft.cli import main
from rewardft.errors import CheckpointError
from rewardft.testing import run_recipe

RECIPE = """\
plugins: [toy]
model: {use: toy, prediction: v_prediction}
sampler: {use: ddim, steps: 4}
data: {use: toy_blobs, batch_size: 2}
rewards: [{use: brightness}]
algorithm: {use: draft_k, train_steps: 1}   # mine
adapter: {rank: 2}
optimizer: {lr: 5e-3}
train: {steps: 1}
"""
REFUSED = "{} already exists and was not written by a run, so it is not overwritten. Give another folder with --out."


@pytest.mark.parametrize("name", ["recipe.yaml", "other.yaml"])
def test_a_run_in_the_recipe_s_own_folder_leaves_recipe_yaml(tmp_path, monkeypatch, capsys, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    (tmp_path / "other.yaml").write_text(RECIPE)
    assert main(["run", name, "--out", "."]) == 2
    assert capsys.readouterr().err == f"error: {REFUSED.format(tmp_path / 'recipe.yaml')}\n"
    assert (tmp_path / "recipe.yaml").read_text() == RECIPE
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other.yaml", "recipe.yaml"]


@pytest.mark.parametrize("text", ["precious", "{", ""])
def test_any_other_file_of_that_name_is_left_too(tmp_path, text):
    (tmp_path / "r.yaml").write_text(RECIPE)
    (tmp_path / "run").mkdir()
    (tmp_path / "run/recipe.yaml").write_text(text)
    with pytest.raises(CheckpointError) as caught:
        run_recipe(tmp_path / "r.yaml", tmp_path / "run")
    assert str(caught.value) == REFUSED.format(tmp_path / "run/recipe.yaml")
    assert (tmp_path / "run/recipe.yaml").read_text() == text


def test_a_run_that_could_not_be_built_is_started_anew(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(RECIPE)
    with pytest.raises(CheckpointError):
        run_recipe(path, tmp_path / "run", "adapter.init=nowhere")
    assert [file.name for file in (tmp_path / "run").iterdir()] == ["recipe.yaml"]
    assert run_recipe(path, tmp_path / "run").summary["status"] == "finished"
