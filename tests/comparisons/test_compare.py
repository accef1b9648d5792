"""Whole comparisons through the command line: what runs, what is reused, what a failure does, what a kill costs."""

import csv
import json
import re
import shlex
import signal
from pathlib import Path

import numpy as np
import pytest
from pyarrow import parquet
from scipy import stats

from rewardft.cli import main
from rewardft.comparisons.comparison import target_of
from rewardft.comparisons.members import differences, expand
from rewardft.comparisons.sources import Request, Variant
from rewardft.contracts.records import Value, VariantRecord, load_comparison
from tests import processes
from tests.processes import wait_for

RECIPE = """
plugins: [rewardft.testing.tiny, ./events.py]
seed: 3
model: {use: tiny, prediction: v_prediction, width: 8}
sampler: {use: ddim, steps: 3}
data: {use: tiny_blobs, size: 10, batch_size: 2}
rewards: [{use: tiny_brightness}]
algorithm: {use: draft_k, train_steps: 1}
adapter: {kind: lora, rank: 2}
optimizer: {use: adamw, lr: 1e-2}
train: {steps: 4, log_every: 1}
evaluate: {every: 2, samples: 8}
"""
EVENTS = '''
"""Notes each run that begins; fails or dawdles as PLAN says ("fail 4", "sleep 5": at runs with that seed)."""
import os
import time
from pathlib import Path

from rewardft import hookimpl

HERE = Path(__file__).parent


@hookimpl
def on_run_start(run):
    with (HERE / "begun.txt").open("a") as file:
        file.write(f"{run.recipe.algorithm.use} {run.recipe.seed}\\n")
    plan = os.environ.get("PLAN", "").split()
    if plan[1:] == [str(run.recipe.seed)]:
        if plan[0] == "fail":
            raise ValueError("a run that fails")
        time.sleep(600)


@hookimpl
def report_sections(record, folder):
    from rewardft.contracts.records import Section
    if os.environ.get("PLAN") == "section":
        raise ValueError("no <section>")
    return [Section(title="A stranger's", html=f"<p>{len(record.variants)} variants</p>")]
'''


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    (tmp_path / "events.py").write_text(EVENTS)
    return tmp_path


def compare(*words):
    return main(["compare", *words, "--out", "out", "--pictures", "0"])


def begun(folder):
    return (folder / "begun.txt").read_text().splitlines()


def tables(folder):
    """Everything that was measured, without what tells of time and place."""
    record = load_comparison(folder / "out" / "comparison.json")
    return [
        (v.name, [value.model_dump() for value in v.values], [r.status for r in v.runs])
        for v in record.variants
    ]


def test_variants_over_seeds_are_run_once_and_reported(folder, capsys):
    words = ["recipe.yaml", "--vary", "algorithm=draft_k,draft", "--seeds", "2", "--jobs", "2"]
    assert compare(*words) == 0
    assert sorted(begun(folder)) == ["draft 3", "draft 4", "draft_k 3", "draft_k 4"]
    record = load_comparison(folder / "out" / "comparison.json")
    assert [(v.name, v.algorithm, [r.seed for r in v.runs]) for v in record.variants] == [
        ("draft_k", "draft_k", [3, 4]),
        ("draft", "draft", [3, 4]),
    ]
    assert (
        record.target == "reward/tiny_brightness"
        and record.seeds == [3, 4]
        and [note.partition(":")[0] for note in record.notes] == ["Not fair"]  # of one rate
    )
    assert record.variants[0].differences["algorithm.use"] == "draft_k"
    assert record.variants[0].differences["algorithm.train_steps"] == 1, "defaults are said too"
    command = shlex.split(record.variants[0].runs[1].command)
    assert command[:3] == ["rewardft", "run", "recipe.yaml"] and command[-2:] == [
        "--out",
        "runs/draft_k-seed4",
    ]
    assert record.common["optimizer.lr"] == 0.01
    assert [s.title for s in record.sections] == ["A stranger's"] and record.sections[
        0
    ].plugin == "events"
    shown = capsys.readouterr().out
    assert (
        "out/report.html" in shown and "2 variants" in (folder / "out" / "report.html").read_text()
    )

    before = tables(folder)
    capsys.readouterr()
    assert compare(*words) == 0
    said = capsys.readouterr().err
    assert "4 of 4 runs are finished and are not repeated" in said and "is replaced" not in said
    assert len(begun(folder)) == 4 and tables(folder) == before, "finished runs are not repeated"
    made_by = load_comparison(folder / "out" / "comparison.json").command
    assert compare(*words, "--set", "optimizer.lr=2e-2") == 0
    assert len(begun(folder)) == 8, "other settings are other runs"
    assert (
        f"the report in out was made by `{made_by}`, of 4 runs, 4 of which are not in this comparison: it is "
        "replaced, and the runs are kept. --out FOLDER keeps both reports.\n"
    ) in capsys.readouterr().err


