"""The gallery page: its pictures are those that its script takes, and the script takes them from what its commands make."""

import re
import shlex
import sys

import pytest
from PIL import Image

from rewardft.cli import main
from tests.documents import ROOT, blocks, read

MOST_BYTES = 1_200_000
sys.path.insert(0, str(ROOT / "docs"))

import draw_gallery  # noqa: E402


def pictures():
    return re.findall(r"!\[([^]]+)\]\((gallery_\w+\.png)\)", read("docs/gallery.md"))


def test_the_page_shows_each_picture_of_the_script_once_and_says_what_it_shows():
    names = [name for _, name in pictures()]
    assert sorted(names) == sorted(shot.name for shot in draw_gallery.SHOTS)
    assert all(len(words) > 20 for words, _ in pictures())
    there = {path.name for path in (ROOT / "docs").glob("gallery_*")}
    assert there == set(names)


def test_all_pictures_together_are_small_and_none_is_wider_than_the_page():
    paths = [ROOT / "docs" / name for _, name in pictures()]
    assert sum(path.stat().st_size for path in paths) < MOST_BYTES
    for path in paths:
        with Image.open(path) as image:
            assert image.width <= draw_gallery.WIDTH, path.name


def test_every_page_of_which_a_picture_is_taken_is_made_by_a_command():
    commands = [
        shlex.split(line) for text in blocks("docs/gallery.md", "sh") for line in text.splitlines()
    ]
    made = {
        word.removeprefix("runs/gallery/")
        for words in commands
        for word in words
        if word.startswith("runs/gallery/")
    }
    assert {shot.page.split("/")[0] for shot in draw_gallery.SHOTS} == made


@pytest.mark.slow
def test_the_script_takes_the_pictures_of_what_the_commands_make(tmp_path, monkeypatch, capsys):
    """The commands on the tiny model, shortened; the others are the same with larger recipes."""
    pytest.importorskip("playwright.sync_api", reason="pictures are taken by playwright")
    pytest.importorskip("plotly", reason="the report needs plotly: pip install 'rewardft[report]'")
    monkeypatch.chdir(tmp_path)
    lines = [
        shlex.split(line)[1:]
        for text in blocks("docs/gallery.md", "sh")
        for line in text.splitlines()
    ]
    compare = next(words for words in lines if words[:2] == ["compare", "toy_draft"])
    assert main([*compare, "--seeds", "2", "--budget", "400-rewards"]) == 0
    assert main(next(words for words in lines if words[0] == "report")) == 0
    run = next(words for words in lines if words[0] == "run")
    run = [word.replace("digits_srpo", "toy_draft") for word in run]
    assert main([*run, "--set", "train.steps=8"]) == 0
    # Served, it would not end.
    assert main([*next(words for words in lines if words[0] == "watch"), "--once"]) == 0
    (tmp_path / "taken").mkdir()
    draw_gallery.main(tmp_path / "runs" / "gallery", tmp_path / "taken")
    said = capsys.readouterr().out
    for shot in draw_gallery.SHOTS:
        if shot.page.split("/")[0] in ("front", "kl"):
            assert (
                f"{shot.name}: runs/gallery/{shot.page} is not there".replace(
                    "runs", f"{tmp_path}/runs"
                )
                in said
            )
            continue
        with Image.open(tmp_path / "taken" / shot.name) as image:
            assert image.height > 150 and len(image.convert("RGB").getcolors(1 << 20)) > 8, (
                shot.name
            )
