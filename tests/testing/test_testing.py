"""The pytest plugin of rewardft, as a plugin author's tests see it: in a pytest of their own."""

from pathlib import Path

import pytest

import rewardft.testing
from rewardft.testing import run_recipe as run_directly
from tests.documents import files_in

pytest_plugins = ["pytester"]

RECIPE = """
plugins: [rewardft.testing.tiny]
model: {use: tiny, prediction: v_prediction, width: 12}
sampler: {use: ddim, steps: 4}
data: {use: tiny_blobs, batch_size: 2}
rewards: [{use: tiny_brightness}]
algorithm: {use: draft_k}
optimizer: {use: adamw, lr: 1e-3}
train: {steps: 3}
"""

BROKEN = """
import torch
from rewardft import hookimpl


def broken(rollout, batch):
    raise ValueError("the lights went out")


def endless(rollout, batch):
    return rollout.x0.flatten(1).sum(1) / 0


@hookimpl
def register_rewards():
    return {"broken": broken, "endless": endless}
"""

RUNS = f'''
from pathlib import Path

import pytest
from rewardft import RewardftError
from rewardft.errors import RecipeError
from rewardft.testing import RecipeRunner

TEXT = """{RECIPE}"""


def test_text_path_and_result(run_recipe: RecipeRunner, tmp_path):
    text = run_recipe(TEXT, "train.steps=2")
    beside = run_recipe("mine.yaml", "train.steps=2")
    absolute = run_recipe(Path(__file__).parent / "mine.yaml", "train.steps=2", out="third")
    assert [run.folder for run in (text, beside, absolute)] == [tmp_path / n for n in ("run", "run2", "third")]
    assert text.column("reward") == beside.column("reward") == absolute.column("reward")
    Path("seen.txt").write_text(repr(text.column("reward")))


def test_text_may_be_indented(run_recipe):
    run = run_recipe("""
        plugins: [rewardft.testing.tiny]
        model: {{use: tiny, prediction: v_prediction, width: 12}}
        sampler: {{use: ddim, steps: 4}}
        data: {{use: tiny_blobs, batch_size: 2}}
        rewards: [{{use: tiny_brightness}}]
        algorithm: {{use: draft_k}}
        optimizer: {{use: adamw, lr: 1e-3}}
        train: {{steps: 1}}
    """)
    assert run.summary["status"] == "finished" and len(run.steps) == 1


def test_resume(run_recipe):
    whole = run_recipe(TEXT)
    run_recipe(TEXT, "train.steps=2", "optimizer.schedule=constant", out="halves")
    halves = run_recipe(TEXT, out="halves", resume=True)
    assert len(whole.steps) == 3 and whole.column("reward") == halves.column("reward")


def test_errors_can_be_expected(run_recipe):
    with pytest.raises(RecipeError, match="run.yaml:5: data set 'tiny_blobs' has no option 'batch_sise'. Did you mean 'batch_size'"):
        run_recipe(TEXT.replace("batch_size", "batch_sise"))
    with pytest.raises(RewardftError, match="there is no such file. Did you mean 'mine.yaml'"):
        run_recipe("mini.yaml")
'''

FAILURES = f'''
TEXT = """{RECIPE}"""


def test_typing_error(run_recipe):
    run_recipe(TEXT, "train.stepps=2")


def test_no_number(run_recipe):
    run_recipe("broken.yaml", "rewards=[{{use: endless}}]")


def test_reward_that_raises(run_recipe):
    run_recipe("broken.yaml", "rewards=[{{use: broken}}]")
'''


@pytest.fixture
def run_pytest(pytester, monkeypatch):
    """Run pytest in `pytester.path`, which has no configuration: the plugin comes by its entry point alone.

    In a process of its own only where that is the point: it would import torch once more.
    """
    for name in ("PYTEST_ADDOPTS", "PYTEST_PLUGINS", "PYTEST_DISABLE_PLUGIN_AUTOLOAD"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments, fresh=False):
        words = ["-p", "no:cacheprovider", *arguments]
        if fresh:
            return pytester.runpytest_subprocess(*words, timeout=600)
        return pytester.runpytest_inprocess(*words)

    return run


def test_recipes_run_as_text_and_as_files_beside_the_test(pytester, run_pytest, tmp_path):
    inner = pytester.mkdir("inner")  # pytest starts in the folder above
    (inner / "test_runs.py").write_text(RUNS)
    (inner / "mine.yaml").write_text(RECIPE)
    run_pytest("inner").assert_outcomes(passed=4)
    direct = run_directly(inner / "mine.yaml", tmp_path / "direct", "train.steps=2")
    assert (pytester.path / "seen.txt").read_text() == repr(direct.column("reward"))


def test_a_failing_run_ends_at_the_line_of_the_test_with_the_whole_message(pytester, run_pytest):
    pytester.makepyfile(test_failures=FAILURES)
    (pytester.path / "broken.py").write_text(BROKEN)
    text = RECIPE.replace("[rewardft.testing.tiny]", "[rewardft.testing.tiny, ./broken.py]")
    (pytester.path / "broken.yaml").write_text(text)
    result = run_pytest("test_failures.py", "--color=no")
    result.assert_outcomes(failed=3)
    output = result.stdout.str()
    typing, endless, raising = (
        section(output, name) for name in ("typing_error", "no_number", "reward_that_raises")
    )
    assert '>       run_recipe(TEXT, "train.stepps=2")' in typing
    assert "  - --set train.stepps=2: train has no key 'stepps'. Did you mean 'steps'?" in typing
    assert (
        "E       rewardft.errors.RewardError: reward 'endless' returned inf for the samples "
        in endless
    )
    assert '>       raise ValueError("the lights went out")' in raising, (
        "what is no error of rewardft's is shown whole"
    )
    assert "E       reward 'broken' failed at step 0 on the samples " in raising
    package = str(Path(rewardft.testing.__file__).parent.parent)
    assert package not in typing + endless, "no line of rewardft is shown"


def section(output, name):
    """What pytest printed under one failing test."""
    return output.partition(f"_ test_{name} _")[2].partition("\n______")[0].partition("\n======")[0]


def test_pytest_starts_without_torch_and_without_the_plugin_if_asked(pytester, run_pytest):
    pytester.makepyfile(
        """
        import sys

        def test_nothing_heavy_is_loaded(run_recipe):
            assert "rewardft.testing.pytest_plugin" in sys.modules
            assert [name for name in ("torch", "numpy", "diffusers") if name in sys.modules] == []
        """
    )
    run_pytest(fresh=True).assert_outcomes(passed=1)
    result = run_pytest("-p", "no:rewardft", fresh=True)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["E*fixture 'run_recipe' not found"])


def test_the_tests_that_the_documentation_prints_pass(pytester, run_pytest):
    for name, text in files_in("docs/writing-a-plugin.md").items():
        if name != "pyproject.toml":
            (pytester.path / name).write_text(text)
    run_pytest().assert_outcomes(passed=3)


def test_every_public_name_is_there_and_no_other():
    assert all(hasattr(rewardft.testing, name) for name in rewardft.testing.__all__)
    with pytest.raises(
        AttributeError, match=r"^module 'rewardft\.testing' has no attribute 'check_rewards'$"
    ):
        rewardft.testing.check_rewards
