"""When a run is evaluated along the way: after equal fractions of its steps or of its budget."""

import hashlib
import json
import shutil

import pytest

from rewardft.comparisons.api import Options, build_request
from rewardft.comparisons.members import expand
from rewardft.engine.moments import passes
from rewardft.engine.state import TrainState
from rewardft.errors import RecipeError
from rewardft.recipe.recipe import load_recipe
from rewardft.storage.checkpoint import step_of
from rewardft.testing import run_recipe

RECIPE = """
plugins: [rewardft.testing.tiny, ddpo]
seed: 3
model: {use: tiny, prediction: v_prediction, width: 8}
sampler: {use: ddim, steps: 3}
data: {use: tiny_blobs, size: 10, batch_size: 2}
rewards: [{use: tiny_brightness}]
algorithm: {use: draft_k, train_steps: 1}
adapter: {kind: lora, rank: 2}
optimizer: {use: adamw, lr: 1e-2}
train: {steps: 8, log_every: 1}
evaluate: {fractions: 4, samples: 4, data: {split: val}}
save: {every: 1, keep: 99}
"""


@pytest.fixture
def recipe(tmp_path):
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return tmp_path / "recipe.yaml"


def evaluated(run):
    return sorted(step_of(path) for path in (run / "evaluations").glob("step-*.json"))


def drawn(run):
    paths = (run / "samples").glob("grid-*.png")
    return sorted(int(path.stem.removeprefix("grid-")) for path in paths)


def evaluation_lines(run):
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [line["step"] for line in lines if "evaluation/reward/tiny_brightness" in line]


def test_equal_fractions_of_the_steps(recipe, tmp_path):
    assert evaluated(run_recipe(recipe, tmp_path / "a").folder) == [0, 2, 4, 6, 8]
    # Not a whole number of steps: the first one at which the fraction is over.
    seven = run_recipe(recipe, tmp_path / "b", "train.steps=7", "evaluate.fractions=3")
    assert evaluated(seven.folder) == [0, 3, 5, 7]
    none = run_recipe(recipe, tmp_path / "c", "evaluate.fractions=0", "evaluate.kl=true")
    assert evaluated(none.folder) == [0, 8]


def test_equal_fractions_of_the_budget(recipe, tmp_path):
    """Where a quarter, a half and three quarters of the rewards are first spent, by the run's own metrics."""
    run = run_recipe(recipe, tmp_path / "run", "train.budget=19-rewards", "train.steps=1000")
    spent = {step["step"]: step["reward_evaluations"] for step in run.steps}
    assert max(spent.values()) == 18
    first = [min(s for s, value in spent.items() if value >= part * 19 / 4) for part in (1, 2, 3)]
    assert evaluated(run.folder) == [0, *first, max(spent)] == [0, 3, 5, 8, 9]


@pytest.mark.parametrize("stop", [3, 4, 5])
def test_a_resumed_run_is_evaluated_where_it_would_have_been(recipe, tmp_path, stop):
    """Also from the checkpoint of a step that was to be evaluated, as after a kill between the two."""
    whole = run_recipe(recipe, tmp_path / "whole").folder
    part = tmp_path / "part"
    shutil.copytree(whole, part)
    for path in (part / "checkpoints").iterdir():
        if step_of(path) > stop:
            shutil.rmtree(path)
    if stop == 4:
        (part / "evaluations" / "step-00000004.json").unlink()
        lines = (part / "metrics.jsonl").read_text().splitlines(keepends=True)
        kept = [line for line in lines if not ('"step": 4' in line and "evaluation/" in line)]
        (part / "metrics.jsonl").write_text("".join(kept))
    run_recipe(recipe, part, resume=True)
    assert evaluated(part) == evaluated(whole) == [0, 2, 4, 6, 8]
    assert evaluation_lines(part) == evaluation_lines(whole) == [0, 2, 4, 6, 8]
    for path in (whole / "evaluations").iterdir():
        assert (part / "evaluations" / path.name).read_text() == path.read_text()


