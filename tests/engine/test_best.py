"""`save.best` and `save.patience`: which weights are kept and when a run ends, against its evaluation files."""

import json

import pytest
import torch
from safetensors.torch import load_file

import rewardft
from rewardft.cli import main
from rewardft.engine.best import Best
from rewardft.errors import CheckpointError, ComponentError, RecipeError
from rewardft.evaluation.evaluate import Evaluation
from rewardft.recipe.recipe import load_recipe
from rewardft.testing import run_recipe

# The held-out value rises and falls again while the trained one rises.
RECIPE = """
plugins: [toy]
model:     {use: toy, prediction: v_prediction}
sampler:   {use: ddim, steps: 4}
data:      {use: toy_blobs, batch_size: 4}
rewards:   [{use: brightness, target: 0.95}]
algorithm: {use: draft_k}
adapter:   {kind: lora, rank: 4}
optimizer: {lr: 0.02}
train:     {steps: 12}
evaluate:
  every: 2
  samples: 8
  data: {split: val}
  rewards: [{use: brightness, name: held, target: 0.62}]
save:      {best: reward/held}
"""
VALUE = "reward/held"


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(RECIPE)
    return path


def values(folder, name=VALUE):
    """{step: mean}, from the files, the base left out."""
    found = {}
    for path in sorted((folder / "evaluations").glob("step-*.json")):
        column = json.loads(path.read_text())["per_sample"][name]
        found[int(path.stem.removeprefix("step-"))] = sum(column) / len(column)
    found.pop(0)
    return found


def kept(folder):
    return json.loads((folder / "adapter_best" / "step.json").read_text())["step"]


def test_the_weights_of_the_best_evaluation_are_kept(recipe, tmp_path):
    run = run_recipe(recipe, tmp_path / "run")
    found = values(run.folder)
    best = max(found, key=found.get)
    assert list(found) == [2, 4, 6, 8, 10, 12] and best not in (2, 12)
    assert kept(run.folder) == best
    assert run.summary["best"] == {
        "name": VALUE,
        "value": pytest.approx(found[best]),
        "step": best,
    }
    # The same as those of a run that ends there.
    short = run_recipe(recipe, tmp_path / "short", f"train.steps={best}", "evaluate.every=2")
    ours = load_file(run.folder / "adapter_best" / "adapter_model.safetensors")
    theirs = load_file(short.folder / "adapter" / "adapter_model.safetensors")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_less_is_better_of_a_reward_with_a_negative_weight(recipe, tmp_path):
    given = ["rewards.0.weight=-1.0", "save.best=reward/brightness"]
    run = run_recipe(recipe, tmp_path / "run", *given)
    found = values(run.folder, "reward/brightness")
    assert kept(run.folder) == min(found, key=found.get) != max(found, key=found.get)


def test_a_run_that_gets_no_better_ends(recipe, tmp_path):
    run = run_recipe(recipe, tmp_path / "run", "save.patience=2", "train.steps=40")
    found = values(run.folder)
    best = max(found, key=found.get)
    assert run.summary["status"] == "stopped" and run.summary["step"] == best + 4 == max(found)
    assert run.summary["reason"] == (
        f"reward/held has not improved in 2 evaluations, the best at step {best}"
    )
    assert kept(run.folder) == best


def test_a_resumed_run_keeps_what_an_uninterrupted_one_does(recipe, tmp_path):
    whole = run_recipe(recipe, tmp_path / "whole", "save.patience=3", "train.steps=40")
    end = whole.summary["step"]
    best = kept(whole.folder)
    for at in (best, best + 1):
        given = [f"train.steps={at}", "save.patience=3"]
        part = tmp_path / f"part{at}"
        run_recipe(recipe, part, *given)
        again = run_recipe(recipe, part, "train.steps=40", "save.patience=3", resume=True)
        assert again.summary["best"] == whole.summary["best"], at
        assert again.summary["step"] == end and kept(part) == best
        ours, theirs = (
            load_file(folder / "adapter_best" / "adapter_model.safetensors")
            for folder in (part, whole.folder)
        )
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_rewound_run_drops_what_came_later(recipe, tmp_path):
    """Of a run that goes on from an older checkpoint, weights of later steps are not its own."""
    import shutil

    run = run_recipe(recipe, tmp_path / "run", "save.every=2", "save.keep=9")
    best = kept(run.folder)
    for path in (run.folder / "checkpoints").glob("step-*"):
        if int(path.name.removeprefix("step-")) >= best:
            shutil.rmtree(path)
    run_recipe(recipe, run.folder, f"train.steps={best - 1}", "save.every=2", resume=True)
    assert kept(run.folder) < best


