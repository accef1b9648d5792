"""Paths in recipes start at the recipe's folder; names become one file each; bad ones are sentences."""

import os
from pathlib import Path

import pytest

from rewardft.cli import main
from rewardft.errors import DataError
from rewardft.files.paths import LONGEST_NAME, file_name, local_path, read_bytes, read_text
from rewardft.plugins.resolve import open_recipe
from rewardft.recipe.recipe import load_recipe

PLUGIN = """\
from pathlib import Path
from typing import Annotated

from rewardft import hookimpl
from rewardft.files.paths import PathOrShipped, Weights
from rewardft.testing.tiny import TinyBlobs, TinyModel


class Model(TinyModel):
    def __init__(self, weights: Weights = "owner/name") -> None:
        super().__init__()
        self.weights = weights


class Blobs(TinyBlobs):
    def __init__(self, path: Path, other: PathOrShipped = "shipped", split: str = "train") -> None:
        super().__init__(split=split)
        self.path, self.other = path, other


def light(rollout, batch, *, files: list[Path] = []):
    return rollout.decoded.flatten(1).mean(1)


@hookimpl
def register_models():
    return {"tiny": Model}


@hookimpl
def register_datasets():
    return {"blobs": Blobs}


@hookimpl
def register_rewards():
    return {"light": light}
"""
RECIPE = """\
plugins: [./mine.py]
model: {use: tiny, weights: WEIGHTS}
sampler: {use: ddim, steps: 3}
data: {use: blobs, path: data/a.txt, other: OTHER, batch_size: 4}
rewards: [{use: light, files: [a.bin, ../b.bin]}]
algorithm: {use: draft_k, train_steps: 1}
adapter: {rank: 2}
optimizer: {lr: 1e-3}
train: {steps: 2}
evaluate: {samples: 4, data: {path: data/val.txt, split: val}}
"""


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """A recipe in a folder that is not the current one."""
    (tmp_path / "project").mkdir()
    (tmp_path / "shell").mkdir()
    monkeypatch.chdir(tmp_path / "shell")
    (tmp_path / "project" / "mine.py").write_text(PLUGIN)

    def write(weights="owner/name", other="shipped"):
        text = RECIPE.replace("WEIGHTS", weights).replace("OTHER", other)
        (tmp_path / "project" / "r.yaml").write_text(text)
        return tmp_path / "project" / "r.yaml"

    return write


def test_every_path_of_a_recipe_starts_at_its_folder(recipe, tmp_path):
    found, _, resolved = open_recipe(recipe(other="more"))
    project = tmp_path / "project"
    assert resolved.dataset.build().path == project / "data" / "a.txt"
    assert resolved.dataset.build().other == str(project / "more")
    assert resolved.eval_dataset.build().path == project / "data" / "val.txt"
    assert resolved.rewards[0][1].options["files"] == [project / "a.bin", tmp_path / "b.bin"]
    assert resolved.model.build().weights == "owner/name"
    assert found.dump()["data"]["path"] == str(project / "data" / "a.txt")


def test_a_path_of_a_set_starts_at_the_shells_folder(recipe, tmp_path):
    settings = ["data.path=here.txt", "model.weights=./w"]
    _, _, resolved = open_recipe(recipe(), settings)
    assert resolved.dataset.build().path == tmp_path / "shell" / "here.txt"
    assert resolved.model.build().weights == str(tmp_path / "shell" / "w")


def test_words_are_no_paths(recipe):
    assert open_recipe(recipe())[2].dataset.build().other == "shipped"


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ("./owner/name", "{project}/owner/name"),
        ("owner/name/", "{project}/owner/name"),
        ("a/b/c", "{project}/a/b/c"),
        ("model.safetensors", "{project}/model.safetensors"),
        ("folder/missing", "{project}/folder/missing"),
        ("folder", "{project}/folder"),
        ("owner/name", "owner/name"),
        ("sd15", "{project}/sd15"),
    ],
)
def test_what_looks_local_never_goes_to_the_hub(recipe, tmp_path, weights, expected):
    (tmp_path / "project" / "folder").mkdir()
    found = open_recipe(recipe(weights))[2].model.build().weights
    assert found == expected.format(project=tmp_path / "project")