BATCHES_OF_THREE_STEPS = [
    "algorithm={use: ddpo, inner_epochs: 3}",
    "sampler={use: ddim, steps: 3, eta: 1.0}",
    "evaluate.fractions=null",
    "train.steps=12",
]


def test_a_batch_of_several_steps_is_evaluated_once_it_has_passed_a_multiple(recipe, tmp_path):
    sets = [*BATCHES_OF_THREE_STEPS, "evaluate.every=4", "samples.every=4"]
    run = run_recipe(recipe, tmp_path / "run", *sets).folder
    assert evaluated(run) == evaluation_lines(run) == [0, 6, 9, 12]
    assert drawn(run) == [0, 6, 9, 12]


def test_a_kill_after_a_multiple_was_jumped_over_loses_no_evaluation(recipe, tmp_path):
    """The checkpoint of step 6 is written before the evaluation that multiple 4 has led to, and before the grid."""
    sets = [*BATCHES_OF_THREE_STEPS, "evaluate.every=4", "samples.every=4"]
    whole = run_recipe(recipe, tmp_path / "run", *sets).folder
    part = tmp_path / "part"
    shutil.copytree(whole, part)
    for name in ("checkpoints", "evaluations", "samples"):
        for path in (part / name).iterdir():
            step = int(path.stem.split("-")[1])
            if step > 6 or (step == 6 and name != "checkpoints"):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    run_recipe(recipe, part, *sets, resume=True)
    assert evaluated(part) == evaluated(whole)
    for name in ("evaluations", "samples"):
        for path in (whole / name).iterdir():
            assert (part / name / path.name).read_bytes() == path.read_bytes()


def test_a_checkpoint_of_an_older_version_took_one_step_for_each_batch():
    state = TrainState()
    state.load_state_dict({"step": 8, "closings": 8, "seconds": 1.0})
    assert (state.before, passes(4, state.before, 8), passes(5, state.before, 8)) == (
        7,
        True,
        False,
    )


def test_a_run_that_goes_on_for_longer_is_evaluated_at_the_new_fractions(recipe, tmp_path):
    run_recipe(recipe, tmp_path / "run")
    run_recipe(recipe, tmp_path / "run", "train.steps=16", resume=True)
    assert evaluated(tmp_path / "run") == [0, 2, 4, 6, 8, 12, 16]


def test_every_and_fractions_exclude_each_other(recipe):
    with pytest.raises(RecipeError) as error:
        load_recipe(recipe, ["evaluate.every=2"])
    assert error.value.problems[0].endswith(
        "evaluate.fractions: evaluate.every says already when the run is evaluated. Leave one of them out."
    )


def test_what_is_drawn_and_keys_that_are_not_set_leave_a_run_what_it_was(recipe):
    """The digest by which a comparison knows its finished runs is that of a recipe without the keys."""
    plain = load_recipe(recipe, ["evaluate.fractions=null"])
    flat = plain.as_options()
    del flat["samples"], flat["evaluate"]["fractions"]
    del flat["train"]["keep_for_rollouts"], flat["train"]["compile"]
    before = hashlib.sha256(json.dumps(flat, sort_keys=True).encode()).hexdigest()
    assert plain.digest() == before
    drawn = load_recipe(recipe, ["evaluate.fractions=null", "samples.every=3"])
    assert drawn.digest() == before != load_recipe(recipe).digest()


@pytest.mark.parametrize(
    ("settings", "match", "expected"),
    [
        (["evaluate={kl: true}"], None, (0, 4)),
        (["evaluate={kl: true}"], "divergence", (0, 8)),
        (["evaluate={kl: true, fractions: 2}"], None, (0, 2)),
        (["evaluate={kl: true, fractions: 0}"], None, (0, 0)),
        (["evaluate={every: 5}"], "divergence", (5, None)),
    ],
)
def test_a_comparison_evaluates_along_the_way_where_recipes_say_nothing(
    recipe, tmp_path, settings, match, expected
):
    request = build_request([str(recipe)], Options(settings=settings, match=match))
    (member,) = expand(request, tmp_path)
    assert (member.recipe.evaluate.every, member.recipe.evaluate.fractions) == expected
    assert member.problem is None
