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


ALL_ROWS = ["data.weight=null", "rewards=[{use: ocr_accuracy, side: 96}]"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    root = tmp_path_factory.mktemp("tiny")
    sd3(root / "sd3")
    save_owlvit(root / "owlv2")
    return root


def test_the_columns_of_the_page_reach_their_rewards(folder, tiny, tmp_path):
    """Both recipes as they stand, but for the size; a row that wants no text has no reward."""
    pytest.importorskip("rapidocr", reason="reading text needs rapidocr")
    settings = [f"model.weights={tiny / 'sd3'}", *SMALL]
    signs = run_recipe(folder / "signs.yaml", tmp_path / "signs", *settings, *ALL_ROWS)
    assert signs.summary["status"] == "finished"
    assert 0 <= signs.column("reward/ocr_accuracy")[0] <= 1
    detector = f"rewards=[{{use: object_count, weights: {tiny / 'owlv2'}, threshold: 0.5}}]"
    scenes = run_recipe(folder / "scenes.yaml", tmp_path / "scenes", *settings, detector)
    assert 0 <= scenes.column("reward/object_count")[0] <= 1
