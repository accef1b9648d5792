"""Settings that must not matter give the same run: per-step metrics and final weights are compared."""

import functools
import json
import random
import signal
import textwrap

import pytest
from safetensors.torch import load_file

from rewardft.errors import CheckpointError, RewardError
from rewardft.testing import check_resume, check_same_run, run_recipe
from rewardft.testing.recipes import read_steps
from rewardft.testing.runs import ROUNDING
from tests import processes
from tests.processes import wait_for

RECIPE = """
plugins: [rewardft.testing.tiny]
seed: 3
model: {use: tiny, prediction: v_prediction, guidance: 2.0, width: 12}
sampler: {use: ddim, steps: 5, eta: 0.3}
data: {use: tiny_blobs, size: 10, batch_size: 4}
rewards: [{use: tiny_brightness}]
regularizers: [{use: kl, weight: 0.05}]
algorithm: {use: drtune, train_steps: 2, early_stop: 2}
adapter: {kind: lora, rank: 3}
optimizer: {use: adamw, lr: 5e-2, eps: 0.1, schedule: cosine, warmup: 2}
train: {steps: 6, log_every: 2}
save: {every: 2, keep: 9}
"""
ALGORITHMS = {
    "drtune": [],
    "draft": ["algorithm={use: draft}"],
    "draft_lv": ["algorithm={use: draft_lv}"],
}
COLUMNS = ("loss", "reward", "penalty/kl", "gradient_norm")


def assert_same_run(one, other, exact=False):
    """To the bit, or to float32 rounding."""
    assert all(len(one.column(name)) == len(one.steps) > 0 for name in COLUMNS)
    check_same_run(one, other, 0.0 if exact else ROUNDING, COLUMNS)


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """The run of an algorithm with the recipe's own settings, made once: `reference(name)`."""
    folder = tmp_path_factory.mktemp("reference")
    (folder / "recipe.yaml").write_text(RECIPE)
    return functools.cache(
        lambda name: run_recipe(folder / "recipe.yaml", folder / name, *ALGORITHMS[name])
    )


@pytest.mark.parametrize("name", ALGORITHMS)
def test_runs_are_deterministic(recipe, reference, tmp_path, name):
    one, two = reference(name), run_recipe(recipe, tmp_path / "two", *ALGORITHMS[name])
    assert_same_run(one, two, exact=True)
    assert one.column("loss")[0] != one.column("loss")[-1]


@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize(
    "overrides",
    [
        ["data.batch_size=1", "train.accumulate=4"],
        ["data.batch_size=2", "train.accumulate=2"],
        ["train.micro_batch=1"],
        ["train.micro_batch=3"],
        ["train.checkpointing=true"],
    ],
    ids=" ".join,
)
def test_how_a_step_is_cut_up_does_not_matter(recipe, reference, tmp_path, name, overrides):
    other = run_recipe(recipe, tmp_path / "other", *ALGORITHMS[name], *overrides)
    assert_same_run(reference(name), other)


@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize("stop", [2, 4])
def test_resuming_continues_to_the_same_bits(recipe, tmp_path, name, stop):
    counts = ("denoiser_forward_samples", "denoiser_backward_samples", "reward_evaluations")
    columns = (*COLUMNS, *counts)
    whole = check_resume(recipe, tmp_path, *ALGORITHMS[name], stop=stop, columns=columns)
    assert [s["step"] for s in whole.steps] == [1, 2, 3, 4, 5, 6]
    assert all(whole.column(count)[-1] == whole.summary[count] > 0 for count in counts)


def test_resume_with_full_fine_tuning_is_exact_too(recipe, tmp_path):
    check_resume(recipe, tmp_path, "adapter={kind: full}", "optimizer.lr=1e-3", stop=2)


