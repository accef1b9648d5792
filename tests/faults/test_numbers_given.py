"""Numbers that a command line, a comparison file or the environment may give, beyond what can be meant: a sentence, never
a traceback, and never a wait without an end."""

import math
import os
from pathlib import Path

import numpy as np
import pytest

from rewardft.cli import main
from rewardft.cli.planning import parse_size
from rewardft.comparisons.api import as_vary
from rewardft.comparisons.sources import read_comparison
from rewardft.comparisons.spending import budget_settings
from rewardft.contracts.launching import Job, Work
from rewardft.engine.processes import check_launcher, is_printing
from rewardft.errors import ComponentError, DataError, RecipeError, RewardftError
from rewardft.launchers.local import Local
from rewardft.policy.batches import Stream
from rewardft.recipe.budget import parse_budget
from rewardft.recipe.shipped import find_recipe
from rewardft.runs.samples import sample_run
from rewardft.samplers.schedule import FlowMatching
from rewardft.testing.tiny import make_scheduler

LONG = "9" * 5000


@pytest.mark.parametrize("text", [f"{LONG}-rewards", f"{LONG}-steps", f"{LONG}s", f"1.{LONG}h"])
def test_a_budget_of_thousands_of_digits(text):
    with pytest.raises(ValueError) as caught:
        parse_budget(text)
    assert str(caught.value) == (
        "expected a time such as 90s, 10m or 1.5h, or a count such as 5000-forwards, 5000-backwards, 5000-calls, "
        f"5000-rewards; got {text!r:.60}"
    )
    with pytest.raises(RecipeError) as refusal:
        budget_settings(text)
    assert str(refusal.value).endswith(
        f"--budget {text:.60}: {caught.value}. 300-steps will do, too."
    )


def test_budgets_that_can_be_meant_are_read_as_before():
    assert str(parse_budget("2_000-rewards")) == "2,000 rewards"
    assert str(parse_budget(" 1.5h ")) == "5,400 seconds"
    assert str(parse_budget("999999999999999999-calls")) == "1e+18 calls"
    assert budget_settings("1_000-steps") == ("train.steps=1000", "train.budget=null")


@pytest.mark.parametrize("text", [f"{LONG}GiB", "0GiB", "nanGB", "24"])
def test_a_size_of_a_device(text):
    with pytest.raises(RewardftError) as caught:
        parse_size(text)
    assert str(caught.value) == (
        f"--device: expected a size such as 24GiB, 80GB or 800MiB, got {text!r:.60}"
    )


def comparison(folder, lines):
    path = folder / "c.yaml"
    path.write_text(f"recipes: [toy_draft]\n{lines}\n")
    return read_comparison(path, find_recipe)


@pytest.mark.parametrize("seeds", [0, -1, 1001, 10**12])
def test_seeds_of_a_comparison_are_as_many_as_can_be_made(tmp_path, seeds):
    with pytest.raises(RecipeError) as caught:
        comparison(tmp_path, f"seeds: {seeds}")
    assert caught.value.problems == [
        f"{tmp_path / 'c.yaml'}:2: seeds: expected a whole number from 1 to 1,000, got {seeds}."
    ]


def test_variants_of_a_comparison_are_as_many_as_can_be_made(tmp_path):
    values = list(range(1, 102))
    with pytest.raises(RecipeError) as caught:
        comparison(tmp_path, f"vary: {{train.steps: {values}, optimizer.warmup: {values}}}")
    assert caught.value.problems == [
        "vary: 101 variants with 101 values of optimizer.warmup are more than 10,000, which is the most."
    ]


def test_values_from_python_are_varied_as_yaml_has_them():
    """`None` would be text, and `True` is no truth value of YAML's."""
    given = {"train.clip_norm": [None, 1.0], "train.shard": [True], "algorithm": ["drtune"]}
    assert as_vary(given) == [
        "train.clip_norm=null,1.0",
        "train.shard=true",
        "algorithm=drtune",
    ]
    others = {"data.root": [Path("/a b"), "c"], "optimizer.lr": [np.float32(0.5), np.float64(0.25)]}
    assert as_vary(others) == ["data.root=/a b,c", "optimizer.lr=0.5,0.25"]


@pytest.mark.parametrize("scale", [math.nan, math.inf, -math.inf])
def test_samples_have_a_finite_strength(tmp_path, scale):
    with pytest.raises(DataError) as caught:
        sample_run(tmp_path, scale=scale)
    assert str(caught.value) == f"the adapter's scale must be a finite number, got {scale:g}"
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("value", ["two", "1.5", LONG, "1 2"])
def test_what_a_launcher_sets_is_a_whole_number(value):
    said = f"WORLD_SIZE in the environment is {value!r:.60}; expected a whole number, as launchers set it. Unset it."
    for ask in (lambda e: check_launcher(e, 1), is_printing):
        with pytest.raises(ComponentError) as caught:
            ask({"WORLD_SIZE": value})
        assert str(caught.value) == said


def test_a_run_says_so_too(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "two")
    assert main(["run", "toy_draft", "--out", str(tmp_path / "run")]) == 2
    assert capsys.readouterr().err == (
        "error: WORLD_SIZE in the environment is 'two'; expected a whole number, as launchers set it. Unset it.\n"
    )
    assert not (tmp_path / "run").exists()


def test_a_section_given_after_one_of_its_keys_would_undo_it(capsys):
    sets = ["--set", "algorithm.train_steps=2", "--set", "algorithm={use: draft_k}"]
    assert main(["check", "toy_draft", *sets]) == 2
    assert capsys.readouterr().err.endswith(
        "  - --set algorithm={use: draft_k}: it replaces what --set algorithm.train_steps=2 sets; give algorithm first.\n"
    )
    assert main(["check", "toy_draft", *sets[2:], *sets[:2]]) == 0


def test_a_data_set_of_more_items_than_memory_holds():
    class Endless:
        def __len__(self):
            return 2**62

    with pytest.raises(DataError) as caught:
        Stream(Endless(), seed=0).next_batch(1)
    assert str(caught.value) == (
        "the data set Endless has 4,611,686,018,427,387,904 items, whose order does not fit into memory"
    )


def test_more_runs_at_once_than_there_are_take_no_more_room():
    """A place for each would fill the memory first."""
    made = []

    class Maker:
        def __call__(self, job, threads, device=None):
            made.append((job.label, threads))
            return 0

    paths = [Path(name) for name in "ab"]
    jobs = [Job(str(path), path, path, (), (), path) for path in paths]
    ended = []
    work = Work(
        jobs, 10**12, Path(), Maker(), lambda job: None, lambda job, code: ended.append(code)
    )
    Local().launch(work)
    assert sorted(made) == [(name, max(os.cpu_count() // 2, 1)) for name in "ab"] and ended == [
        0,
        0,
    ]


@pytest.mark.parametrize("steps", [100_001, 10**12])
def test_a_flow_of_more_steps_than_memory_holds(steps):
    with pytest.raises(ComponentError) as caught:
        FlowMatching(make_scheduler("flow"), steps)
    assert str(caught.value) == f"steps must be between 1 and 100,000, got {steps}"
