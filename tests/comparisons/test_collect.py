"""What is set against what: settings that win, runs that are the same, samples and values that may be paired."""

import json
import math
import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from rewardft.cli import main
from rewardft.comparisons.collect import same_measure, same_samples, versus
from rewardft.comparisons.members import Member, expand
from rewardft.comparisons.read_runs import ending, made_like_the_last, read_run
from rewardft.comparisons.sources import Variant, read_sources
from rewardft.comparisons.statistics import difference_interval
from rewardft.comparisons.unpaired import unpaired_seeds_interval
from rewardft.contracts.records import load_comparison
from rewardft.evaluation.evaluate import Evaluation
from rewardft.recipe.recipe import load_recipe
from tests import processes
from tests.comparisons.test_compare import begun, compare, folder  # noqa: F401 (folder is a fixture)
from tests.processes import wait_for


def variant(*settings):
    return Variant("v", Path("recipe.yaml")).with_settings(*settings)


# -- settings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        (("a=1", "b=2", "a=3"), ("b=2", "a=3")),
        (
            ("algorithm={use: ddpo}", "algorithm.clip=0.1"),
            ("algorithm={use: ddpo}", "algorithm.clip=0.1"),
        ),
        (
            ("algorithm.train_steps=2", "algorithm={use: refl}"),
            ("algorithm={use: refl}", "algorithm.train_steps=2"),
        ),
        (("optimizer.lr=1e-3", "optimizer={lr: 5e-3}"), ("optimizer={lr: 5e-3}",)),
        (("evaluate.sampler.steps=5", "evaluate.sampler=null"), ("evaluate.sampler=null",)),
        (
            ("rewards.0.weight=2", "rewards=[{use: other}]"),
            ("rewards=[{use: other}]", "rewards.0.weight=2"),
        ),
        (
            ("rewards.0.weight=2", "rewards=[{use: other, weight: 1}]"),
            ("rewards=[{use: other, weight: 1}]",),
        ),
        (("rewards.1.weight=2", "rewards=[{use: other}]"), ("rewards=[{use: other}]",)),
        (("train.steps=5", "train_more=1"), ("train.steps=5", "train_more=1")),
    ],
)
def test_later_settings_win_where_they_say_something(settings, kept):
    assert variant(*settings).settings == kept


def test_what_is_set_for_all_holds_for_every_variant_that_does_not_say_otherwise(folder):
    (folder / "c.yaml").write_text(
        "recipes: [recipe.yaml]\nset: {algorithm: {use: draft_k}, optimizer.lr: 1e-3}\n"
        "variants: {a: {}, b: {algorithm.train_steps: 2}, c: {optimizer: {lr: 5e-3}}}\n"
    )
    request = read_sources(["c.yaml"], Path)
    recipes = {member.variant.name: member.recipe for member in expand(request, Path("out"))}
    assert recipes["a"].algorithm.options == {} and recipes["b"].algorithm.options == {
        "train_steps": 2
    }
    assert [recipes[name].optimizer.lr for name in "abc"] == [1e-3, 1e-3, 5e-3]


def test_a_set_value_holds_for_all_that_is_varied(folder):
    words = [
        "recipe.yaml",
        "--set",
        "algorithm.train_steps=2",
        "--vary",
        "algorithm=draft_k,direct",
    ]
    assert compare(*words) == 0
    record = load_comparison(folder / "out" / "comparison.json")
    assert record.common["algorithm.train_steps"] == 2


@pytest.mark.parametrize("words", [("--set", "seed=5"), ("--vary", "seed=5,6")])
def test_a_seed_may_be_set_and_varied(folder, words):
    assert compare("recipe.yaml", *words) == 0
    assert begun(folder) == ["draft_k 5", "draft_k 6"][: 1 if words[0] == "--set" else 2]
    command = load_comparison(folder / "out" / "comparison.json").variants[0].runs[0].command
    assert command.count("--set seed=5") == 1


