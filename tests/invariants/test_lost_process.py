"""A process of several fails or is killed between two lines of the log: the other one tells of the steps so far, saves
the last of them, says the cause, and the run goes on from there."""

import re

import pytest

from rewardft.storage.checkpoint import latest_checkpoint, step_of
from rewardft.testing.recipes import read_steps
from tests import processes
from tests.bench import RECIPE

PLUGIN = """
import os
import signal
from pathlib import Path

from rewardft import hookimpl

calls = 0


def last(rollout, batch, *, how: str = "raise"):
    global calls
    calls += 1
    flag = Path(__file__).with_name("fail")
    if calls == 4 and os.environ["RANK"] == "1" and flag.exists():
        flag.unlink()
        if how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        raise ValueError("no face found")
    return rollout.decoded.flatten(1).mean(1)


@hookimpl
def register_rewards():
    return {"last": last}
"""


@pytest.mark.parametrize("how", ["raise", "kill"])
def test_what_the_others_measured_is_told_and_saved(how, tmp_path):
    (tmp_path / "last.py").write_text(PLUGIN)
    (tmp_path / "fail").touch()
    text = re.sub("plugins: .*", "plugins: [rewardft.testing.tiny, ./last.py]", RECIPE)
    (tmp_path / "r.yaml").write_text(text)
    out = tmp_path / "run"
    sets = [f"rewards=[{{use: last, how: {how}}}]", "evaluate.every=0", "save.every=0"]
    sets += ["train.steps=6", "train.log_every=20"]
    words = ["run", str(tmp_path / "r.yaml"), "--out", str(out)]
    words += [word for text in sets for word in ("--set", text)]

    started = processes.start_ranks(processes.call_main, *words)
    lost_pid = started[1].pid
    main, lost = [one.wait() for one in started]

    assert main.returncode == 2
    assert lost.returncode == (-9 if how == "kill" else 1)
    cause = {
        "kill": f"error: process 1 (pid {lost_pid}) ended without an error, and the run with it: it was killed, perhaps "
        "because memory ran out. The system's log may say more.\n",
        "raise": "error: process 1 failed, and with it the run: ValueError: no face found\n",
    }
    saved = f"step 3 is saved in {out}/checkpoints/step-00000003; once that is fixed, --resume\n"
    assert main.stderr.partition("error: ")[2] == (cause[how] + saved).removeprefix("error: ")
    assert step_of(latest_checkpoint(out)) == 3
    told = read_steps(out)
    assert [(step["step"], step["processes_measured"]) for step in told] == [(1, 1), (2, 1), (3, 1)]

    ended = [one.wait() for one in processes.start_ranks(processes.call_main, *words, "--resume")]
    assert [one.returncode for one in ended] == [0, 0], ended
    rows = read_steps(out)
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert ["processes_measured" in row for row in rows] == [True] * 3 + [False] * 3
