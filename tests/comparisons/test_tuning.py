"""`rewardft compare --tune`: the same search for every variant, on other samples than the comparison's."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from rewardft.cli import main
from rewardft.comparisons.sources import Request, Variant, key_of
from rewardft.comparisons.tuning import (
    NOISE,
    SEED,
    Search,
    at_the_edge,
    shortness,
    trials_of,
)
from rewardft.contracts.records import load_comparison
from rewardft.errors import RecipeError

RECIPE = """
plugins: [rewardft.testing.tiny]
model: {use: tiny, prediction: v_prediction, width: 8}
sampler: {use: ddim, steps: 3}
data: {use: tiny_blobs, size: 10, batch_size: 2}
rewards: [{use: tiny_brightness, weight: 2.0}]
algorithm: {use: draft_k}
adapter: {kind: lora, rank: 2}
optimizer: {lr: 1e-3}
train: {steps: 4}
evaluate: {every: 2, samples: 8, data: {split: val}}
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return tmp_path


def test_every_value_is_tried_on_the_training_split_with_noise_of_its_own():
    variant = Variant("a", Path("recipe.yaml"), ("evaluate.seed=1",))
    trials = trials_of(variant, Search(("optimizer.lr=1e-3,1e-2", "train.ema=null,0.9"), "9-steps"))
    assert [trial.name for trial in trials] == [
        "a-lr=0.001-ema=null",
        "a-lr=0.001-ema=0.9",
        "a-lr=0.01-ema=null",
        "a-lr=0.01-ema=0.9",
    ]
    for trial in trials:
        found = {key_of(text): text.partition("=")[2] for text in trial.settings}
        assert found["seed"] == str(SEED) and found["evaluate.seed"] == str(NOISE)
        assert found["evaluate.data"] == "{}"


def test_settings_of_the_held_out_split_are_not_those_of_the_search():
    given = ("evaluate.data.split=val", "evaluate.data={split: val}", "evaluate.samples=4")
    (trial,) = trials_of(
        Variant("a", Path("recipe.yaml"), given), Search(("optimizer.lr=1e-3",), "9-steps")
    )
    assert [text for text in trial.settings if "data" in text] == ["evaluate.data={}"]
    assert "evaluate.samples=4" in trial.settings


def test_half_of_it_is_refused():
    for given in ((["optimizer.lr=1,2"], None), ([], "9-steps")):
        with pytest.raises(RecipeError, match="beside it: --tune optimizer"):
            Search.of(*given)
    assert Search.of([], None) is None


def test_each_variant_runs_with_the_best_of_its_own_search(folder, capsys):
    words = ["compare", "recipe.yaml", "--vary", "adapter.rank=1,2", "--seeds", "2"]
    given = ["--tune", "optimizer.lr=1e-6,1e-1", "--tune-budget", "4-rewards"]
    assert main([*words, *given, "--out", "out", "--pictures", "0"]) == 0
    record = load_comparison(folder / "out" / "comparison.json")
    assert [variant.name for variant in record.variants] == ["rank=1", "rank=2"]
    notes = [note for note in record.notes if note.startswith("Tuned: ")]
    assert len(notes) == 2
    for variant, note in zip(record.variants, notes):
        # By hand: the means of the trials' last evaluations, of which more is better.
        means = {}
        for path in (folder / "out" / "tuning" / "runs").glob(f"{variant.name}-*/seed{SEED}-*"):
            if path.suffix == ".log":
                continue
            recipe = (path / "recipe.yaml").read_text()
            last = max((path / "evaluations").glob("step-*.json"))
            column = json.loads(last.read_text())["per_sample"]["reward/tiny_brightness"]
            assert "split: val" not in recipe
            means["optimizer.lr=0.1" if "lr: 0.1" in recipe else "optimizer.lr=1e-06"] = sum(column)
        best = max(means, key=means.get)
        assert len(means) == 2 and best in note
        assert "The search was 2 runs of 4-rewards: " in note and " 8 rewards, " in note
        assert (
            variant.name not in ("", None) and variant.runs[0].command.count("optimizer.lr=") == 1
        )
        assert best in variant.runs[0].command
        end = "highest" if best.endswith("=0.1") else "lowest"
        assert note.endswith(f" {best} was the {end} of them: the best may lie beyond.")
    # Two steps of 2 samples each, of the recipe's four.
    (said,) = [note for note in record.notes if note.startswith("The runs of the search")]
    assert said.startswith("The runs of the search were 0.5 times as long as the comparison's. ")
    # Nothing of it is run twice.
    capsys.readouterr()
    assert main([*words, *given, "--out", "out", "--pictures", "0"]) == 0
    assert ": started" not in capsys.readouterr().err


def test_a_search_says_where_its_best_value_is_not_bracketed():
    search = Search(("optimizer.lr=1e-3,1e-2,1e-1", "train.ema=null,0.9", "seed=7"), "9-steps")
    assert at_the_edge(["optimizer.lr=0.01", "train.ema=0.9", "seed=7"], search) == ""
    assert at_the_edge(["optimizer.lr=0.001"], search) == (
        " optimizer.lr=0.001 was the lowest of them: the best may lie beyond."
    )


def test_a_search_is_short_by_its_budget_or_by_its_steps(folder):
    request = Request((Variant("a", folder / "recipe.yaml", ()),))
    search = Search(("optimizer.lr=1e-3,1e-2",), "500-rewards")
    assert shortness(replace(request, budget="2000-rewards"), search, folder, {}) == 0.25
    assert shortness(replace(request, budget="500-rewards"), search, folder, {}) is None
    # The recipe's four steps; what ends by the clock has no known number of them.
    assert shortness(request, search, folder, {"a": 1.0}) == 0.25
    assert shortness(request, search, folder, {"a": 4.0}) is None
    assert shortness(request, search, folder, {"a": math.nan}) is None
    assert shortness(replace(request, budget="5m"), search, folder, {"a": 1.0}) is None
    assert shortness(replace(request, budget="2-steps"), search, folder, {"a": 1.0}) == 0.5


def test_a_search_without_results_leaves_a_variant_as_it_is(folder, capsys):
    words = ["compare", "recipe.yaml", "--vary", "adapter.rank=1,2", "--out", "out"]
    given = ["--tune", "optimizer.lr=-1.0", "--tune-budget", "4-rewards", "--pictures", "0"]
    assert main([*words, *given]) == 2
    assert "--tune: the runs have no trained value in common: " in capsys.readouterr().err


def test_a_search_on_slurm_writes_its_script_before_anything_else(folder, monkeypatch, capsys):
    monkeypatch.setenv("PATH", "")
    words = ["compare", "recipe.yaml", "--out", "out", "--launcher", "slurm"]
    assert main([*words, "--tune", "optimizer.lr=1e-3", "--tune-budget", "4-rewards"]) == 2
    assert "there is no `sbatch` here" in capsys.readouterr().err
    assert (folder / "out" / "tuning" / "slurm.sh").is_file()
