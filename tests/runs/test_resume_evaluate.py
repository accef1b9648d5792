"""Interrupted, killed, resumed, evaluated: what the run folder says is what happened, and what is loaded is the newest."""

import json
import logging
import math
import os
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rewardft.cli import main
from rewardft.errors import CheckpointError
from rewardft.evaluation.evaluate import Evaluation, compare
from rewardft.recipe.recipe import load_recipe
from rewardft.runs.open import evaluate_run, load_trained, open_run
from rewardft.testing import run_recipe
from tests import processes

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
train: {steps: 6, log_every: 1}
evaluate: {every: 2, samples: 4}
save: {every: 2, keep: 9}
"""
EVENTS = '''
"""Sends the signal that PLAN names ("SIGKILL on_checkpoint_saved 4") to its own process; notes evaluations."""
import os
import signal
from pathlib import Path

from rewardft import hookimpl

HERE = Path(__file__).parent


def meet(hook, step):
    plan = os.environ.get("PLAN", "").split()
    if plan[1:] == [hook, str(step)]:
        os.kill(os.getpid(), signal.Signals[plan[0]])


@hookimpl
def on_step_end(step):
    meet("on_step_end", step)


@hookimpl
def on_checkpoint_saved(step):
    meet("on_checkpoint_saved", step)


@hookimpl(tryfirst=True)
def on_evaluation_end(run, step):
    meet("on_evaluation_end", step)
    with (HERE / f"{run.folder.name}.told").open("a") as file:
        file.write(f"{step}\\n")


def dark(rollout, batch, *, shift: float = 0.0):
    value = shift - rollout.decoded.flatten(1).mean(1)
    value[batch["label"] == 0] = float("nan")
    return value


class Peak:
    def reset(self):
        self.values = []

    def update(self, rollout, batch):
        self.values += rollout.decoded.flatten(1).amax(1).tolist()

    def compute(self):
        import torch

        return {"each": torch.tensor(self.values)}


@hookimpl
def register_rewards():
    return {"dark": dark}


@hookimpl
def register_metrics():
    return {"peak": Peak}
'''


@pytest.fixture
def recipe(tmp_path):
    (tmp_path / "events.py").write_text(EVENTS)
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    return path


def run_with(plan, recipe, out, *overrides, resume=False):
    """A run in a forked child that sends itself a signal as `plan` says; returns what became of the child."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    os.environ["PLAN"] = plan
    code = 1
    try:
        run_recipe(recipe, out, *overrides, resume=resume)
        code = 0
    finally:
        os._exit(code)


def lines(out):
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def evaluated(out):
    """Steps with an evaluation line, as often as they have one."""
    return [record["step"] for record in lines(out) if "gradient_norm" not in record]


def steps(out):
    return [record["step"] for record in lines(out) if "gradient_norm" in record]


def weights(folder):
    return load_file(folder / "adapter_model.safetensors")


def table(out, step):
    return json.loads((out / "evaluations" / f"step-{step:08d}.json").read_text())


# -- what is loaded --------------------------------------------------------------------------------------------------


@pytest.fixture
def killed_after_resume(recipe, tmp_path):
    """Ctrl-C at step 3, resumed, killed at step 5: its newest weights are the checkpoint of step 4."""
    out = tmp_path / "run"
    assert run_with("SIGINT on_step_end 3", recipe, out) == 0
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["status"], summary["step"]) == ("interrupted", 3)
    assert run_with("SIGKILL on_step_end 5", recipe, out, resume=True) == signal.SIGKILL
    return out


def test_evaluate_loads_the_newest_weights_and_says_their_step(killed_after_resume):
    out = killed_after_resume
    session = open_run(out)
    assert load_trained(session, out) == 4
    expected = weights(out / "checkpoints" / "step-00000004")
    assert all(
        torch.equal(value, expected[name]) for name, value in session.adapter.state_dict().items()
    )
    assert evaluate_run(out).step == 4
    assert json.loads((out / "evaluation.json").read_text())["step"] == 4


def test_a_resumed_run_no_longer_says_how_it_ended(killed_after_resume):
    assert {p.name for p in killed_after_resume.iterdir()} == {
        "recipe.yaml",
        "manifest.json",
        "metrics.jsonl",
        "audit.json",
        "evaluations",
        "checkpoints",
    }


def test_an_adapter_older_than_a_checkpoint_is_not_loaded(recipe, tmp_path):
    out = run_recipe(recipe, tmp_path / "run").folder
    assert load_trained(open_run(out), out) == 6
    (out / "adapter" / "step.json").write_text('{"step": 3}')
    (out / "adapter" / "adapter_model.safetensors").write_bytes(b"stale")
    assert load_trained(open_run(out), out) == 6
    (out / "adapter" / "step.json").unlink()
    (out / "checkpoints").rename(out / "elsewhere")
    with pytest.raises(CheckpointError) as error:
        load_trained(open_run(out), out)
    assert str(error.value) == (
        f"{out}: nothing trained is saved in it (no checkpoints/, and no adapter/ with a step.json)"
    )


