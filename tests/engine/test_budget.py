"""A run spends what it was given and no more, says what it spent, and resumed it spends the same."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rewardft.engine.meter import spent_on_axes
from rewardft.errors import ComponentError, RecipeError
from rewardft.recipe.budget import Budget, parse_budget
from rewardft.recipe.recipe import load_recipe
from rewardft.testing import run_recipe
from tests.bench import RECIPE


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.replace("steps: 3, log_every: 1", "steps: 1000, log_every: 3"))
    return path


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90s", (90, "seconds")),
        ("10m", (600, "seconds")),
        ("1.5h", (5400, "seconds")),
        ("5000-calls", (5000, "calls")),
        ("2_000-rewards", (2000, "rewards")),
        ("1-forwards", (1, "forwards")),
        ("7-backwards", (7, "backwards")),
    ],
)
def test_texts(text, expected):
    assert parse_budget(text) == Budget(*expected)


WANTED = "expected a time such as 90s, 10m or 1.5h, or a count such as 5000-forwards, 5000-backwards, 5000-calls, 5000-rewards"


@pytest.mark.parametrize(
    "text", ["10", "m", "-5m", "0-calls", "5000 calls", "5000-cows", "1e3-calls", "nan", "10 m"]
)
def test_anything_else_is_refused(text):
    with pytest.raises(ValueError, match=re.escape(f"{WANTED}; got {text!r}") + "$"):
        parse_budget(text)


def test_axes_count_samples_over_all_processes():
    cost = {
        "denoiser_forwards": 9,
        "denoiser_backwards": 9,
        "denoiser_forward_samples": 30,
        "denoiser_backward_samples": 4,
        "reward_evaluations": 5,
    }
    assert spent_on_axes(cost, 3, 1.5, 2) == {
        "steps": 3,
        "forwards": 60,
        "backwards": 8,
        "calls": 68,
        "rewards": 10,
        "seconds": 1.5,
    }


# A batch of 2 samples: 3 denoised steps each, of which one is differentiated, and one score each.
@pytest.mark.parametrize(
    ("budget", "steps", "reason"),
    [
        ("14-rewards", 7, "spent 14 of its budget of 14 rewards; the next batch would take 2"),
        ("15-rewards", 7, "spent 14 of its budget of 15 rewards; the next batch would take 2"),
        ("24-forwards", 4, "spent 24 of its budget of 24 forwards; the next batch would take 6"),
        ("9-backwards", 4, "spent 8 of its budget of 9 backwards; the next batch would take 2"),
        ("47-calls", 5, "spent 40 of its budget of 47 calls; the next batch would take 8"),
    ],
)
def test_a_run_ends_with_the_last_batch_that_it_can_afford(recipe, tmp_path, budget, steps, reason):
    run = run_recipe(recipe, tmp_path / "run", f"train.budget={budget}")
    assert (run.summary["status"], run.summary["step"], run.summary["reason"]) == (
        "finished",
        steps,
        reason,
    )
    assert len(run.steps) == steps
    other = run_recipe(recipe, tmp_path / "other", f"train.steps={steps}")
    assert run.column("loss") == other.column("loss")


def test_each_step_is_logged_with_what_was_spent_when_it_was_taken(recipe, tmp_path):
    run = run_recipe(recipe, tmp_path / "run", "train.steps=7")
    assert run.column("denoiser_forward_samples") == [6 * k for k in range(1, 8)]
    assert run.column("reward_evaluations") == [2 * k for k in range(1, 8)]
    seconds = run.column("train_seconds")
    assert seconds == sorted(seconds) and seconds[0] > 0
    assert run.summary["train_seconds"] >= seconds[-1]


def test_each_step_says_which_share_of_the_budget_was_spent_by_then(recipe, tmp_path):
    run = run_recipe(recipe, tmp_path / "run", "train.budget=15-rewards")
    assert run.column("budget_spent") == pytest.approx([2 * k / 15 for k in range(1, 8)])


@pytest.mark.parametrize(
    "algorithm", ["{use: alignprop}", "{use: drtune, train_steps: 2, early_stop: 3}"]
)
@pytest.mark.parametrize("axis", ["calls", "forwards", "backwards"])
def test_with_random_truncation_a_run_ends_before_the_step_that_it_cannot_pay_for(
    recipe, tmp_path, algorithm, axis
):
    words = [f"algorithm={algorithm}", "sampler.steps=8", "regularizers=[{use: kl, weight: 0.1}]"]
    free = run_recipe(recipe, tmp_path / "free", "train.steps=12", "train.log_every=1", *words)
    calls = {name: free.column(f"denoiser_{name}_samples") for name in ("forward", "backward")}
    spent = {"forwards": calls["forward"], "backwards": calls["backward"]}
    spent["calls"] = [a + b for a, b in zip(*calls.values())]
    assert (
        len({b - a for a, b in zip(spent[axis], spent[axis][1:])} | {spent[axis][0]}) > 1
        or "drtune" in algorithm
    )
    for budget in (int(spent[axis][4]) - 1, int(spent[axis][4]), int(spent[axis][6]) - 1):
        run = run_recipe(recipe, tmp_path / f"b{budget}", f"train.budget={budget}-{axis}", *words)
        assert run.summary["step"] == sum(total <= budget for total in spent[axis])


def test_steps_within_a_batch_count_with_it(recipe, tmp_path):
    """DDPO with two updates per batch: the budget buys whole batches, and both of their steps."""
    options = [
        "plugins=[rewardft.testing.tiny, ddpo]",
        "algorithm={use: ddpo, updates: 2, clip: 1e-2}",
        "sampler.eta=1.0",
        "data.batch_size=4",
        "data.size=8",
    ]
    run = run_recipe(recipe, tmp_path / "run", "train.budget=11-rewards", *options)
    assert (run.summary["step"], run.summary["reward_evaluations"]) == (4, 8)


def test_an_accumulated_step_is_bought_whole(recipe, tmp_path):
    run = run_recipe(recipe, tmp_path / "run", "train.budget=15-rewards", "train.accumulate=3")
    assert (run.summary["step"], run.summary["reward_evaluations"]) == (2, 12)


def test_time_ends_a_run_and_leaves_evaluation_out(recipe, tmp_path):
    extra = ["evaluate.every=2", "evaluate.samples=6", "train.steps=100000"]
    run = run_recipe(recipe, tmp_path / "run", "train.budget=0.5s", *extra)
    assert run.summary["status"] == "finished" and re.match(
        r"spent \d+\.\d+ of its budget of 0.5 seconds", run.summary["reason"]
    )
    before = [0.0, *run.column("train_seconds")][-2]
    assert before < 0.5, "the last step began within the budget"
    assert run.summary["step"] < 100000


def test_resuming_spends_what_was_left_to_the_same_bits(recipe, tmp_path):
    budget = "train.budget=21-rewards"
    whole = run_recipe(recipe, tmp_path / "whole", budget)
    run_recipe(recipe, tmp_path / "parts", "train.steps=4", budget)
    parts = run_recipe(recipe, tmp_path / "parts", budget, resume=True)
    assert parts.summary["step"] == whole.summary["step"] == 10
    assert parts.summary["reason"] == whole.summary["reason"]
    mine, theirs = (
        load_file(run.folder / "adapter" / "adapter_model.safetensors") for run in (whole, parts)
    )
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_a_finished_run_takes_no_step_more_and_a_larger_budget_goes_on(recipe, tmp_path):
    run_recipe(recipe, tmp_path / "run", "train.budget=15-rewards")
    again = run_recipe(recipe, tmp_path / "run", "train.budget=15-rewards", resume=True)
    assert again.summary["step"] == 7
    more = run_recipe(recipe, tmp_path / "run", "train.budget=20-rewards", resume=True)
    assert (more.summary["step"], more.summary["status"]) == (10, "finished")


def test_a_budget_below_one_batch_is_an_error(recipe, tmp_path):
    with pytest.raises(ComponentError) as caught:
        run_recipe(recipe, tmp_path / "run", "train.budget=1-rewards")
    assert str(caught.value) == "train.budget: 1 rewards are too few for one batch, which took 2"


def test_a_budget_that_nothing_is_spent_of_is_an_error(recipe, tmp_path):
    """Supervised training scores nothing: without this it would run to the end of train.steps."""
    with pytest.raises(ComponentError) as caught:
        run_recipe(
            recipe,
            tmp_path / "run",
            "train.budget=8-rewards",
            "algorithm={use: denoising}",
            "rewards=[]",
        )
    assert (
        str(caught.value)
        == "train.budget: this run spends no rewards, so 8 rewards would never end it"
    )


def test_the_recipe_says_what_is_wrong_with_it(recipe):
    with pytest.raises(RecipeError) as caught:
        load_recipe(recipe, ["train.budget=5-cows", "optimizer.schedule=cosine"])
    assert caught.value.problems == [
        f"--set train.budget=5-cows: train.budget: {WANTED}; got '5-cows'",
        "--set optimizer.schedule=cosine: optimizer.schedule: 'cosine' runs to train.steps, and train.budget may end the run "
        "anywhere before. Use 'constant', or leave the budget out.",
    ]
    with pytest.raises(RecipeError) as caught:
        load_recipe(recipe, ["train.budget=40-steps"])
    assert caught.value.problems == [
        "--set train.budget=40-steps: train.budget: a number of optimizer steps is not a budget; write train.steps: 40"
    ]


def test_the_summary_says_how_much_memory_the_run_held(recipe, tmp_path):
    run = run_recipe(recipe, tmp_path / "run", "train.steps=1")
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    assert 0.5 < run.summary["peak_memory_bytes"] / (int(status["VmHWM"].split()[0]) * 1024) <= 1.0
    assert (
        json.loads((run.folder / "summary.json").read_text())["peak_memory_bytes"]
        == run.summary["peak_memory_bytes"]
    )
