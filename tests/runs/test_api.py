"""The Python API gives what the command line gives, and shows itself in a notebook."""

import json

import pytest
import torch

import rewardft
from rewardft.cli import main
from rewardft.comparisons.api import as_vary
from rewardft.evaluation.evaluate import Paired
from rewardft.runs.api import as_settings
from rewardft.runs.table import Table, paired_table

TINY = """
plugins: [rewardft.testing.tiny]
model: {use: tiny, width: 8}
sampler: {use: ddim, steps: 4}
data: {use: tiny_blobs, size: 8, batch_size: 4}
rewards: [{use: tiny_brightness}]
algorithm: {use: draft_k, train_steps: 1}
adapter: {rank: 2}
optimizer: {lr: 1e-2}
train: {steps: 2, log_every: 1}
evaluate: {samples: 4, rewards: []}
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    path = tmp_path_factory.mktemp("api") / "tiny.yaml"
    path.write_text(TINY)
    return path


@pytest.fixture(scope="module")
def run(recipe):
    return rewardft.run(recipe, recipe.parent / "run", {"train.steps": 3, "evaluate.every": 3})


def test_every_public_name_is_there():
    assert [name for name in rewardft.__all__ if getattr(rewardft, name, None) is None] == []
    with pytest.raises(AttributeError, match=r"^module 'rewardft' has no attribute 'runn'$"):
        rewardft.runn


def test_a_run_from_python_is_that_of_the_command_line(recipe, run):
    out = recipe.parent / "cli"
    settings = ["--set", "train.steps=3", "--set", "evaluate.every=3"]
    assert main(["run", str(recipe), "--out", str(out), *settings]) == 0
    mine, theirs = run.metrics, rewardft.load_run(out).metrics
    assert len(mine) == 3
    for name in ("loss", "reward", "gradient_norm"):
        assert mine.column(name) == theirs.column(name)
    assert rewardft.load_run(out).evaluation == run.evaluation


def test_what_a_run_with_given_weights_is_compared_with_is_called_its_start(recipe, run, capsys):
    given = {"adapter.init": str(run.folder / "adapter"), "evaluate.every": 2}
    out = recipe.parent / "given"
    settings = [word for key, value in given.items() for word in ("--set", f"{key}={value}")]
    assert main(["run", str(recipe), "--out", str(out), *settings]) == 0
    said = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert said[0] == (
        f"start: the weights of {run.folder / 'adapter'} (adapter.init); `rewardft evaluate {out}` "
        "compares with the base"
    )
    assert "value samples start tuned difference (95 %)" in said
    given_run = rewardft.load_run(out)
    assert given_run.evaluation.columns == [
        "value",
        "samples",
        "start",
        "tuned",
        "difference (95 %)",
        "separable",
    ]
    # The start is what the first run ended with, and not what that one began with.
    assert given_run.evaluation.column("start") == run.evaluation.column("tuned")
    assert run.evaluation.column("base") == rewardft.evaluate(out).table.column("base")
    assert main(["evaluate", str(out)]) == 0
    assert "value samples base tuned difference (95 %)" in " ".join(capsys.readouterr().out.split())


def test_a_loaded_run_holds_its_recipe_and_its_trained_model(run):
    loaded = rewardft.load_run(run.folder)
    assert loaded.recipe.train.steps == 3
    tuned = [p.clone() for p in loaded.adapter.parameters]
    assert any(bool(p.any()) for p in tuned)
    state, x = torch.tensor([5.0]), torch.ones(1, 3, 8, 8)
    batch = rewardft.Batch(("a",), (0,), {"label": torch.tensor([1])})
    cond = loaded.model.encode(batch)
    with torch.no_grad():
        after = loaded.model.denoise(x, state, cond)
        with loaded.adapter.disabled():
            before = loaded.model.denoise(x, state, cond)
    assert not torch.equal(before, after)


def test_evaluating_from_python_writes_what_it_returns(run):
    found = rewardft.evaluate(run, samples=4)
    assert json.loads((run.folder / "evaluation.json").read_text())["step"] == found.step == 3
    assert found.table.column("value")[0] == "reward/tiny_brightness"
    assert "reward/tiny_brightness" in found._repr_html_()


def test_samples_show_themselves(run):
    samples = rewardft.sample(run, count=2)
    assert samples._repr_html_().startswith('<img alt="base and tuned samples" src="data:image/png')
    assert [path.name for path in samples.files][:2] == ["base.safetensors", "tuned.safetensors"]


def test_a_comparison_from_python(recipe):
    result = rewardft.compare(
        recipe,
        vary={"optimizer.lr": [0.01, 0.001]},
        overrides={"evaluate.every": 2},
        seeds=2,
        out=recipe.parent / "comparison",
        pictures=0,
    )
    assert result.table.column("variant") == ["lr=0.01", "lr=0.001"]
    assert {path.name for path in result.files} >= {"report.html", "report.md"}
    assert result._repr_html_().startswith("<p><b>reward/tiny_brightness</b></p><table>")


def test_one_override_as_text_is_one_setting_and_a_mapping_is_no_recipe(run, tmp_path):
    assert as_settings("train.steps=4") == ["train.steps=4"]
    assert as_vary("optimizer.lr=1e-3,1e-4") == ["optimizer.lr=1e-3,1e-4"]
    with pytest.raises(rewardft.RecipeError) as error:
        rewardft.run({"plugins": ["toy"]}, tmp_path / "x")
    assert error.value.problems == [
        "recipe: expected a file, or the name of a shipped recipe, got a dict. Write it to a file, or change one by "
        "overrides."
    ]
    with pytest.raises(rewardft.RecipeError, match=r"seeds: expected 1 to 1,000, got '2'\."):
        rewardft.compare("toy_draft", seeds="2", out=tmp_path / "x")
    assert repr(run) == f"FinishedRun('{run.folder}', finished at step 3)"


def test_no_folder_is_taken_for_a_run(tmp_path):
    with pytest.raises(rewardft.CheckpointError) as error:
        rewardft.load_run(tmp_path)
    assert str(error.value) == (
        f"{tmp_path}: not a run folder; expected metrics.jsonl in it, as `rewardft run` writes it"
    )


def test_a_row_says_whether_it_is_separable():
    rows = [Paired("a", 4, 1.0, 2.0, 1.0, 0.5), Paired("b", 4, 1.0, 2.0, 1.0, 1.5)]
    none = float("nan")
    table = paired_table([*rows, Paired("c", 0, none, none, none, float("inf"))])
    assert table.column("separable") == [True, False, None]
    assert table.column("difference (95 %)") == ["+1 ± 0.5", "+1 ± 1.5", ""]
    assert repr(table).splitlines()[-1] == "c      0"


def test_a_table_leaves_gaps_where_a_row_has_no_value():
    table = Table([{"a": 1.23456, "<b>": None}, {"c": "x"}])
    assert table.columns == ["a", "<b>", "c"]
    assert table.column("a") == [1.23456]
    assert table._repr_html_() == (
        "<table><thead><tr><th>a</th><th>&lt;b&gt;</th><th>c</th></tr></thead><tbody>"
        "<tr><td>1.235</td><td></td><td></td></tr><tr><td></td><td></td><td>x</td></tr>"
        "</tbody></table>"
    )
    assert repr(table) == "a      <b>  c\n1.235\n            x" and repr(Table([])) == "Table([])"
    many = repr(Table([{"a": i} for i in range(22)])).splitlines()
    assert many[0] == "a" and many[-2:] == ["19", "and 2 more rows"]
    with pytest.raises(KeyError, match="there is no column 'd'"):
        table.column("d")


def test_a_line_that_a_kill_cut_short_is_left_out(run, tmp_path):
    (tmp_path / "metrics.jsonl").write_bytes(
        (run.folder / "metrics.jsonl").read_bytes() + b'{"step": 4, "lo'
    )
    assert len(rewardft.load_run(tmp_path).metrics) == len(run.metrics) == 3