def test_the_adapter_alone_is_enough_and_knows_its_step(recipe, tmp_path):
    out = run_recipe(recipe, tmp_path / "run").folder
    (out / "checkpoints").rename(tmp_path / "elsewhere")
    assert evaluate_run(out).step == 6


# -- killed, and resumed ---------------------------------------------------------------------------------------------


def test_a_run_killed_before_its_first_checkpoint_starts_over_and_says_so(recipe, tmp_path, caplog):
    out = tmp_path / "run"
    assert run_with("SIGKILL on_step_end 5", recipe, out, "save.every=0") == signal.SIGKILL
    assert steps(out) == [1, 2, 3, 4, 5]
    with caplog.at_level(logging.WARNING):
        run_recipe(recipe, out, "save.every=0", resume=True)
    assert caplog.messages == [f"{out}: no checkpoint was saved; starting from step 0"]
    assert steps(out) == [1, 2, 3, 4, 5, 6] and evaluated(out) == [0, 2, 4, 6]


@pytest.mark.parametrize(
    "plan",
    [
        "SIGKILL on_step_end 5",  # the evaluation of step 4 is after the checkpoint of step 3
        "SIGKILL on_evaluation_end 4",  # its file is written, its line is not
        "SIGTERM on_step_end 4",
    ],
)
@pytest.mark.parametrize("every", [2, 3])
def test_every_evaluation_is_told_once_however_the_run_ended(recipe, tmp_path, plan, every):
    sets = [f"save.every={every}"]
    out, whole = tmp_path / "run", run_recipe(recipe, tmp_path / "whole", *sets)
    assert run_with(plan, recipe, out, *sets) in (0, signal.SIGKILL)
    resumed = run_recipe(recipe, out, *sets, resume=True)
    assert steps(out) == [1, 2, 3, 4, 5, 6] and evaluated(out) == [0, 2, 4, 6]
    for step in (0, 2, 4, 6):
        assert table(out, step) == table(whole.folder, step)
    assert resumed.summary["evaluation"] == whole.summary["evaluation"]
    told = (tmp_path / "run.told").read_text().split()
    assert set(told) == {"0", "2", "4", "6"}, "observers hear of every evaluation"


def test_a_kill_between_the_checkpoint_and_the_evaluation_of_a_step(recipe, tmp_path):
    out = tmp_path / "run"
    assert run_with("SIGKILL on_checkpoint_saved 4", recipe, out) == signal.SIGKILL
    assert evaluated(out) == [0, 2]
    run_recipe(recipe, out, resume=True)
    assert evaluated(out) == [0, 2, 4, 6] and (tmp_path / "run.told").read_text().split() == [
        "0",
        "2",
        "4",
        "6",
    ]


def test_a_signal_does_not_wait_for_an_evaluation(recipe, tmp_path):
    out = tmp_path / "run"
    assert run_with("SIGTERM on_step_end 4", recipe, out) == 0
    assert json.loads((out / "summary.json").read_text())["step"] == 4
    assert evaluated(out) == [0, 2] and not (out / "evaluations" / "step-00000004.json").exists()


# -- resumed with other settings -------------------------------------------------------------------------------------

OTHER = {
    "seed": ["evaluate.seed=7"],
    "samples": ["evaluate.samples=6"],
    "data": ["evaluate.data={split: val}"],
    "rewards": ["evaluate.rewards=[{use: dark, shift: 1.0}]"],
    "metrics": ["evaluate.metrics=[{use: peak}]"],
}


@pytest.mark.parametrize("name", OTHER)
def test_unlike_evaluations_are_never_compared(recipe, tmp_path, name):
    """The base is evaluated again with the new settings: the table is that of a run which had them all along."""
    whole = run_recipe(recipe, tmp_path / "whole", *OTHER[name])
    out = tmp_path / "run"
    assert run_with("SIGINT on_step_end 3", recipe, out) == 0
    resumed = run_recipe(recipe, out, *OTHER[name], resume=True)
    assert (
        repr(resumed.summary["evaluation"]) == repr(whole.summary["evaluation"])
        and resumed.summary["evaluation"]
    )
    assert table(out, 0) == table(whole.folder, 0) and resumed.summary["not_compared"] is None


def test_evaluation_can_be_turned_on_when_a_run_is_resumed(recipe, tmp_path):
    whole = run_recipe(recipe, tmp_path / "whole")
    out = tmp_path / "run"
    assert run_with("SIGINT on_step_end 3", recipe, out, "evaluate.every=0") == 0
    assert (
        run_recipe(recipe, out, resume=True).summary["evaluation"]
        == whole.summary["evaluation"]
        != []
    )


