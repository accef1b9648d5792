"""Whatever a component raises, the run fails: what is good is saved, what was measured is told, one message says the
cause and its place, and the exit code is not 0."""

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rewardft.cli import main
from rewardft.engine.processes import check_launcher, is_printing
from rewardft.errors import CheckpointError, ComponentError
from rewardft.files.streams import Forgiving
from rewardft.storage.checkpoint import latest_checkpoint, step_of
from rewardft.testing import run_recipe
from rewardft.testing.recipes import read_steps
from tests import processes
from tests.bench import RECIPE

PLUGIN = """
import sys

import torch

from rewardft import hookimpl

calls = 0


def failing(rollout, batch):
    global calls
    calls += 1
    if calls == 3:
        FAIL
    return rollout.decoded.flatten(1).mean(1)


@hookimpl
def register_rewards():
    return {"failing": failing}
"""
SETS = [
    "rewards=[{use: failing}]",
    "evaluate.every=0",
    "train.steps=4",
    "train.log_every=10",
    "save.every=0",
]


@pytest.fixture
def recipe(tmp_path):
    """A run of which the third score fails, as `fail` says; returns the recipe's path."""

    def write(fail):
        (tmp_path / "failing.py").write_text(PLUGIN.replace("FAIL", fail))
        path = tmp_path / "recipe.yaml"
        plugins = "plugins: [rewardft.testing.tiny, ./failing.py]"
        path.write_text(re.sub("plugins: .*", plugins, RECIPE))
        return path

    return write


FAILURES = {
    "sys.exit(0)": (
        2,
        "error: sys.exit(0) was called at {place}. What fails must raise an error that says what is wrong.\n",
    ),
    "sys.exit('done')": (
        2,
        "error: sys.exit('done') was called at {place}. What fails must raise an error that says what is wrong.\n",
    ),
    "raise KeyboardInterrupt": (
        2,
        "error: KeyboardInterrupt was raised at {place}, and no user interrupted the run. A component must raise "
        "an error that says what is wrong.\n",
    ),
    "import typer; raise typer.Exit(0)": (
        2,
        "error: Exit was raised at {place}, and nobody has interrupted the command. What fails must raise an error that "
        "says what is wrong.\n",
    ),
    "raise EOFError('no data')": (1, "EOFError: no data\n"),
    "raise BrokenPipeError(32, 'the server is gone')": (
        1,
        "BrokenPipeError: [Errno 32] the server is gone\n",
    ),
    "raise BaseException('odd')": (1, "BaseException: odd\n"),
}


@pytest.mark.parametrize("fail", FAILURES)
def test_any_failure_saves_tells_and_is_no_success(recipe, tmp_path, capsys, fail):
    path, out = recipe(fail), tmp_path / "run"
    sets = [word for text in SETS for word in ("--set", text)]
    code, message = FAILURES[fail]
    assert main(["run", str(path), "--out", str(out), *sets]) == code
    said = capsys.readouterr().err
    line = next(i for i, text in enumerate(PLUGIN.splitlines(), 1) if "FAIL" in text)
    assert message.format(place=f"{tmp_path}/failing.py:{line}") in said
    assert f"failing.py:{line}" in said or 'failing.py", line ' in said
    assert step_of(latest_checkpoint(out)) == 2 and not (out / "summary.json").exists()
    assert (
        f"step 2 is saved in {out}/checkpoints/step-00000002; once that is fixed, --resume" in said
    )
    assert [step["step"] for step in read_steps(out)] == [1, 2]
    assert (out / "error.txt").read_text().startswith("step 2\n")