def test_a_folder_of_the_shell_is_not_taken_for_a_hub_id(recipe, tmp_path, capsys):
    (tmp_path / "shell" / "owner" / "name").mkdir(parents=True)
    path = recipe()
    assert main(["check", str(path)]) == 2
    assert capsys.readouterr().err == (
        f"error: {path}: 1 problem\n"
        f"  - {path}:2: option 'weights' of model 'tiny': 'owner/name' is no folder in "
        f"{tmp_path / 'project'}, which relative paths start at, but it is one in the current "
        f"folder; write {tmp_path / 'shell' / 'owner' / 'name'}.\n"
    )


def test_the_recipe_of_a_run_runs_again_from_anywhere(recipe, tmp_path, monkeypatch):
    assert main(["run", str(recipe()), "--out", "run"]) == 0
    copied = tmp_path / "elsewhere" / "again.yaml"
    copied.parent.mkdir()
    copied.write_text((tmp_path / "shell" / "run" / "recipe.yaml").read_text())
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert load_recipe(copied).dump() == load_recipe(tmp_path / "shell/run/recipe.yaml").dump()
    resolved = open_recipe(copied)[2]
    assert resolved.dataset.build().path == tmp_path / "project" / "data" / "a.txt"
    assert main(["run", "again.yaml"]) == 0


def test_a_shipped_recipe_is_read_as_if_it_lay_in_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    from rewardft.recipe.shipped import find_recipe

    assert load_recipe(find_recipe("toy_draft")).base == tmp_path


BAD = {
    "NUL": ("a\0b.py", "'a\\x00b.py' cannot be a path: a path has no NUL character."),
    "no such user": (
        "~nosuchuser/x.py",
        "'~nosuchuser/x.py' cannot be a path: Could not determine home directory.",
    ),
    "long": (
        "x/" * 2500 + "x.py",
        f"'{'x/' * 30}... (5,004 characters)' is too long for a path: at most 255 bytes between "
        "slashes, 4,096 in all.",
    ),
    "long part": (
        "x" * 300,
        f"'{'x' * 60}... (300 characters)' is too long for a path: at most 255 bytes between "
        "slashes, 4,096 in all.",
    ),
    "half a character": ("\ud800.py", "'\\ud800.py' has characters that no file name can hold."),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_a_path(tmp_path, case):
    text, message = BAD[case]
    with pytest.raises(DataError) as caught:
        local_path(text, tmp_path)
    assert str(caught.value) == message


def test_links_without_end_are_no_path(tmp_path):
    os.symlink(tmp_path / "b.py", tmp_path / "a.py")
    os.symlink(tmp_path / "a.py", tmp_path / "b.py")
    with pytest.raises(DataError, match=r"^'a.py' cannot be a path: .*[Ss]ymlink loop .*[ab]\.py"):
        local_path("a.py", tmp_path)


def test_only_regular_files_of_a_bounded_size_are_read(tmp_path):
    (tmp_path / "big").write_bytes(b"x" * 11)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "latin").write_bytes("a\né".encode("latin-1"))
    cases = {
        "big": f"{tmp_path / 'big'} has 11 bytes; at most 10 are read here.",
        "pipe": f"{tmp_path / 'pipe'}: expected a file, got a pipe.",
        ".": f"{tmp_path}: expected a file, got a folder.",
        "none": f"{tmp_path / 'none'}: there is no such file.",
    }
    for name, message in cases.items():
        with pytest.raises(DataError) as caught:
            read_bytes(tmp_path / name, 10)
        assert str(caught.value) == message
    with pytest.raises(DataError) as caught:
        read_text(tmp_path / "latin")
    expected = f"{tmp_path / 'latin'}:2: not UTF-8 text (byte 0xe9); save the file as UTF-8."
    assert str(caught.value) == expected


@pytest.mark.parametrize(
    "name", ["..", ".", "", "...", "a/b", "../a", "a b", "\ud800", "é" * 200, "x" * 300, "C:\\x"]
)
def test_a_name_that_must_be_changed_is_one_file_that_no_other_name_has(name):
    made = file_name(name)
    assert Path(made).name == made and not made.startswith(".")
    assert len(made.encode()) <= LONGEST_NAME + 9
    assert made != file_name(name + "_")


@pytest.mark.parametrize("name", ["toy", "algorithm=refl,early_stop=4", "a.b-c_d", "größe"])
def test_a_harmless_name_stays_as_it_is(name):
    assert file_name(name) == name