def test_no_seeds_and_no_recipes_are_refused(folder):
    from rewardft.errors import RecipeError

    for text in (
        "recipes: []\n",
        "recipes: [recipe.yaml]\nseeds: 0\n",
        "recipes: [recipe.yaml]\nseeds: -1\n",
    ):
        (folder / "c.yaml").write_text(text)
        with pytest.raises(RecipeError, match=r"expected a (list of recipes|whole number)"):
            read_sources(["c.yaml"], Path)


def test_a_recipe_that_evaluates_nothing_is_refused_before_it_trains(folder, capsys):
    assert compare("recipe.yaml", "--set", "evaluate={}") == 2
    assert "it evaluates nothing, so there is nothing to compare" in capsys.readouterr().err
    assert not (folder / "begun.txt").exists()


def test_variants_that_are_the_same_are_said_to_be(folder):
    shutil.copy(folder / "recipe.yaml", folder / "twin.yaml")
    assert compare("recipe.yaml", "twin.yaml") == 0
    notes = load_comparison(folder / "out" / "comparison.json").notes
    assert "The same recipe and settings under several names: recipe, twin." in notes


def test_notes_say_whose_weights_are_averages_and_what_else_lies_in_the_folder(folder, capsys):
    assert compare("recipe.yaml", "--vary", "train.ema=0.5,null") == 0
    notes = load_comparison(folder / "out" / "comparison.json").notes
    said = (
        "Judged by the moving average of their weights: ema=0.5; the others by their last weights."
    )
    assert said in notes and not any("not in this report" in note for note in notes)
    assert compare("recipe.yaml", "--vary", "algorithm.train_step=1,2") == 2
    assert compare("recipe.yaml", "--vary", "algorithm=draft_k,drat_k") == 1
    record = load_comparison(folder / "out" / "comparison.json")
    assert (
        "2 runs in out/runs are of other settings, seeds or plugin code, and are not in this report."
        in record.notes
    )
    shown = capsys.readouterr().err
    assert shown.index("cannot be run: drat_k: ") < shown.index("draft_k seed 3: started")
    text = (folder / "out" / "report.md").read_text()
    assert "not set" not in text and "..\n" not in text and "| unknown |" in text


def test_given_runs_that_differ_in_their_seeds_alone_are_one_variant(folder):
    for name, words in (
        ("a", ["seed=1"]),
        ("b", ["seed=2"]),
        ("c", ["seed=1", "optimizer.lr=3e-2"]),
    ):
        sets = [word for text in words for word in ("--set", text)]
        assert main(["run", "recipe.yaml", *sets, "--out", name]) == 0
    assert compare("a", "b", "c") == 0
    record = load_comparison(folder / "out" / "comparison.json")
    assert [(v.name, [r.seed for r in v.runs]) for v in record.variants] == [
        ("a", [1, 2]),
        ("c", [1]),
    ]
    assert [len(v.values[0].seeds) for v in record.variants] == [2, 1]


def test_a_given_run_that_cannot_be_opened_is_a_row(folder, capsys):
    for name in ("a", "b"):
        assert main(["run", "recipe.yaml", "--out", name]) == 0
    text = (folder / "b" / "recipe.yaml").read_text().replace("events.py", "gone.py")
    (folder / "b" / "recipe.yaml").write_text(text)
    assert compare("a", "b") == 1
    runs = [v.runs[0] for v in load_comparison(folder / "out" / "comparison.json").variants]
    assert [run.status for run in runs] == ["finished", "failed"] and "gone.py" in runs[1].error
    assert runs[1].reason.startswith("the recipe cannot be run: ") and "gone.py" in runs[1].reason
    assert "gone.py" in capsys.readouterr().out


# -- evaluations -----------------------------------------------------------------------------------------------------


def evaluation(per_sample, **settings):
    ids = [str(i) for i in range(len(next(iter(per_sample.values()))))]
    given = {"seed": 1, "sampler": {"use": "ddim"}, "samples": 4, "data": {"use": "d"}} | settings
    return Evaluation(ids=ids, per_sample=per_sample, settings=given)