def test_the_order_of_plugins_does_not_matter(recipe, tmp_path):
    for name in "abc":
        (tmp_path / f"{name}.py").write_text(
            "from rewardft import hookimpl\n\n\n@hookimpl\ndef on_step_end(step, metrics):\n    assert metrics['loss'] < 9\n"
        )
    names = ["rewardft.testing.tiny", *(f"{tmp_path}/{name}.py" for name in "abc")]
    runs = []
    for i in range(3):
        random.Random(i).shuffle(names)
        runs.append(run_recipe(recipe, tmp_path / f"run{i}", f"plugins=[{', '.join(names)}]"))
    assert_same_run(runs[0], runs[1], exact=True)
    assert_same_run(runs[0], runs[2], exact=True)


def test_the_adapter_at_initialisation_is_the_base_model(recipe, tmp_path):
    """Evaluation at step 0 with the adapter in place equals the evaluation without any adapter."""
    from rewardft.runs.open import open_run, run_evaluation

    run_recipe(recipe, tmp_path / "run", "train.steps=1", "evaluate.every=1", "evaluate.samples=6")
    session = open_run(tmp_path / "run")
    attached = run_evaluation(session, 6)
    with session.adapter.disabled():
        base = run_evaluation(session, 6)
    assert attached.per_sample == base.per_sample
    step0 = json.loads((tmp_path / "run" / "evaluations" / "step-00000000.json").read_text())
    assert step0["per_sample"] == base.per_sample


def test_saved_and_loaded_weights_give_the_same_samples(recipe, tmp_path):
    from rewardft.runs.open import load_trained, open_run, run_evaluation

    run_recipe(recipe, tmp_path / "run", "evaluate.every=3", "evaluate.samples=6")
    session = open_run(tmp_path / "run")
    load_trained(session, tmp_path / "run")
    final = json.loads((tmp_path / "run" / "evaluations" / "step-00000006.json").read_text())
    assert run_evaluation(session, 6).per_sample == final["per_sample"]


def test_evaluation_does_not_change_training(recipe, tmp_path):
    plain = run_recipe(recipe, tmp_path / "plain")
    watched = run_recipe(
        recipe, tmp_path / "watched", "evaluate.every=1", "evaluate.samples=5", "train.log_every=1"
    )
    assert_same_run(plain, watched, exact=True)


def test_evaluation_does_not_depend_on_its_batch_size(recipe, tmp_path):
    runs = [
        run_recipe(
            recipe,
            tmp_path / str(size),
            "train.steps=1",
            "evaluate.every=1",
            f"evaluate.batch_size={size}",
        )
        for size in (1, 4)
    ]
    one, four = (
        json.loads((r.folder / "evaluations" / "step-00000001.json").read_text()) for r in runs
    )
    assert one["ids"] == four["ids"]
    assert one["per_sample"]["reward/tiny_brightness"] == pytest.approx(
        four["per_sample"]["reward/tiny_brightness"], abs=1e-6
    )


def test_bf16_is_close_to_float32(recipe, tmp_path):
    exact, half = (
        run_recipe(recipe, tmp_path / "a"),
        run_recipe(recipe, tmp_path / "b", "train.precision=bf16"),
    )
    assert half.column("reward") == pytest.approx(exact.column("reward"), abs=0.02)
    assert half.column("reward") != exact.column("reward")


def test_an_existing_run_is_not_overwritten_and_other_settings_are_not_resumed(recipe, tmp_path):
    out = tmp_path / "run"
    run_recipe(recipe, out, "train.steps=2")
    with pytest.raises(CheckpointError) as error:
        run_recipe(recipe, out, "train.steps=2")
    assert str(error.value) == (
        f"{out} already holds a finished run. Continue it with --resume and a larger train.steps or train.budget, or give "
        f"another folder with --out."
    )
    with pytest.raises(CheckpointError) as error:
        run_recipe(recipe, out, "optimizer.lr=1e-4", resume=True)
    assert str(error.value) == (
        f"{out}: this run was started with other settings, so resuming would not continue it\n"
        f"  - optimizer.lr: 0.05 in the run, 0.0001 in the recipe\n"
        f"Restore them, or start a new run with another --out."
    )
    with pytest.raises(CheckpointError) as error:
        run_recipe(recipe, tmp_path / "nothing", resume=True)
    assert str(error.value) == (
        f"{tmp_path / 'nothing'}: nothing to resume; there is no recipe.yaml in it. Leave --resume out."
    )