def test_the_values_are_those_of_the_evaluations(folder):
    assert compare("recipe.yaml", "--vary", "algorithm=draft_k,draft", "--seeds", "2") == 0
    record = load_comparison(folder / "out" / "comparison.json")
    rows = parquet.read_table(folder / "out" / "samples.parquet").to_pylist()
    assert len(rows) == 2 * 2 * 8 and set(rows[0]) == {
        "variant",
        "seed",
        "sample",
        "group",
        "value",
        "base",
        "tuned",
    }
    tuned = {}
    for variant in record.variants:
        (value,) = [v for v in variant.values if v.name == "reward/tiny_brightness"]
        mine = [row for row in rows if row["variant"] == variant.name]
        before, after = (
            np.array([[r[k] for r in mine if r["seed"] == s] for s in (3, 4)])
            for k in ("base", "tuned")
        )
        tuned[variant.name] = after
        assert value.samples == 8 and value.role == "reward" and value.higher_is_better is True
        assert value.before.value == pytest.approx(
            before.mean()
        ) and value.after.value == pytest.approx(after.mean())
        assert value.iqm.value == pytest.approx(stats.trim_mean(after.ravel(), 0.25))
        assert value.versus_base.value == pytest.approx((after - before).mean())
        assert value.seeds == pytest.approx((after - before).mean(1).tolist())
        assert value.versus_base.low < value.versus_base.value < value.versus_base.high
        table = json.loads(
            (
                folder / "out" / variant.runs[0].folder / "evaluations" / "step-00000004.json"
            ).read_text()
        )
        assert after[0] == pytest.approx(table["per_sample"]["reward/tiny_brightness"])
        assert [point.axes["steps"] for point in variant.runs[0].evaluations] == [0, 2, 4]
        assert [point.axes["rewards"] for point in variant.runs[0].evaluations] == [0, 4, 8]
        assert [point.axes["steps"] for point in variant.runs[0].training] == [1, 2, 3, 4]
    one, _ = record.variants
    (value,) = [v for v in one.values if v.name == "reward/tiny_brightness"]
    assert value.best == "draft" and value.versus_best.value == pytest.approx(
        (tuned["draft_k"] - tuned["draft"]).mean()
    )
    with (folder / "out" / "report.csv").open() as file:
        found = [row for row in csv.DictReader(file) if "tiny_brightness" in str(row)]
    assert {row["variant"] for row in found} == {"draft_k", "draft"}


def test_one_seed_is_said(folder):
    assert compare("recipe.yaml") == 0
    record = load_comparison(folder / "out" / "comparison.json")
    assert record.notes == [
        "One seed only: recipe. Their intervals are over samples alone; another seed may rank them differently."
    ]


def test_a_budget_ends_every_run_where_it_says(folder):
    assert (
        compare("recipe.yaml", "--vary", "algorithm=draft_k,alignprop", "--budget", "41-calls") == 0
    )
    record = load_comparison(folder / "out" / "comparison.json")
    assert record.budget == "41-calls"
    draft, alignprop = (variant.runs[0] for variant in record.variants)
    assert (
        draft.axes["calls"] == 40 and draft.axes["backwards"] == 10 and draft.status == "finished"
    )
    assert abs(alignprop.axes["calls"] - 41) < 12, "random truncation: less than one batch off"
    assert draft.reason == "spent 40 of its budget of 41 calls; the next batch would take 8"


def test_a_plugin_is_added_for_an_algorithm_that_needs_it(folder):
    words = [
        "--vary",
        "algorithm=draft_k,ddpo",
        "--set",
        "sampler.eta=1.0",
        "--set",
        "train.steps=1",
    ]
    assert compare("recipe.yaml", *words) == 0
    record = load_comparison(folder / "out" / "comparison.json")
    assert [v.algorithm for v in record.variants] == ["draft_k", "ddpo"]
    assert record.variants[1].differences["plugins.2"] == "ddpo"


