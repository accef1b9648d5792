"""Kill -9 in the middle of a save of a real run: the previous checkpoint loads, and the run resumes to the same bits."""

import os
import signal
import sys

import pytest

from rewardft.storage.checkpoint import latest_checkpoint, read_state
from rewardft.testing import run_recipe
from tests.invariants.test_invariants import RECIPE, assert_same_run

EVENTS = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree")
SAVES = ["save.every=2", "train.steps=6", "train.log_every=1"]


def run_and_die(path, out, point):
    """In a forked child: run, and kill -9 oneself at the given file operation of the save at step 4."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    calls = 0

    def audit(event, args):
        nonlocal calls
        if event in EVENTS and "step-00000004" in str(args[0]):
            calls += 1
            if calls == point:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(audit)
    run_recipe(path, out, *SAVES)
    os._exit(0)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The run that nobody kills."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "recipe.yaml").write_text(RECIPE)
    return run_recipe(folder / "recipe.yaml", folder / "run", *SAVES)


@pytest.mark.parametrize("point", [1, 4, 7, 8, 12, 16, 17])
def test_a_killed_save_costs_nothing_but_its_own_step(recipe, whole, tmp_path, point):
    out = tmp_path / "killed"
    assert run_and_die(recipe, out, point) == signal.SIGKILL
    state = read_state(latest_checkpoint(out))
    assert state["step"] in (2, 4)
    resumed = run_recipe(recipe, out, *SAVES, resume=True)
    assert [s["step"] for s in resumed.steps] == [1, 2, 3, 4, 5, 6]
    assert_same_run(whole, resumed, exact=True)


def test_the_kill_points_reach_from_before_to_after_the_rename(recipe, tmp_path):
    steps = set()
    for point in (16, 17):
        run_and_die(recipe, tmp_path / str(point), point)
        steps.add(read_state(latest_checkpoint(tmp_path / str(point)))["step"])
    assert steps == {2, 4}