@pytest.mark.parametrize("hook", ["check_recipe(recipe)", "register_models()", "on_run_start(run)"])
@pytest.mark.parametrize(
    ("fail", "name"),
    [
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("import click; raise click.Abort", "Abort"),
    ],
)
def test_what_ends_commands_is_a_failure_where_a_hook_raises_it(
    hook, fail, name, recipe, tmp_path, capsys
):
    path = recipe("pass")
    with (tmp_path / "failing.py").open("a") as file:
        file.write(f"\n\n@hookimpl\ndef {hook}:\n    {fail}\n")
    assert main(["run", str(path), "--out", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert (
        re.match(rf"error: .*{name}", said) and f"failing.py:{len(PLUGIN.splitlines()) + 5}" in said
    )
    assert (
        "What fails must raise an error that says what is wrong." in said
        or "(raised by plugin 'failing'" in said
    )


def test_what_was_saved_of_a_failed_run_goes_on_to_the_same_bits(recipe, tmp_path):
    path = recipe("raise ValueError('once')")
    sets = [*SETS, "algorithm={use: draft, shape: negative}"]
    with pytest.raises(ValueError, match="once"):
        run_recipe(path, tmp_path / "failed", *sets)
    resumed = run_recipe(
        path, tmp_path / "failed", *sets, resume=True
    )  # the plugin is made anew: 3rd call is step 5
    (tmp_path / "failing.py").write_text(PLUGIN.replace("FAIL", "pass"))
    whole = run_recipe(path, tmp_path / "whole", *sets)
    assert resumed.column("loss") == whole.column("loss") and len(whole.steps) == 4


class Closed:
    """A stream whose reader is gone."""

    encoding = "utf-8"

    def write(self, text):
        raise BrokenPipeError(32, "Broken pipe")

    def flush(self):
        self.write("")

    def fileno(self):
        raise OSError("no descriptor")


def test_a_closed_pipe_ends_nothing():
    stream = Forgiving(Closed())
    assert stream.write("text") == 4 and stream.encoding == "utf-8"
    stream.writelines(["a", "b"])
    stream.flush()


def into_a_closed_pipe(words):
    """The command line, with nobody who reads what it prints."""
    reader, writer = os.pipe()
    os.close(reader)
    sys.stdout, sys.stderr = (os.fdopen(os.dup2(writer, stream), "w") for stream in (1, 2))
    return processes.call_main(*words)


def test_a_run_into_a_closed_pipe_goes_on_to_its_end(recipe, tmp_path):
    path = recipe("pass")
    sets = [word for text in SETS for word in ("--set", text)]
    words = ["run", str(path), "--out", str(tmp_path / "run"), *sets]
    assert processes.Running(into_a_closed_pipe, words).wait().returncode == 0
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "finished"


DAMAGE = {
    "summary.json": ["run"],
    "manifest.json": ["resume", "evaluate"],
    "evaluations/step-00000003.json": ["resume"],
    "adapter/step.json": ["evaluate"],
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    (folder / "recipe.yaml").write_text(RECIPE)
    sets = ["evaluate.every=2", "evaluate.samples=2", "save.every=1", "train.steps=3"]
    run_recipe(folder / "recipe.yaml", folder / "run", *sets)
    return folder, [word for text in sets for word in ("--set", text)]


@pytest.mark.parametrize(("name", "command"), [(n, c) for n, cs in DAMAGE.items() for c in cs])
@pytest.mark.parametrize("text", ['{"step": 3, "stat', "[1, 2]", "\xff\xfe"])
def test_a_damaged_file_is_named_with_what_to_do(finished, capsys, name, command, text):
    folder, sets = finished
    path, run = folder / "run" / name, folder / "run"
    before = path.read_bytes()
    words = {
        "run": ["run", str(folder / "recipe.yaml"), "--out", str(run), *sets],
        "resume": ["run", str(folder / "recipe.yaml"), "--out", str(run), *sets, "--resume"],
        "evaluate": ["evaluate", str(run)],
    }
    try:
        path.write_bytes(text.encode("latin-1"))
        assert main(words[command]) == 2
        said = capsys.readouterr().err
        assert said.startswith(f"error: {path}: ") and "Traceback" not in said
        assert re.search(r"damaged, or not written by a run|expected an object", said)
    finally:
        path.write_bytes(before)
        run_recipe(folder / "recipe.yaml", run, *sets[1::2], resume=True)


def test_a_damaged_line_of_metrics_is_named_and_a_last_one_dropped(finished, capsys):
    folder, sets = finished
    path = folder / "run" / "metrics.jsonl"
    before = path.read_bytes()
    words = ["run", str(folder / "recipe.yaml"), "--out", str(folder / "run"), *sets, "--resume"]
    lines = before.splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0], b"\xff half", b"\n", *lines[1:]]))
    assert main(words) == 2
    assert f"error: {path}:2: damaged: expected an object with a step" in capsys.readouterr().err
    path.write_bytes(before + b'{"step": 3, "lo')
    assert main(words) == 0
    assert all(json.loads(line)["step"] <= 3 for line in path.read_text().splitlines())