def test_samples_are_the_same_where_the_data_or_values_that_tell_them_apart_are():
    values = {"reward/a": [0.1, 0.2, 0.3, 0.4], "kl/gaussian": [0.0] * 4, "b/c": [math.nan] * 4}
    mine = evaluation(values)
    assert same_samples(mine, evaluation({"reward/z": [1.0, 2.0, 3.0, 4.0]}))
    other = {"data": {"use": "e"}}
    assert same_samples(mine, evaluation(values, **other))
    assert not same_samples(
        mine, evaluation(values | {"reward/a": [0.4, 0.3, 0.2, 0.1]}, **other)
    ), "constants are alike"
    assert not same_samples(mine, evaluation(values, seed=2))


def test_a_value_is_the_same_where_its_settings_and_code_are():
    values = {"reward/a": [0.1, 0.2], "judge/x": [1.0, 2.0]}
    facts = {
        "rewards": {"a": {"use": "a", "target": 1}},
        "metrics": [{"use": "Judge"}],
        "plugins": {"/r.py": "1"},
    }
    mine = evaluation(values, **facts)
    assert all(same_measure(name, mine, evaluation(values, **facts)) for name in values)
    reward = evaluation(values, **facts | {"rewards": {"a": {"use": "a", "target": 2}}})
    assert not same_measure("reward/a", mine, reward) and same_measure("judge/x", mine, reward)
    metric = evaluation(values, **facts | {"metrics": [{"use": "judge", "weights": "w"}]})
    assert same_measure("reward/a", mine, metric) and not same_measure("judge/x", mine, metric)
    code = evaluation(values, **facts | {"plugins": {"/r.py": "2"}})
    assert not any(same_measure(name, mine, code) for name in values)
    assert all(
        same_measure(name, mine, evaluation(values, **facts | {"plugins": {"/s.py": "2"}}))
        for name in values
    )


def test_a_reward_with_another_option_is_no_rival(folder):
    assert compare("recipe.yaml", "--vary", "rewards.0.target=0.2,0.8") == 0
    values = [v.values[0] for v in load_comparison(folder / "out" / "comparison.json").variants]
    assert [value.versus_best for value in values] == [None, None]


def seen(seed, values):
    from types import SimpleNamespace

    return SimpleNamespace(
        member=SimpleNamespace(seed=seed), tuned=evaluation({"reward/a": values})
    )


def test_seeds_are_paired_by_their_numbers_and_else_not_at_all():
    import numpy as np

    tables = {0: [0.1, 0.4, 0.2], 1: [0.3, 0.5, 0.1], 2: [0.0, 0.9, 0.3]}
    others = {0: [0.2, 0.1, 0.2], 1: [0.1, 0.1, 0.6], 2: [0.4, 0.2, 0.2]}
    mine, theirs = ([seen(s, t[s]) for s in (0, 1, 2)] for t in (tables, others))
    mixed = [theirs[i] for i in (2, 0, 1)]
    expected = difference_interval(np.array(list(tables.values())), np.array(list(others.values())))
    assert versus("reward/a", mine, mixed) == versus("reward/a", mine, theirs) == expected
    apart = unpaired_seeds_interval(
        np.array([tables[0], tables[2]]), np.array([others[0], others[1]])
    )
    assert versus("reward/a", [mine[0], mine[2]], theirs[:2]) == apart


def test_evaluations_made_otherwise_are_not_set_against_the_last(folder):
    tables = {
        step: evaluation({"r": [1.0, 2.0]}, seed=seed) for step, seed in ((0, 1), (2, 1), (4, 9))
    }
    assert list(made_like_the_last(tables)) == [4] and list(
        made_like_the_last({0: tables[0], 2: tables[2]})
    ) == [0, 2]
    assert main(["run", "recipe.yaml", "--out", "a"]) == 0
    path = folder / "a" / "evaluations" / "step-00000000.json"
    base = json.loads(path.read_text())
    base["settings"]["seed"] = 99
    path.write_text(json.dumps(base))
    found = read_run(
        Member(variant(), 3, folder / "a", load_recipe(folder / "recipe.yaml")), folder
    )
    assert found.record.status == "finished" and found.base is None
    assert [point.axes["steps"] for point in found.record.evaluations] == [2, 4]