def test_a_failing_run_and_a_wrong_variant_are_rows(folder, monkeypatch, capsys):
    monkeypatch.setenv("PLAN", "fail 4")
    assert compare("recipe.yaml", "--vary", "algorithm=draft_k,ddpo", "--seeds", "2") == 1
    record = load_comparison(folder / "out" / "comparison.json")
    draft, ddpo = record.variants
    assert [(run.seed, run.status) for run in draft.runs] == [(3, "finished"), (4, "failed")]
    assert (
        draft.runs[1].reason == "ValueError: a run that fails"
        and "a run that fails" in draft.runs[1].error
    )
    assert len(draft.values[0].seeds) == 1
    assert [run.status for run in ddpo.runs] == ["failed", "failed"] and ddpo.values == []
    lacks = r"algorithm 'ddpo' needs 'log_prob', which sampler 'ddim' \(.*recipe\.yaml:\d+, plugin 'builtin'\) does not"
    assert re.search(lacks, ddpo.runs[0].error)
    assert (
        record.notes[-1]
        == "Runs without a result: draft_k, ddpo. Their values are from the runs that ended."
    )
    shown = capsys.readouterr()
    assert "3 of 4 runs have no result; the report says why." in shown.out and "FAILED" in shown.err

    monkeypatch.delenv("PLAN")
    assert compare("recipe.yaml", "--vary", "algorithm=draft_k", "--seeds", "2") == 0
    assert begun(folder) == ["draft_k 3", "draft_k 4", "draft_k 4"], (
        "what failed is tried again, what ended is not"
    )


def test_nothing_that_can_be_run_is_an_error(folder, capsys):
    assert compare("recipe.yaml", "--vary", "algorithm=ddpo,dpok") == 2
    error = capsys.readouterr().err
    assert "ddpo: " in error and "dpok: " in error and not (folder / "out").exists()


def test_what_all_variants_lack_is_said_once(folder, capsys):
    sets = ["--set", "plugins=[rewardft.testing.tiny, ./gone.py]", "--seeds", "2"]
    assert compare("recipe.yaml", "--vary", "optimizer.lr=1e-2,1e-3", *sets) == 2
    assert capsys.readouterr().err == (
        "error: compare: 1 problem\n  - lr=0.01, lr=0.001: --set plugins=[rewardft.testing.tiny, ./gone.py]: plugin "
        f"'./gone.py': there is no file {folder / 'gone.py'}. Choose one of: events.py.\n"
    )


def test_finished_runs_are_compared_as_they_are(folder):
    for name, rate in (("a", "1e-2"), ("b", "2e-2")):
        assert (
            main(["run", "recipe.yaml", "--set", f"optimizer.lr={rate}", "--out", f"runs/{name}"])
            == 0
        )
    (folder / "begun.txt").unlink()
    assert compare("runs/a", "runs/b") == 0
    record = load_comparison(folder / "out" / "comparison.json")
    assert [(v.name, v.differences) for v in record.variants] == [
        ("a", {"optimizer.lr": 0.01}),
        ("b", {"optimizer.lr": 0.02}),
    ]
    assert all(
        v.values[0].versus_best is not None and v.runs[0].folder == f"../runs/{v.name}"
        for v in record.variants
    )
    assert not (folder / "begun.txt").exists()


def test_a_killed_comparison_goes_on_where_it_was(folder):
    """Killed in its third run of four: the finished two are not repeated, and the tables are those of a quiet one."""
    words = ["recipe.yaml", "--vary", "algorithm=draft_k,draft", "--seeds", "2"]
    assert compare(*words) == 0
    undisturbed = tables(folder)
    (folder / "out").rename(folder / "quiet")
    (folder / "begun.txt").unlink()

    quiet = ["--out", "out", "--pictures", "0", "--jobs", "1"]
    process = processes.start("compare", *words, *quiet, env={"PLAN": "sleep 4"})
    wait_for(lambda: (folder / "begun.txt").exists() and len(begun(folder)) == 2)
    process.kill(signal.SIGKILL, group=True)
    process.wait()
    assert (
        begun(folder) == ["draft_k 3", "draft_k 4"]
        and not (folder / "out" / "comparison.json").exists()
    )

    assert compare(*words) == 0
    assert begun(folder) == ["draft_k 3", "draft_k 4", "draft_k 4", "draft 3", "draft 4"]
    assert tables(folder) == undisturbed


def test_ctrl_c_ends_the_running_one_and_begins_no_other(folder):
    words = ["compare", "recipe.yaml", "--seeds", "2", "--out", "out"]
    process = processes.start(*words, env={"PLAN": "sleep 3"})
    wait_for(lambda: (folder / "begun.txt").exists())
    process.kill(signal.SIGINT, group=True)
    done = process.wait()
    assert done.returncode == 130 and begun(folder) == ["draft_k 3"]
    assert (
        "interrupted; finished runs are kept. Continue with: rewardft compare recipe.yaml --seeds 2 --out out"
        in done.stdout
    )


