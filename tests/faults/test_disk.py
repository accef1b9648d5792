"""A disk that is full or may not be written: one sentence with the path, exit code 2, and nothing lost that was saved."""

import ctypes
import os
import resource
import signal
import sys
from pathlib import Path

import pytest

from rewardft.storage.checkpoint import latest_checkpoint, read_state, step_of
from rewardft.testing import run_recipe
from rewardft.testing.recipes import read_steps
from rewardft.testing.runs import check_same_run
from tests import processes
from tests.bench import RECIPE

SETS = ["train.steps=4", "save.every=2", "evaluate.every=2", "evaluate.samples=2"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("disk")
    (folder / "recipe.yaml").write_text(RECIPE)
    return run_recipe(folder / "recipe.yaml", folder / "run", *SETS)


def command(name, *words, sets=SETS):
    return [name, *map(str, words), *(word for text in sets for word in ("--set", text))]


def with_small_files(size, words):
    """The command line where no file can grow beyond `size` bytes, as on a disk that is full."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    return processes.call_main(*words)


def test_a_disk_that_is_full_inside_torch_save(finished, tmp_path):
    """`training.pt`, the largest file, does not fit: the rest does, and the resumed run ends as the other one."""
    largest = max(p.stat().st_size for p in finished.folder.rglob("*.pt"))
    recipe, out = finished.folder.parent / "recipe.yaml", tmp_path / "run"
    words = command("run", recipe, "--out", out)
    done = processes.Running(with_small_files, largest - 1, words).wait()
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert f"error: {out}/checkpoints/step-00000002: could not be written (" in done.stderr
    assert "What was saved before is untouched." in done.stderr
    assert latest_checkpoint(out) is None and list((out / "checkpoints").iterdir()) == []
    assert [step["step"] for step in read_steps(out)] == [1, 2]
    resumed = run_recipe(recipe, out, *SETS, resume=True)
    check_same_run(finished, resumed)


def test_a_disk_that_fills_up_later_keeps_the_checkpoint_before(finished, tmp_path):
    """The second save does not fit, as the run's own metrics are longer by then: the first one stays."""
    recipe, out = finished.folder.parent / "recipe.yaml", tmp_path / "run"
    run_recipe(recipe, out, *SETS[1:], "train.steps=2")
    largest = max(p.stat().st_size for p in out.rglob("*.pt"))
    done = processes.Running(
        with_small_files, largest - 1, command("run", recipe, "--out", out, "--resume")
    ).wait()
    assert done.returncode == 2
    path = latest_checkpoint(out)
    assert step_of(path) == 2 and read_state(path)["step"] == 2
    check_same_run(finished, run_recipe(recipe, out, *SETS, resume=True))


# -- not writable ----------------------------------------------------------------------------------


def without_privileges(words):
    """The command line of a user who may not write what is read-only; root may, unless it lays that down."""
    if os.geteuid() == 0:
        header, none = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
        assert ctypes.CDLL(None).capset(header, none) == 0
    return processes.call_main(*words)


@pytest.fixture
def read_only(finished, tmp_path):
    """A finished run that may only be read."""
    import shutil

    folder = tmp_path / "run"
    shutil.copytree(finished.folder, folder)
    places = [folder, *(path for path in folder.rglob("*") if path.is_dir())]
    for path in places:
        path.chmod(0o555)
    yield folder
    for path in places:
        path.chmod(0o755)


@pytest.mark.skipif(sys.platform != "linux", reason="privileges are laid down as Linux has them")
@pytest.mark.parametrize("name", ["resume", "run", "evaluate", "scales", "sample", "compare"])
def test_a_folder_that_may_only_be_read(finished, read_only, name):
    recipe = finished.folder.parent / "recipe.yaml"
    words = {
        "resume": command(
            "run", recipe, "--out", read_only, "--resume", sets=[*SETS[1:], "train.steps=6"]
        ),
        "run": command("run", recipe, "--out", read_only / "new"),
        "evaluate": ["evaluate", str(read_only)],
        "scales": ["evaluate", str(read_only), "--adapter-scale", "0,1"],
        "sample": ["sample", str(read_only), "--count", "2"],
        "compare": command("compare", recipe, "--out", read_only / "new"),
    }
    before = {path: path.read_bytes() for path in read_only.rglob("*") if path.is_file()}
    done = processes.Running(without_privileges, words[name]).wait()
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 2 and len(errors) == 1, done.stderr
    assert "Traceback" not in done.stderr and errors[0].startswith(f"error: {read_only}")
    assert "Permission denied" in errors[0]
    assert before == {path: path.read_bytes() for path in read_only.rglob("*") if path.is_file()}


@pytest.mark.parametrize("where", ["", "/run"])
@pytest.mark.parametrize("name", ["run", "sample", "compare"])
def test_a_file_where_a_folder_should_be(finished, tmp_path, capsys, name, where):
    from rewardft.cli import main

    (tmp_path / "taken").write_text("mine")
    out = f"{tmp_path}/taken{where}"
    recipe = finished.folder.parent / "recipe.yaml"
    words = {
        "run": command("run", recipe, "--out", out),
        "sample": ["sample", str(finished.folder), "--out", out],
        "compare": command("compare", recipe, "--out", out),
    }
    assert main(words[name]) == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said and f"error: {tmp_path}/taken" in said
    assert (tmp_path / "taken").read_text() == "mine"


# -- a process that is killed ----------------------------------------------------------------------

DEADLY = """
import os
import signal

from rewardft import hookimpl

calls = 0


def deadly(rollout, batch):
    global calls
    calls += 1
    if calls == 8:
        os.kill(os.getpid(), signal.SIGKILL)
    return rollout.decoded.flatten(1).mean(1)


@hookimpl
def register_rewards():
    return {"deadly": deadly}
"""


@pytest.mark.parametrize("every", [1, 3])
def test_a_kill_loses_at_most_the_steps_since_metrics_were_read(tmp_path, every):
    """Seven steps are taken; those up to the last multiple of `log_every` are in the file, whole lines each."""
    (tmp_path / "deadly.py").write_text(DEADLY)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE.replace("testing.tiny]", "testing.tiny, ./deadly.py]"))
    sets = ["rewards=[{use: deadly}]", "train.steps=20", f"train.log_every={every}"]
    done = processes.run(*command("run", recipe, "--out", tmp_path / "run", sets=sets))
    assert done.returncode == -signal.SIGKILL
    text = Path(tmp_path / "run" / "metrics.jsonl").read_text()
    assert text.endswith("}\n")
    assert [step["step"] for step in read_steps(tmp_path / "run")] == [*range(1, 8 - 7 % every)]
