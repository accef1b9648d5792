"""Names that become files stay in their folder, and only what the tool made is deleted."""

import os
from pathlib import Path

import pytest

import rewardft
from rewardft.cli import main
from rewardft.comparisons.members import folder_name
from rewardft.comparisons.sources import Variant, read_sources
from rewardft.errors import CheckpointError, DataError
from rewardft.files.atomic import MARK, remove_folder, write_folder
from rewardft.storage.checkpoint import drop_old, latest_checkpoint


def fill(folder):
    (folder / "new").write_text("new")


@pytest.mark.parametrize("name", ["..", ".", "../../b", "a/../..", "...", "/etc", "a\nb"])
def test_a_variants_folder_is_one_folder(name):
    made = folder_name(Variant(name, Path("r.yaml")))
    assert Path(made).name == made and made not in ("", ".", "..")


def test_a_run_given_as_dots_is_called_by_its_folders_name(tmp_path, monkeypatch):
    for name in ("a", "b"):
        (tmp_path / name / "checkpoints").mkdir(parents=True)
        (tmp_path / name / "recipe.yaml").write_text("seed: 0\n")
    monkeypatch.chdir(tmp_path / "a" / "checkpoints")
    request = read_sources(["../../b", ".."], Path)
    assert [variant.name for variant in request.variants] == ["b", "a"]


def test_a_recipe_called_dots_trains_in_a_folder_below_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["cp", "toy_draft", "...yaml"]) == 0
    assert main(["run", "...yaml", "--set", "train.steps=1", "--set", "evaluate.every=0"]) == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["...yaml", "runs"]
    (run,) = (tmp_path / "runs").iterdir()
    assert (run / "summary.json").is_file() and not run.name.startswith(".")


def test_a_folder_of_somebody_else_is_neither_replaced_nor_deleted(tmp_path):
    mine = tmp_path / "pictures"
    mine.mkdir()
    (mine / "holiday.png").write_text("precious")
    message = (
        f"{mine} is in the way and was not made by rewardft (there is no {MARK} in it), so it is "
        "neither replaced nor deleted. Move it, or give another folder."
    )
    for attempt in (lambda: write_folder(mine, fill), lambda: remove_folder(mine, MARK)):
        with pytest.raises(CheckpointError) as caught:
            attempt()
        assert str(caught.value) == message
    assert [p.name for p in tmp_path.rglob("*")] == ["pictures", "holiday.png"]


def test_a_folder_that_was_made_here_is_replaced_and_deleted(tmp_path):
    made = tmp_path / "pictures"
    write_folder(made, lambda folder: (folder / "old").write_text("old"))
    write_folder(made, fill)
    assert sorted(p.name for p in made.iterdir()) == [MARK, "new"]
    remove_folder(made, MARK)
    assert list(tmp_path.iterdir()) == []


def test_a_link_to_a_folder_of_somebody_else_is_left_alone(tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / MARK).write_text("")
    os.symlink(tmp_path / "home", tmp_path / "pictures")
    with pytest.raises(CheckpointError, match=r"^.*pictures is in the way"):
        write_folder(tmp_path / "pictures", fill)


def test_only_checkpoints_are_dropped(tmp_path):
    folder = tmp_path / "checkpoints"
    for name in ("step-00000001", "step-00000002", "step-backup", ".step-mine"):
        (folder / name).mkdir(parents=True)
        (folder / name / "state.json").write_text("{}")
    (folder / ".step-00000003.12.tmp").mkdir()
    drop_old(folder, keep=1)
    names = [".step-mine", "step-00000002", "step-backup"]
    assert sorted(p.name for p in folder.iterdir()) == names
    assert latest_checkpoint(tmp_path) == folder / "step-00000002"


COPIES = {
    "a folder that is not there": ("no/r.yaml", "no/r.yaml: there is no folder no; make it first."),
    "too long": (
        "x" * 300,
        f"'{'x' * 60}... (300 characters)' is too long for a path: at most 255 bytes between "
        "slashes, 4,096 in all.",
    ),
    "existing": (
        "there.yaml",
        "there.yaml exists and is not overwritten; give another name, or remove it first.",
    ),
    "a device that takes nothing": (
        "/proc/x.yaml",
        "/proc/x.yaml: could not be written (No such file or directory)",
    ),
}


@pytest.mark.parametrize("case", COPIES)
def test_a_recipe_is_not_copied(case, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("there.yaml").write_text("mine")
    target, message = COPIES[case]
    assert main(["cp", "toy_draft", target]) == 2
    assert capsys.readouterr() == ("", f"error: {message}\n")
    assert [p.name for p in tmp_path.iterdir()] == ["there.yaml"]
    assert Path("there.yaml").read_text() == "mine"


LONG = "x/" * 2000
FOLDERS = {
    "NUL in the middle": ("a\0b", "'a\\x00b' cannot be a path: a path has no NUL character."),
    "nobody's": (
        "~nosuchuser/x",
        "'~nosuchuser/x' cannot be a path: Could not determine home directory.",
    ),
    "a long name": (
        "x" * 300,
        f"'{'x' * 60}... (300 characters)' is too long for a path: at most 255 bytes between slashes, 4,096 in all.",
    ),
}


@pytest.mark.parametrize("case", FOLDERS)
@pytest.mark.parametrize("make", [rewardft.run, rewardft.evaluate, rewardft.sample])
def test_a_folder_that_cannot_be_is_a_sentence(case, make, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given, message = FOLDERS[case]
    arguments = {"recipe": "toy_draft", "out": given} if make is rewardft.run else {"run": given}
    with pytest.raises(DataError) as caught:
        make(**arguments)
    assert str(caught.value) == message and list(tmp_path.iterdir()) == []


def test_a_folder_so_deep_that_a_run_does_not_fit_is_refused_before_anything_is_made(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert main(["run", "toy_draft", "--out", LONG]) == 2
    length = len(str(tmp_path / LONG))
    whole = str(tmp_path / LONG)[:60]
    assert capsys.readouterr().err == (
        f"error: '{whole}'... ({length:,} characters) is too long for a folder that a run is written to: at most 3,846 "
        "bytes.\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_home_folder_is_one_on_the_command_line_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    sets = ["--set", "train.steps=1", "--set", "evaluate.every=0"]
    assert main(["run", "toy_draft", "--out", "~/run", *sets]) == 0
    assert (tmp_path / "home" / "run" / "summary.json").is_file()
    assert [p.name for p in tmp_path.iterdir()] == ["home"]