def test_hook_report_sections(folder, monkeypatch):
    """A plugin whose section fails is named in the report, which is made all the same."""
    monkeypatch.setenv("PLAN", "section")
    assert compare("recipe.yaml", "--set", "train.steps=1") == 0
    (section,) = load_comparison(folder / "out" / "comparison.json").sections
    assert section.title == "Nothing from ./events.py"
    assert section.html.startswith(
        "<p>ValueError: no &lt;section&gt;; raised by plugin &#x27;events&#x27; in hook"
    )


def test_what_a_run_is_known_by(folder):
    """Seeds and folders do not enter it; settings and the code of plugin files do."""

    def digest(*settings):
        (member,) = expand(Request((Variant("v", Path("recipe.yaml"), settings),)), Path("out"))
        return member.folder.name.removeprefix("seed3-")

    first = digest()
    assert digest("seed=3") == first and digest("optimizer.lr=0.01") == first
    assert digest("optimizer.lr=0.02") != first
    (folder / "events.py").write_text(EVENTS + "\n# changed\n")
    assert digest() != first


def test_differences_leave_out_what_all_share(folder):
    variants = (
        Variant("a", Path("recipe.yaml")),
        Variant("b", Path("recipe.yaml"), ("sampler.eta=0.5",)),
    )
    own, common = differences(expand(Request(variants), Path("out")))
    assert own == {"a": {"sampler.eta": 0.0}, "b": {"sampler.eta": 0.5}}
    assert "sampler.eta" not in common and common["sampler.steps"] == 3 and "seed" not in common


def test_the_base_is_evaluated_once_where_all_judge_alike(folder):
    """The second seed finds the first one's evaluation of the base; other settings do not take it."""
    assert compare("recipe.yaml", "--seeds", "2", "--jobs", "1") == 0
    record = load_comparison(folder / "out" / "comparison.json")
    first, second = (folder / "out" / run.folder for run in record.variants[0].runs)
    tables = [
        json.loads((run / "evaluations" / "step-00000000.json").read_text())
        for run in (first, second)
    ]
    assert tables[0] == tables[1]
    told = [json.loads(line) for line in (second / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in told if "evaluation/alarms" in line or "alarms" in line] == [
        2,
        4,
    ], "0 was found"
    assert [point.axes["steps"] for point in record.variants[0].runs[1].evaluations] == [0, 2, 4]
    alone = main(["run", "recipe.yaml", "--set", "seed=4", "--out", "alone"])
    own = json.loads((folder / "alone" / "evaluations" / "step-00000000.json").read_text())
    assert alone == 0 and own == tables[1], "what was found is what it would have made"

    assert compare("recipe.yaml", "--set", "sampler.steps=4") == 0
    record = load_comparison(folder / "out" / "comparison.json")
    other = json.loads(
        (
            folder
            / "out"
            / record.variants[0].runs[0].folder
            / "evaluations"
            / "step-00000000.json"
        ).read_text()
    )
    assert (
        other["settings"]["sampler"]["steps"] == 4
        and other["per_sample"] != tables[0]["per_sample"]
    )


def test_given_weights_are_a_start_of_their_own(folder, capsys):
    """A run that begins with them does not take another one's evaluation of the base for its own."""
    assert main(["run", "recipe.yaml", "--out", "first"]) == 0
    capsys.readouterr()
    init = str(folder / "first" / "adapter")
    assert compare("recipe.yaml", "--vary", f"adapter.init=null,{init}", "--jobs", "1") == 0
    said = capsys.readouterr().out
    record = load_comparison(folder / "out" / "comparison.json")
    plain, given = record.variants
    begun, ended = (
        next(value for value in variant.values if value.name == record.target)
        for variant in (given, plain)
    )
    # The same recipe and seed as the first run's, so it ends where the other one begins.
    assert begun.before.value == ended.after.value != ended.before.value
    note = (
        f"Begun with the weights of adapter.init: {given.name}. Changes from the base are from there; "
        "pictures of the base are of the base model."
    )
    assert note in record.notes and note in said
    assert "variant start tuned difference (95 %)" in " ".join(said.split())


@pytest.mark.parametrize(
    ("trained", "expected"),
    [
        ((("r",),), "r"),
        ((("r",), ("r",)), "r"),
        ((("r",), ("r",), ()), "r"),  # the third learns from pairs
        ((("r",), ("s",)), None),  # each has its own
        ((("s", "r"), ("r",), ("r", "s")), "r"),
        (((), ()), None),
    ],
)
def test_what_a_comparison_is_about(trained, expected):
    def variant(names):
        values = [
            Value(name=f"reward/{n}", role="reward" if n in names else "held_out", samples=1)
            for n in "rs"
        ]
        return VariantRecord(name="v", recipe="r", algorithm="a", runs=[], values=values)

    assert target_of([variant(names) for names in trained]) == (expected and f"reward/{expected}")