def test_calls_of_all_processes_are_counted(folder):
    assert main(["run", "recipe.yaml", "--out", "a"]) == 0
    member = Member(variant(), 3, folder / "a", load_recipe(folder / "recipe.yaml"))
    alone = read_run(member, folder).record
    path = folder / "a" / "manifest.json"
    facts = json.loads(path.read_text())
    facts["hardware"]["processes"] = 4
    path.write_text(json.dumps(facts))
    four = read_run(member, folder).record
    assert (
        four.axes["calls"] == 4 * alone.axes["calls"] > 0
        and four.axes["steps"] == alone.axes["steps"]
    )
    assert [p.axes["rewards"] for p in four.evaluations] == [
        4 * p.axes["rewards"] for p in alone.evaluations
    ]


# -- endings ---------------------------------------------------------------------------------------------------------


def test_a_killed_run_says_by_what(folder):
    text = (folder / "events.py").read_text().replace("time.sleep(600)", "os.kill(os.getpid(), 9)")
    (folder / "events.py").write_text(text)
    os.environ["PLAN"] = "sleep 4"
    try:
        assert compare("recipe.yaml", "--seeds", "2") == 1
    finally:
        del os.environ["PLAN"]
    runs = load_comparison(folder / "out" / "comparison.json").variants[0].runs
    assert [(run.status, run.reason) for run in runs] == [
        ("finished", None),
        ("failed", "ended by SIGKILL"),
    ]


def test_an_observer_that_fails_after_the_summary_is_a_failure_and_is_tried_again(folder):
    observer = (
        "\n\n@hookimpl\ndef on_run_end(run):\n"
        "    if (HERE / 'bad').exists():\n        raise ValueError('at the very end')\n"
    )
    (folder / "events.py").write_text((folder / "events.py").read_text() + observer)
    (folder / "bad").touch()
    assert compare("recipe.yaml") == 1
    (run,) = load_comparison(folder / "out" / "comparison.json").variants[0].runs
    assert (run.status, run.reason) == ("failed", "ValueError: at the very end")
    (folder / "bad").unlink()
    assert compare("recipe.yaml") == 0
    (run,) = load_comparison(folder / "out" / "comparison.json").variants[0].runs
    assert run.status == "finished" and len(begun(folder)) == 2


def test_a_resumption_that_cannot_begin_says_why_and_not_how_it_ended_before(folder):
    assert compare("recipe.yaml", "--set", "save.every=2", "--set", "train.steps=4") == 0
    (path,) = (folder / "out" / "runs" / "recipe").glob("seed3-*/summary.json")
    summary = json.loads(path.read_text()) | {"status": "interrupted"}
    path.write_text(json.dumps(summary))
    for checkpoint in path.parent.glob("checkpoints/*/training.pt"):
        checkpoint.write_bytes(b"damaged")
    assert compare("recipe.yaml", "--set", "save.every=2", "--set", "train.steps=4") == 1
    (run,) = load_comparison(folder / "out" / "comparison.json").variants[0].runs
    assert run.status == "failed" and "training.pt: missing, truncated or changed" in run.reason


