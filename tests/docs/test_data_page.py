"""The page on data: every command that it prints is run, on the files that it prints and pictures that are drawn."""

import shlex

import numpy as np
import pytest
from PIL import Image

from rewardft.cli import main
from rewardft.testing import run_recipe
from tests.documents import blocks, files_in
from tests.shipped.rewards.detectors import save_owlvit
from tests.shipped.text2image.checkpoints import sd3

PAGE = "docs/data.md"
COMMANDS = [
    line.partition("#")[0].strip()
    for block in blocks(PAGE, "sh")
    for line in block.splitlines()
    if line.startswith("rewardft ")
]


def rows_with(key):
    """The one block of JSON that is no file of the page and has the key."""
    files = files_in(PAGE).values()
    (found,) = [text for text in blocks(PAGE, "json") if key in text and text not in files]
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    for name, text in files_in(PAGE).items():
        (root / name).write_text(text)
    (root / "pictures").mkdir()
    for n in (1, 2):
        pixels = np.full((12, 12, 3), 40 * n, dtype=np.uint8)
        pixels[:6, :6] = 250
        Image.fromarray(pixels if n == 1 else pixels[::-1, ::-1]).save(root / f"pictures/{n}.png")
    (root / "pictures" / "metadata.jsonl").write_text(rows_with("file_name"))
    (root / "pictures" / "pairs.jsonl").write_text(rows_with("winner"))
    return root


def test_the_page_has_commands():
    assert len(COMMANDS) == 7 and len(files_in(PAGE)) == 9


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_page_runs(command, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    assert main(shlex.split(command)[1:]) == 0, capsys.readouterr().err


SMALL = [
    "model.height=16",
    "model.width=16",
    "sampler.steps=2",
    "algorithm.group_size=2",
    "algorithm.updates=1",
    "data.batch_size=3",
    "train.steps=1",
]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    root = tmp_path_factory.mktemp("tiny")
    sd3(root / "sd3")
    save_owlvit(root / "owlv2")
    return root


REWARDS = {
    "signs": "{use: ocr_accuracy, side: 96}",
    "scenes": "{use: object_count, weights: OWL, threshold: 0.5}",
}


@pytest.mark.parametrize("name", REWARDS)
def test_the_columns_of_the_page_reach_their_rewards(name, folder, tiny, tmp_path):
    """Its recipes as they stand, but for the size, with all rows in the batch. Symmetry is added, as random weights
    write and draw nothing, and equal rewards teach nothing."""
    pytest.importorskip("rapidocr", reason="reading text needs rapidocr")
    own = REWARDS[name].replace("OWL", str(tiny / "owlv2"))
    settings = [f"model.weights={tiny / 'sd3'}", *SMALL, f"rewards=[{own}, {{use: symmetry}}]"]
    run = run_recipe(folder / f"{name}.yaml", tmp_path / "run", *settings, "data.weight=null")
    (value,) = run.column(f"reward/{REWARDS[name].split()[1].strip(',')}")
    assert run.summary["status"] == "finished" and 0 <= value <= 1