def test_a_resumed_run_counts_the_evaluation_that_it_ended_with(recipe, tmp_path):
    """Every value that is there stays the one to beat, also one between `every`."""
    run_recipe(recipe, tmp_path / "run", "train.steps=4", "evaluate.every=3")
    assert kept(tmp_path / "run") == 4
    run = run_recipe(recipe, tmp_path / "run", "train.steps=12", "evaluate.every=3", resume=True)
    found = values(run.folder)
    best = max(found, key=found.get)
    assert run.summary["best"]["step"] == kept(run.folder) == best


def test_a_best_whose_weights_are_lost_is_none(recipe, tmp_path):
    import shutil

    run = run_recipe(recipe, tmp_path / "run", "train.steps=10")
    assert kept(run.folder) < 10
    shutil.rmtree(run.folder / "adapter_best")
    again = run_recipe(recipe, run.folder, "train.steps=14", resume=True)
    assert again.summary["best"]["step"] == kept(run.folder) > 10


def test_the_average_is_kept_where_it_is_evaluated(recipe, tmp_path):
    run = run_recipe(recipe, tmp_path / "run", "train.ema=0.9")
    found = values(run.folder)
    best = max(found, key=found.get)
    short = run_recipe(recipe, tmp_path / "short", "train.ema=0.9", f"train.steps={best}")
    ours = load_file(run.folder / "adapter_best" / "adapter_model.safetensors")
    theirs = load_file(short.folder / "adapter_ema" / "adapter_model.safetensors")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_it_is_exported_with_the_values_of_its_own_step(recipe, tmp_path):
    run = run_recipe(recipe, tmp_path / "run")
    folder = rewardft.export(run.folder, "peft", best=True)
    ours = load_file(folder / "adapter_model.safetensors")
    best = load_file(run.folder / "adapter_best" / "adapter_model.safetensors")
    assert all(torch.equal(ours[name], best[name]) for name in best)
    card = (folder / "README.md").read_text()
    assert f"of step {kept(run.folder)}," in card
    assert f"| {values(run.folder)[kept(run.folder)]:.4g} |" in card


def test_without_one_export_says_how_to_have_it(recipe, tmp_path):
    run = run_recipe(recipe, tmp_path / "run", "save.best=null", "train.steps=2")
    assert not (run.folder / "adapter_best").exists() and run.summary["best"] is None
    with pytest.raises(CheckpointError) as caught:
        rewardft.export(run.folder, "peft", best=True)
    assert str(caught.value) == (
        f"{run.folder}: no weights of a best evaluation are in it (no adapter_best/). A recipe keeps them with "
        "`save: {best: VALUE}`, such as reward/NAME."
    )


def test_a_value_that_there_is_not_ends_the_run_before_it_trains(recipe, tmp_path):
    with pytest.raises(ComponentError) as caught:
        run_recipe(recipe, tmp_path / "run", "save.best=reward/heldd")
    assert str(caught.value) == (
        "save.best: no evaluation has 'reward/heldd'. Did you mean 'reward/held'?"
    )


def test_a_value_without_a_direction_is_refused(recipe, tmp_path):
    given = ["plugins=[toy, metrics]", "evaluate.metrics=[{use: image_statistics}]"]
    with pytest.raises(ComponentError, match="neither more nor less is better"):
        run_recipe(recipe, tmp_path / "run", *given, "save.best=image_statistics/saturation")


PROBLEMS = {
    ("save.best=null", "save.patience=2"): (
        "save.patience: it waits for save.best. Set save.best to the held-out value that is to get better."
    ),
    ("evaluate.every=0",): (
        "save.best: the run is evaluated only at its end. Set evaluate.every to a number of steps."
    ),
    ("evaluate.every=0", "evaluate.fractions=4"): (
        "save.best: the run is evaluated at fractions, which move with its length. Set evaluate.every to a number of "
        "steps instead."
    ),
}


@pytest.mark.parametrize("settings", PROBLEMS)
def test_settings_that_do_not_go_together(settings, recipe):
    with pytest.raises(RecipeError) as caught:
        load_recipe(recipe, settings)
    (problem,) = caught.value.problems
    assert problem.endswith(PROBLEMS[settings])


def test_the_command_says_which_step_was_best(recipe, tmp_path, capsys):
    assert main(["run", str(recipe), "--out", str(tmp_path / "run")]) == 0
    step, found = kept(tmp_path / "run"), values(tmp_path / "run")
    said = capsys.readouterr().out
    assert f"best reward/held: {found[step]:.4g} at step {step}, weights in adapter_best/" in said


def test_the_direction_is_that_of_the_value_itself_not_of_one_with_its_end():
    result = Evaluation(
        ids=[], higher_is_better={"score": False, "judge/score": True, "held/judge/score": False}
    )
    ways = {
        "score": -1,
        "judge/score": 1,
        "held/judge/score": -1,
        "acrobatic/judge/score": 1,
        "group/score": -1,
    }
    assert {name: Best.direction(None, name, result) for name in ways} == ways
