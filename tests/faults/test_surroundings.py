"""Components that change what belongs to the whole process: the current folder, the standard streams. A run goes on,
its files are where the user wants them, and what it has to say is said."""

import json
import os
import sys

import pytest

from rewardft.files.streams import Forgiving
from rewardft.files.surroundings import put_back
from tests import processes
from tests.bench import RECIPE

# Each place in which a plugin's code runs; PLACE runs once there.
PLUGIN = """
import os
import sys

from rewardft import hookimpl
from rewardft.testing.tiny import TinyModel

WHERE, DONE = {where!r}, []


def act(place):
    if place == WHERE and not DONE:
        DONE.append(place)
        {act}


act("import")


class Restless(TinyModel):
    def __init__(self, width: int = 8):
        super().__init__(width=width)
        act("build")

    def decode(self, x0):
        act("decode")
        return super().decode(x0)


@hookimpl
def register_models():
    act("register")
    return {{"restless": Restless}}


@hookimpl
def on_run_start():
    act("start")


@hookimpl
def on_run_end():
    act("end")
"""
PLACES = ["import", "register", "build", "start", "decode", "end"]
SETS = ["model={use: restless}", "train.steps=2", "evaluate.every=1", "evaluate.samples=2"]


def write(folder, where, act):
    """A recipe whose plugin does `act` at one place."""
    (folder / "restless.py").write_text(PLUGIN.format(where=where, act=act))
    (folder / "recipe.yaml").write_text(
        RECIPE.replace("[rewardft.testing.tiny]", "[rewardft.testing.tiny, ./restless.py]")
    )
    return folder / "recipe.yaml"


def command(*words):
    return [*map(str, words), *(word for text in SETS for word in ("--set", text))]


@pytest.mark.parametrize("place", PLACES)
def test_another_folder_moves_no_file(tmp_path, monkeypatch, place):
    """`--out` and the recipe's own paths are relative to where the command was given."""
    home, other = tmp_path / "home", tmp_path / "other"
    home.mkdir()
    other.mkdir()
    write(home, place, f"os.chdir({str(other)!r})")
    monkeypatch.chdir(home)
    from rewardft.cli import main

    assert main(command("run", "recipe.yaml", "--out", "run")) == 0
    assert os.getcwd() == str(home) and list(other.iterdir()) == []
    assert json.loads((home / "run" / "summary.json").read_text())["status"] == "finished"
    assert {"adapter", "checkpoints", "evaluations"} <= {p.name for p in (home / "run").iterdir()}
    assert main(["evaluate", "run"]) == 0 and (home / "run" / "evaluation.json").is_file()
    assert (
        main(["sample", "run", "--out", "drawn"]) == 0 and (home / "drawn" / "grid.png").is_file()
    )
    assert main(["evaluate", "run", "--adapter-scale", "1"]) == 0
    assert (home / "run" / "adapter_scales.json").is_file() and list(other.iterdir()) == []


def test_a_comparison_stays_in_its_folder(tmp_path, monkeypatch):
    home, other = tmp_path / "home", tmp_path / "other"
    home.mkdir()
    other.mkdir()
    write(home, "import", f"os.chdir({str(other)!r})")
    monkeypatch.chdir(home)
    from rewardft.comparisons.api import compare

    done = compare("recipe.yaml", overrides=SETS, out="both", vary={"seed": [1, 2]})
    assert (home / "both" / "report.html").is_file() and list(other.iterdir()) == []
    assert [run.status for v in done.record.variants for run in v.runs] == ["finished"] * 2


SILENCERS = {
    "sys.stdout.close(); sys.stderr.close()": True,
    "sys.stdout = sys.stderr = None": True,
    "os.close(1)": False,  # nobody can print there any more
}


@pytest.mark.parametrize("place", ["import", "build", "decode", "end"])
@pytest.mark.parametrize("act", SILENCERS)
def test_a_stream_that_a_component_closes_ends_nothing(tmp_path, place, act):
    words = command("run", write(tmp_path, place, act), "--out", tmp_path / "run")
    done = processes.run(*words)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "finished"
    if SILENCERS[act]:
        assert f"finished at step 2: {tmp_path}/run\n" in done.stdout
        assert "reward/tiny_brightness" in done.stdout


def test_an_error_is_said_though_the_streams_are_gone(tmp_path):
    act = "sys.stdout = sys.stderr = None; raise ValueError('no face')"
    done = processes.run(*command("run", write(tmp_path, "decode", act), "--out", tmp_path / "run"))
    assert done.returncode == 1 and "ValueError: no face" in done.stderr


def test_streams_and_folder_are_put_back_after_an_error(tmp_path):
    before = (sys.stdout, sys.stderr, os.getcwd())
    with pytest.raises(ValueError, match="inside"), put_back():
        sys.stdout = sys.stderr = None
        os.chdir(tmp_path)
        raise ValueError("inside")
    assert (sys.stdout, sys.stderr, os.getcwd()) == before


def test_a_program_without_streams_prints_nowhere():
    stream = Forgiving(None)
    assert stream.write("text") == 4 and not stream.isatty()


def in_a_folder_that_is_gone(folder):
    os.chdir(folder)
    os.rmdir(folder)
    return processes.call_main("ls")


def test_a_current_folder_that_is_gone(tmp_path):
    (tmp_path / "gone").mkdir()
    done = processes.Running(in_a_folder_that_is_gone, str(tmp_path / "gone")).wait()
    assert done.returncode == 2
    assert done.stderr == (
        "error: the current folder does not exist any more; change to another one with cd.\n"
    )
