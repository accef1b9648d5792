"""The progress line where there is no terminal."""

from pathlib import Path

import pytest

import rewardft.progress
from rewardft.alarms import Alarm
from rewardft.progress import ProgressLine
from rewardft.types import Run


@pytest.fixture
def clock(monkeypatch):
    """Seconds that the test moves."""
    now = [0.0]
    monkeypatch.setattr(rewardft.progress.time, "monotonic", lambda: now[0])
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
