"""The progress line where there is no terminal."""

from pathlib import Path
from types import SimpleNamespace

import pytest

import rewardft.engine.progress
import rewardft.engine.step_log
from rewardft.contracts.alarm import Alarm
from rewardft.contracts.run import Run
from rewardft.engine.progress import ProgressLine
from rewardft.engine.step_log import Logged, StepLog


@pytest.fixture
def clock(monkeypatch):
    """Seconds that the test moves."""
    now = [0.0]
    monkeypatch.setattr(rewardft.engine.progress.time, "monotonic", lambda: now[0])
    return now


def test_time_left_counts_steps_and_not_evaluations(clock, capsys, tmp_path):
    line, run = ProgressLine(start=10), Run(Path(tmp_path), None, True, 20)
    line.on_run_start(run)
    clock[0] = 1000.0  # the evaluation of the base model
    line.on_evaluation_end(run, 10, {"reward/x": 0.25}, [Alarm("y", "y [of 3] fell")])
    clock[0] = 1020.0
    line.on_step_end(run, 11, {"reward": 0.5, "samples_per_second": 3.0})
    clock[0] = 1040.0
    line.on_step_end(run, 12, {"reward": 0.625, "samples_per_second": 3.0})
    assert capsys.readouterr().err.splitlines() == [
        "evaluation at step 10:  reward/x 0.25",
        "alarm at step 10:  y [of 3] fell",
        "step 11/20  reward 0.5  3 samples/s  180 s left",
        "step 12/20  reward 0.625  3 samples/s  160 s left",
    ]


def test_steps_that_are_told_together_are_timed_apart(clock, capsys, tmp_path):
    """With log_every: 10 the first ten come at once; what is left follows from the time that each was taken at."""
    line, run = ProgressLine(start=0), Run(Path(tmp_path), None, True, 60)
    line.on_run_start(run)
    clock[0] = 500.0  # set-up
    line.on_evaluation_end(run, 0, {"reward/x": 0.25}, [])
    clock[0] = 520.0
    for step in range(1, 11):
        line.on_step_end(
            run, step, {"reward": 0.5, "samples_per_second": 3.0, "train_seconds": 2.0 * step}
        )
    line.on_evaluation_end(run, 10, {"reward/x": 0.25}, [])
    clock[0] = 540.0
    line.on_step_end(run, 11, {"reward": 0.5, "samples_per_second": 3.0, "train_seconds": 23.0})
    assert [text for text in capsys.readouterr().err.splitlines() if text.startswith("step")] == [
        "step 1/60  reward 0.5  3 samples/s  118 s left",
        "step 11/60  reward 0.5  3 samples/s  147 s left",
    ]


def test_after_a_resumption_the_time_before_it_does_not_count(clock, capsys, tmp_path):
    clock[0] = 1000.0
    line, run = ProgressLine(100, 350.0), Run(Path(tmp_path), None, True, 200)
    line.on_run_start(run)
    line.on_step_end(run, 101, {"reward": 0.5, "samples_per_second": 3.0, "train_seconds": 352.0})
    assert capsys.readouterr().err.splitlines() == [
        "step 101/200  reward 0.5  3 samples/s  198 s left"
    ]


def test_with_a_budget_the_last_step_is_guessed_from_what_each_step_had_spent(
    clock, capsys, tmp_path
):
    clock[0] = 1000.0
    line, run = ProgressLine(0), Run(Path(tmp_path), None, True, 1_000_000)
    line.on_run_start(run)
    for step in range(1, 21):
        facts = {"samples_per_second": 3.0, "train_seconds": 1.0 * step, "budget_spent": step / 25}
        line.on_step_end(run, step, {"reward": 0.5, **facts})
    assert capsys.readouterr().err.splitlines() == ["step 1/25  reward 0.5  3 samples/s  24 s left"]


def test_values_over_all_samples_come_before_those_of_groups(capsys, tmp_path):
    line, run = ProgressLine(start=0), Run(Path(tmp_path), None, True, 60)
    values = (
        {"reward/x": 1.0} | {f"class{i}/reward/x": float(i) for i in range(6)} | {"contrast": 2.0}
    )
    line.on_evaluation_end(run, 0, values, [])
    # One line, however narrow a file is taken for.
    assert capsys.readouterr().err == (
        "evaluation at step 0:  reward/x 1  contrast 2  class0/reward/x 0  class1/reward/x 1  class2/reward/x 2  "
        "class3/reward/x 3  and 2 more\n"
    )


def test_a_step_on_samples_that_were_scored_before_says_whose_reward_it_shows(capsys, tmp_path):
    """A batch that takes several steps scores before the first; its loss is no reward of a later one."""
    line, run = ProgressLine(start=0, every_seconds=-1), Run(Path(tmp_path), None, True, 9)
    line.on_run_start(run)
    speed = {"samples_per_second": 3.0, "train_seconds": 0.0}
    line.on_step_end(run, 1, {"reward": 0.5, "loss": -0.1, **speed})
    line.on_step_end(run, 2, {"loss": 0.25, **speed})
    line.on_step_end(run, 3, {"reward": 0.625, "loss": -0.2, **speed})
    said = [text.partition("  3 samples/s")[0] for text in capsys.readouterr().err.splitlines()]
    assert said == [
        "step 1/9  reward 0.5",
        "step 2/9  reward 0.5 (of step 1)",
        "step 3/9  reward 0.625",
    ]


class Heard:
    """Observers that keep what they are told."""

    def __init__(self):
        self.steps = []

    def call(self, hook, **facts):
        if hook == "on_step_end":
            self.steps.append((facts["step"], facts["metrics"]["samples_per_second"]))


def test_the_time_of_later_updates_counts_with_the_next_batch(monkeypatch, tmp_path):
    """Four samples a batch, two updates of 1 s each, the first after 2 s of sampling: no update has a speed of 0, and
    from the second batch on it is 4 samples in 4 s, also with an evaluation of 50 s between."""
    now = [0.0]
    monkeypatch.setattr(rewardft.engine.step_log.time, "monotonic", lambda: now[0])
    heard = Heard()
    alone = SimpleNamespace(num_processes=1, device="cpu")
    log = StepLog(heard, Run(Path(tmp_path), None, True, 9), alone, 0)
    for step, (took, position) in enumerate([(3.0, 4), (1.0, 4), (3.0, 8), (1.0, 8)], start=1):
        now[0] += took
        log.add(Logged(step, {}, {}))
        log.flush(position, None)
        if step % 2 == 0:
            with log.paused():
                now[0] += 50.0
    assert heard.steps == [(1, 4 / 3), (2, 4 / 3), (3, 1.0), (4, 1.0)]