def test_runs_end_with_the_comparison_and_two_cannot_train_in_one_folder(folder):
    """The comparison alone is killed: its run saves and ends, and the next start goes on from there.

    Slow steps keep the first run alive for two minutes, however busy the machine is.
    """
    slow = "\n\n@hookimpl\ndef on_step_end(step):\n    time.sleep(1.0 if os.environ.get('SLOW') else 0)\n"
    (folder / "events.py").write_text((folder / "events.py").read_text() + slow)
    words = [
        "compare",
        "recipe.yaml",
        "--set",
        "train.steps=120",
        "--out",
        "out",
        "--pictures",
        "0",
    ]
    process = processes.start(*words, env={"SLOW": "1"})
    runs = folder / "out" / "runs" / "recipe"
    wait_for(
        lambda: any(len(path.read_text().splitlines()) > 3 for path in runs.glob("*/metrics.jsonl"))
    )
    (run,) = (path.parent for path in runs.glob("*/metrics.jsonl"))
    sets = ["--set", "train.steps=120"]
    again = processes.run("run", "recipe.yaml", *sets, "--out", run, "--resume")
    assert again.returncode == 2 and "another process is training in this folder" in again.stderr
    member = Member(variant(), 3, run, load_recipe(folder / "recipe.yaml"))
    assert ending(member) == {"status": "missing", "reason": "it is still running"}
    process.kill(signal.SIGKILL)
    process.wait()
    wait_for(lambda: (run / "summary.json").is_file())
    summary = json.loads((run / "summary.json").read_text())
    assert summary["reason"] == "interrupted by SIGTERM" and 0 < summary["step"] < 120
    before = len((run / "metrics.jsonl").read_text().splitlines())
    time.sleep(2.5)
    assert len((run / "metrics.jsonl").read_text().splitlines()) == before, "nobody trains on"
    assert main(words) == 0
    resumed = json.loads((run / "manifest.json").read_text())["resumed"]
    assert [one["step"] for one in resumed] == [summary["step"]]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_comparison_alone_saves_the_run_and_says_how_to_go_on(folder, number):
    slow = "\n\n@hookimpl\ndef on_step_end(step):\n    time.sleep(0.3)\n"
    (folder / "events.py").write_text((folder / "events.py").read_text() + slow)
    words = [
        "compare",
        "recipe.yaml",
        "--set",
        "train.steps=600",
        "--seeds",
        "2",
        "--out",
        "out",
        "--pictures",
        "0",
    ]
    process = processes.start(*words)
    runs = folder / "out" / "runs" / "recipe"
    wait_for(
        lambda: any(len(path.read_text().splitlines()) > 2 for path in runs.glob("*/metrics.jsonl"))
    )
    process.kill(number)
    done = process.wait()
    assert done.returncode == 130
    how = "interrupted; finished runs are kept. Continue with: rewardft compare recipe.yaml"
    assert how in done.stdout
    (summary,) = [json.loads(path.read_text()) for path in runs.glob("*/summary.json")]
    assert summary["reason"] == "interrupted by SIGINT" and 0 < summary["step"] < 600
    assert len(begun(folder)) == 1, "no other run was begun"


def test_pictures_that_cannot_be_drawn_are_a_note(folder, monkeypatch):
    def broken(*arguments):
        raise RuntimeError("no memory for <pictures>")

    monkeypatch.setattr("rewardft.runs.samples.held_out_pictures", broken)
    assert main(["compare", "recipe.yaml", "--out", "out"]) == 0
    record = load_comparison(folder / "out" / "comparison.json")
    assert "No pictures of recipe: RuntimeError: no memory for <pictures>" in record.notes
    assert "no memory for &lt;pictures&gt;" in (folder / "out" / "report.html").read_text()


def test_pictures_are_drawn_once_and_again_where_their_list_is_damaged(folder):
    command = ["compare", "recipe.yaml", "--out", "out", "--pictures", "2"]
    assert main(command) == 0
    before = load_comparison(folder / "out" / "comparison.json").variants[0].pictures
    (index,) = (folder / "out" / "pictures").glob("*/index.json")
    picture, text = folder / "out" / before[0].base, index.read_text()
    drawn = picture.stat().st_mtime_ns
    assert main(command) == 0 and picture.stat().st_mtime_ns == drawn
    for damaged in ("", "[]", text[:-20], text.replace('"sample"', '"simple"')):
        index.write_text(damaged)
        assert main(command) == 0
        record = load_comparison(folder / "out" / "comparison.json")
        assert record.variants[0].pictures == before and len(before) == 2, damaged
        assert [note for note in record.notes if note.startswith("No pictures")] == []
    assert picture.stat().st_mtime_ns > drawn and index.read_text() == text