def test_state_and_tensors_that_no_run_saved(finished):
    from rewardft.storage.checkpoint import read_state, read_tensors

    path = latest_checkpoint(finished[0] / "run")
    before = (path / "state.json").read_text()
    for text, said in {
        '{"format": 2}': "expected files and step in it",
        '{"format": 2, "step": "x", "files": {}}': "got step 'x'",
        '{"format": 2, "step": 1, "files": {"../a": {"bytes": 1, "sha256": "b"}}}': "SHA-256 of each",
    }.items():
        (path / "state.json").write_text(text)
        with pytest.raises(CheckpointError, match=said):
            read_state(path)
    (path / "state.json").write_text(before)
    with pytest.raises(CheckpointError, match="missing, truncated or changed"):
        kept = (path / "training.pt").read_bytes()
        torch.save([1, 2], path / "training.pt")
        with pytest.raises(CheckpointError, match="expected a dictionary, got a list"):
            read_tensors(path, torch.device("cpu"))
        read_state(path)
    (path / "training.pt").write_bytes(kept)


def test_launchers_and_lone_runs():
    check_launcher({"WORLD_SIZE": "2"}, 2)
    check_launcher({"RANK": "1"}, 1)
    with pytest.raises(
        ComponentError,
        match=r"the launcher started 2 processes \(WORLD_SIZE\), and this run sees 1",
    ):
        check_launcher({"WORLD_SIZE": "2", "RANK": "1"}, 1)
    with pytest.raises(
        ComponentError,
        match=r"the launcher started 4 processes \(SLURM_STEP_NUM_TASKS\), and this run sees 1",
    ):
        check_launcher({"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "0"}, 1)
    # One task a node, and torchrun in each of them.
    check_launcher({"WORLD_SIZE": "16", "SLURM_STEP_NUM_TASKS": "2"}, 16)
    launched = {"ACCELERATE_MIXED_PRECISION": "no", "MASTER_PORT": "29500"}
    with pytest.raises(
        ComponentError, match="started only one process, which it does where there is no GPU"
    ):
        check_launcher(launched, 1)
    with pytest.raises(ComponentError):
        check_launcher({**launched, "SLURM_STEP_NUM_TASKS": "1"}, 1)
    check_launcher({"SLURM_STEP_NUM_TASKS": "1"}, 2)
    assert is_printing({"RANK": "1"}) and is_printing({"RANK": "0", "WORLD_SIZE": "2"})
    assert not is_printing({"RANK": "1", "WORLD_SIZE": "2"})
    task = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1"}
    assert not is_printing(task)
    assert is_printing({"RANK": "0", "WORLD_SIZE": "4", **task})


@pytest.mark.parametrize("proc", ["/proc", "/there/is/none"])
def test_a_process_that_has_ended_is_known_without_proc_too(monkeypatch, proc):
    """macOS has none. A child that was waited for is gone there, one that runs is not."""
    from rewardft.engine import failure

    monkeypatch.setattr(failure, "PROC", Path(proc))
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    peer = failure.Peer(1, socket.gethostname(), child.pid)
    assert not peer.is_gone
    child.communicate(b"\n")
    assert peer.is_gone and not failure.Peer(1, "elsewhere", child.pid).is_gone


def test_a_lost_process_is_named_and_one_that_failed_quoted(tmp_path):
    """A child that has ended and is not waited for is gone; what it wrote down comes first."""
    from types import SimpleNamespace

    from rewardft.engine.failure import Peer, Peers, explain

    child = subprocess.Popen([sys.executable, "-c", ""])
    peers = Peers(SimpleNamespace(process_index=0, num_processes=1))
    peers.others = [Peer(1, socket.gethostname(), child.pid)]
    lost = RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer [::1]:40")
    said = explain(lost, tmp_path, peers, interrupted=True)
    assert str(said) == (
        f"process 1 (pid {child.pid}) ended without an error, and the run with it: it was killed, perhaps because "
        "memory ran out. The system's log may say more."
    )
    text = "step 3\nTraceback (most recent call last):\n  File x\nValueError: no face\na note\n"
    (tmp_path / "error-process1.txt").write_text(text)
    os.utime(tmp_path / "error-process1.txt", (peers.since + 1, peers.since + 1))
    peers.others = [Peer(1, "elsewhere", 1)]
    said = explain(lost, tmp_path, peers, interrupted=True)
    assert str(said) == "process 1 failed, and with it the run: ValueError: no face"
    own = RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    assert explain(own, tmp_path, peers, interrupted=True) is own
    child.wait()