def test_full_fine_tuning_keeps_no_base_so_the_table_is_left_out_with_the_reason(
    recipe, tmp_path, capsys
):
    out = tmp_path / "run"
    full = ["adapter={kind: full}", "optimizer.lr=1e-3"]
    assert run_with("SIGINT on_step_end 3", recipe, out, *full) == 0
    sets = [word for text in [*full, "evaluate.seed=7"] for word in ("--set", text)]
    assert main(["run", str(recipe), "--out", str(out), "--resume", *sets]) == 0
    reason = (
        "the base model was not evaluated with these settings before the run was resumed, and full fine-tuning keeps no "
        "copy of it. `rewardft evaluate` loads both."
    )
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["evaluation"], summary["not_compared"]) == ([], reason)
    assert f"no comparison with the base model: {reason}\n" in capsys.readouterr().out
    assert evaluate_run(out, overrides=["evaluate.seed=7"]).rows != []


def test_compare_refuses_unlike_evaluations_and_keeps_every_name():
    one = Evaluation(
        ["a", "b"], [], {"x": [1.0, 2.0], "gone": [1.0, 1.0]}, settings={"seed": 1, "samples": 2}
    )
    two = Evaluation(
        ["a", "b"], [], {"x": [2.0, 3.5], "new": [0.0, 0.0]}, settings={"seed": 2, "samples": 2}
    )
    with pytest.raises(CheckpointError) as error:
        compare(one, two)
    assert str(error.value) == (
        "the two evaluations differ in their seed, so they cannot be compared in pairs. Evaluate the run again with "
        "`rewardft evaluate`."
    )
    two.settings = one.settings
    assert [(row.name, row.count, row.separable) for row in compare(one, two)] == [
        ("x", 2, True),
        ("gone", 0, False),
        ("new", 0, False),
    ]


def test_the_recipe_in_the_folder_is_the_one_that_goes_on(recipe, tmp_path):
    out = run_recipe(recipe, tmp_path / "run").folder
    first = (out / "recipe.yaml").read_text()
    run_recipe(recipe, out, resume=True)
    assert not list(out.glob("recipe.before*")), "nothing has changed"
    run_recipe(recipe, out, "train.steps=9", resume=True)
    assert load_recipe(out / "recipe.yaml").train.steps == 9
    assert (out / "recipe.before-step-00000006.yaml").read_text() == first
    for seed in (5, 6):
        run_recipe(recipe, out, "train.steps=9", f"evaluate.seed={seed}", resume=True)
    assert sorted(p.name for p in out.glob("recipe*")) == [
        "recipe.before-step-00000006.yaml",
        "recipe.before-step-00000009-2.yaml",
        "recipe.before-step-00000009.yaml",
        "recipe.yaml",
    ]
    assert load_recipe(out / "recipe.before-step-00000009-2.yaml").evaluate.seed == 5


# -- plugins that were edited ----------------------------------------------------------------------------------------


def test_an_edited_plugin_is_not_resumed_unless_asked_for(recipe, tmp_path, caplog):
    out, plugin = run_recipe(recipe, tmp_path / "run").folder, tmp_path / "events.py"
    plugin.write_text(EVENTS + "\n# edited\n")
    before = [(p, p.stat().st_mtime_ns) for p in sorted(out.rglob("*"))]
    with pytest.raises(CheckpointError) as error:
        run_recipe(recipe, out, "train.steps=8", resume=True)
    text = f"edited since the checkpoint was saved: {plugin}"
    assert str(error.value) == (
        f"{text}. Resuming would not continue the same run. Restore the code, or continue with the new one by "
        "--resume --allow-changed-plugins."
    )
    assert before == [(p, p.stat().st_mtime_ns) for p in sorted(out.rglob("*"))], (
        "nothing was touched"
    )
    with caplog.at_level(logging.WARNING):
        resumed = run_recipe(recipe, out, "train.steps=8", resume=True, allow_changed_plugins=True)
    assert (
        caplog.messages == [f"{text}; going on with the new code"] and resumed.summary["step"] == 8
    )
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["resumed"] == [{"step": 6, "changed_plugins": [str(plugin)]}]
    digests = {p["name"]: p["sha256"] for p in manifest["plugins"]}
    state = json.loads((out / "checkpoints" / "step-00000008" / "state.json").read_text())
    assert state["plugin_files"] == {str(plugin): digests["events"]} and digests["builtin"] is None
    caplog.clear()
    run_recipe(recipe, out, "train.steps=9", resume=True)
    assert caplog.messages == []
    manifest = json.loads((out / "manifest.json").read_text())
    assert [r["step"] for r in manifest["resumed"]] == [6, 8]


