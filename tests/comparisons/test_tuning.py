"""`rewardft compare --tune`: the same search for every variant, on other samples than the comparison's."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from rewardft.cli import main
from rewardft.comparisons.plan import read_plan
from rewardft.comparisons.searched import search_notes
from rewardft.comparisons.settings import key_of
from rewardft.comparisons.sources import Request, Variant
from rewardft.comparisons.tuning import NOISE, SEED, Search, edges_of, shortness, trials_of
from rewardft.contracts.records import (
    Interval,
    RunRecord,
    SearchRecord,
    Trial,
    Value,
    VariantRecord,
    load_comparison,
)
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
    assert [search.variant for search in record.searches] == ["rank=1", "rank=2"]
    for variant, search in zip(record.variants, record.searches):
        # By hand: the means of the trials' last evaluations, of which more is better.
        means = {}
        for path in (folder / "out" / "tuning" / "runs").glob(f"{variant.name}-*/seed{SEED}-*"):
            if path.suffix == ".log":
                continue
            recipe = (path / "recipe.yaml").read_text()
            last = max((path / "evaluations").glob("step-*.json"))
            column = json.loads(last.read_text())["per_sample"]["reward/tiny_brightness"]
            assert "split: val" not in recipe
            means["lr=0.1" if "lr: 0.1" in recipe else "lr=1e-06"] = sum(column) / len(column)
        best = max(means, key=means.get)
        assert len(means) == 2 and search.chosen == best
        assert {t.name: t.value for t in search.trials} == pytest.approx(means)
        assert search.value == "reward/tiny_brightness" and search.budget == "4-rewards"
        assert search.costs["rewards"] == 8 and search.costs["calls"] > 0
        assert search.edges == [
            "optimizer.lr=0.1, the highest"
            if best == "lr=0.1"
            else "optimizer.lr=1e-06, the lowest"
        ]
        assert variant.runs[0].command.count("optimizer.lr=") == 1
        assert f"optimizer.{best}" in variant.runs[0].command
    (note,) = (note for note in record.notes if note.startswith("Tuned: "))
    assert note.startswith(
        "Tuned: each variant has the optimizer.lr that was best by reward/tiny_brightness on the training split, of 2 "
        "runs of 4-rewards; see Search. All searches together: "
    )
    # Two steps of 2 samples each, of the recipe's four.
    (said,) = [note for note in record.notes if "The runs of the search" in note]
    assert said.startswith(
        "Not fair: The runs of the search were 0.5 times as long as the comparison's. "
    )
    page = (folder / "out" / "report.md").read_text()
    assert "## Search" in page and "| Variant | Chosen | lr=1e-06 | lr=0.1 | Calls |" in page
    assert 'id="search"' in (folder / "out" / "report.html").read_text()
    # What has been searched is read back by those who watch.
    assert read_plan(folder / "out").request.searches == tuple(record.searches)
    # Nothing of it is run twice.
    capsys.readouterr()
    assert main([*words, *given, "--out", "out", "--pictures", "0"]) == 0
    assert ": started" not in capsys.readouterr().err


def searched(name, calls, ended, edges=()):
    """A search of two runs of 100 calls each, and the variant that came of it."""
    trials = [Trial(name="lr=1", value=0.5), Trial(name="lr=2", value=0.0)]
    costs = {"calls": 200.0, "rewards": 20.0, "seconds": 2.0}
    facts = {"keys": ["lr"], "value": "r", "budget": "10-rewards", "costs": costs}
    search = SearchRecord(variant=name, chosen="lr=1", trials=trials, edges=list(edges), **facts)
    after = Interval(value=ended, low=ended, high=ended)
    value = Value(
        name="r", role="reward", higher_is_better=True, samples=4, after=after, seeds=[0.0]
    )
    run = RunRecord(seed=0, folder="x", status="finished", axes={"calls": calls})
    return search, VariantRecord(name=name, recipe="x", algorithm="y", runs=[run], values=[value])


def said_of(*pairs):
    searches, variants = zip(*pairs)
    return list(search_notes(searches, variants))


def test_who_ended_worse_than_the_shorter_run_of_the_search_is_named():
    whole = said_of(searched("a", 100.0, 0.4), searched("b", 140.0, 0.6))
    assert whole == [
        "Tuned: each variant has the lr that was best by r on the training split, of 2 runs of 10-rewards; see Search. "
        "All searches together: 400 calls, 40 rewards, 4 s, which are not counted under Cost."
    ]
    short = said_of(searched("a", 400.0, 0.4), searched("b", 400.0, 0.6))
    assert short[1:] == [
        "Ended behind the shorter run that they were chosen by, which was judged on the training split: a. What is best "
        "on a short run may be too much for a long one."
    ]


def test_what_was_chosen_at_the_edge_and_what_was_not_searched_for():
    edge = ["lr=2, the highest"]
    first, second = searched("a", 100.0, 0.4, edges=edge), searched("b", 100.0, 0.4, edges=edge)
    assert said_of(first, second)[1] == (
        "At the edge of what was tried: lr=2, the highest, in a, b: the best may lie beyond."
    )
    assert list(search_notes([first[0]], [first[1], second[1]]))[1] == (
        "Not fair: Nothing was searched for b, whose runs were given."
    )
    assert list(search_notes([], [first[1]])) == []


def test_a_search_says_where_its_best_value_is_not_bracketed():
    search = Search(("optimizer.lr=1e-3,1e-2,1e-1", "train.ema=null,0.9", "seed=7"), "9-steps")
    inner = Variant("a", Path("r.yaml"), ("optimizer.lr=0.01", "train.ema=0.9", "seed=7"))
    assert edges_of(inner, search) == []
    lowest = Variant("a", Path("r.yaml"), ("optimizer.lr=0.001", "train.ema=0.9", "seed=7"))
    assert edges_of(lowest, search) == ["optimizer.lr=0.001, the lowest"]


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