def test_a_failing_reward_stops_the_run_with_ids_and_a_dump(recipe, tmp_path):
    (tmp_path / "bad.py").write_text(
        textwrap.dedent(
            """
            from rewardft import hookimpl

            calls = 0

            def Explodes(rollout, batch):
                global calls
                calls += 1
                value = rollout.x0.flatten(1).mean(1)
                return value / 0 if calls == 3 else value

            @hookimpl
            def register_rewards():
                return {"Explodes": Explodes}
            """
        )
    )
    out = tmp_path / "run"
    bad = [f"plugins=[rewardft.testing.tiny, {tmp_path}/bad.py]", "rewards=[{use: explodes}]"]
    with pytest.raises(RewardError) as error:
        run_recipe(recipe, out, *bad)
    (dump,) = (out / "failures").iterdir()
    facts = json.loads((dump / "facts.json").read_text())
    ids = ", ".join(facts["ids"])
    assert f"returned inf for the samples {ids}" in str(error.value)
    assert (
        error.value.__notes__[0]
        == f"reward 'explodes' failed at step 2 on the samples {ids}; dumped to {dump}"
    )
    assert load_file(dump / "samples.safetensors")["x0"].shape == (4, 3, 8, 8)
    assert (out / "error.txt").read_text().startswith("step 2\n") and not (
        out / "summary.json"
    ).exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_saves_and_the_run_resumes_to_the_same_result(recipe, tmp_path, number):
    """Through the command line: interrupt, resume, compare with an uninterrupted run."""
    steps = [
        "train.steps=40000",
        "train.log_every=1",
        "save.every=0",
        "optimizer.schedule=constant",
    ]
    sets = [part for s in steps for part in ("--set", s)]
    out = tmp_path / "run"
    process = processes.start("run", recipe, "--out", out, *sets)
    wait_for(lambda: (out / "metrics.jsonl").exists() and len(read_steps(out)) >= 5)
    process.kill(number)
    done = process.wait()
    assert done.returncode == 130
    assert "--resume" in done.stdout and f"interrupted by {number.name}" in done.stdout
    step = json.loads((out / "summary.json").read_text())["step"]
    assert 5 <= step < 40000
    assert [p.name for p in (out / "checkpoints").iterdir()] == [f"step-{step:08d}"]
    finish = [f"train.steps={step + 3}", *steps[1:]]
    resumed = run_recipe(recipe, out, *finish, resume=True)
    whole = run_recipe(recipe, tmp_path / "whole", *finish)
    assert_same_run(whole, resumed, exact=True)


def test_a_run_that_could_not_be_built_does_not_block_its_folder(recipe, tmp_path):
    from rewardft.errors import ComponentError

    out = tmp_path / "run"
    with pytest.raises(ComponentError, match=r"^adapter\.targets: no linear"):
        run_recipe(recipe, out, "adapter.targets=[nowhere]")
    assert run_recipe(recipe, out, "train.steps=1").summary["status"] == "finished"


def test_a_resumed_run_is_compared_with_the_base_model_it_started_from(recipe, tmp_path):
    evaluated = ["evaluate.every=2", "evaluate.samples=4", "train.log_every=1"]
    whole = run_recipe(recipe, tmp_path / "whole", *evaluated)
    run_recipe(
        recipe,
        tmp_path / "run",
        *evaluated,
        "train.steps=4",
        "optimizer.schedule=constant",
        "optimizer.warmup=0",
    )
    resumed = run_recipe(
        recipe,
        tmp_path / "run",
        *evaluated,
        "optimizer.schedule=constant",
        "optimizer.warmup=0",
        resume=True,
    )
    row, expected = resumed.summary["evaluation"][0], whole.summary["evaluation"][0]
    assert row["before"] == expected["before"] and row["after"] != row["before"]