def test_a_file_of_a_folder_plugin_counts_too(recipe, tmp_path):
    folder = tmp_path / "parts"
    folder.mkdir()
    (folder / "__init__.py").write_text(
        "from rewardft import hookimpl\nfrom . import inner\n\n@hookimpl\ndef stop_run():\n    return None\n"
    )
    (folder / "inner.py").write_text("VALUE = 1\n")
    sets = [
        f"plugins=[rewardft.testing.tiny, {tmp_path / 'events.py'}, {folder}]",
        "evaluate.every=0",
    ]
    out = run_recipe(recipe, tmp_path / "run", *sets).folder
    (folder / "inner.py").write_text("VALUE = 2\n")
    with pytest.raises(
        CheckpointError, match=r"edited since the checkpoint was saved: .*parts/__init__\.py\. "
    ):
        run_recipe(recipe, out, *sets, resume=True)


# -- the command line, and what is written ---------------------------------------------------------------------------


def test_a_second_interrupt_says_how_to_resume(recipe, tmp_path):
    """The first waits for the end of the step; a reward that never ends is left by the second."""
    (tmp_path / "slow.py").write_text(
        "import os, signal\nfrom rewardft import hookimpl\n\n"
        "def slow(rollout, batch):\n"
        "    for _ in range(2):\n        os.kill(os.getpid(), signal.SIGINT)\n"
        "    raise AssertionError('the second signal ends the run')\n\n"
        "@hookimpl\ndef register_rewards():\n    return {'slow': slow}\n"
    )
    sets = ["--set", "plugins=[rewardft.testing.tiny, ./slow.py]", "--set", "rewards=[{use: slow}]"]
    sets += ["--set", "evaluate.every=0"]
    done = processes.run("run", recipe, "--out", "out", *sets, cwd=tmp_path)
    assert done.returncode == 130
    assert done.stdout == (
        "interrupted at once; no checkpoint was saved yet: out\n"
        f"continue with: rewardft run {recipe} --set 'plugins=[rewardft.testing.tiny, ./slow.py]' "
        "--set 'rewards=[{use: slow}]' --set evaluate.every=0 --out out --resume\n"
    )
    assert (tmp_path / "out" / "error.txt").read_text().startswith("step 0\n")


def strict(path):
    """Every JSON document in a file; a bare NaN or Infinity is an error."""

    def refuse(word):
        raise AssertionError(f"{path}: {word}")

    texts = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
    return [json.loads(text, parse_constant=refuse) for text in texts]


def test_files_hold_null_where_a_value_does_not_apply_and_readers_give_nan(recipe, tmp_path):
    """`dark` applies to no sample of class 0; batches of one then have steps to which it does not apply at all."""
    rewards = "rewards=[{use: tiny_brightness}, {use: dark}]"
    run = run_recipe(recipe, tmp_path / "run", rewards, "data.batch_size=1", "evaluate.samples=1")
    evaluate_run(run.folder, 1)
    files = list(run.folder.rglob("*.json*"))
    assert {"metrics.jsonl", "summary.json", "evaluation.json", "step-00000006.json"} <= {
        p.name for p in files
    }
    documents = {p.name: strict(p) for p in files}
    written = [
        record["reward/dark"] for record in documents["metrics.jsonl"] if "gradient_norm" in record
    ]
    read = run.column("reward/dark")
    assert None in written and any(value is not None for value in written)
    assert [v is None for v in written] == [math.isnan(v) for v in read]
    assert documents["step-00000006.json"][0]["per_sample"]["reward/dark"] == [None]
    loaded = Evaluation.from_json(table(run.folder, 6))
    assert (
        math.isnan(loaded.per_sample["reward/dark"][0])
        and loaded.ids == table(run.folder, 6)["ids"]
    )
    row = next(r for r in documents["summary.json"][0]["evaluation"] if r["name"] == "reward/dark")
    assert (row["count"], row["before"], row["half_width"]) == (0, None, None)


def test_evaluate_says_when_there_are_fewer_samples_than_asked_for(recipe, tmp_path, capsys):
    out = run_recipe(recipe, tmp_path / "run", "evaluate.every=0").folder
    assert main(["evaluate", str(out), "--samples", "4000"]) == 0
    assert "requested 4000 held-out samples, only 10 available\n" in capsys.readouterr().out
    assert main(["evaluate", str(out), "--samples", "10"]) == 0
    assert "requested" not in capsys.readouterr().out
    assert Path(out / "evaluation.json").is_file()


def test_an_evaluation_with_edited_code_says_so(recipe, tmp_path, capsys):
    out = run_recipe(recipe, tmp_path / "run").folder
    assert evaluate_run(out).changed_plugins == []
    path = tmp_path / "events.py"
    path.write_text(path.read_text() + "\n# edited\n")
    assert main(["evaluate", str(out)]) == 0
    assert (
        f"edited since the run: {path}; the values are those of the new code"
        in capsys.readouterr().out
    )
