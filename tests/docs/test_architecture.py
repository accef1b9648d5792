"""docs/architecture.md shows the imports as they are, and its trips name files that exist."""

import re
import subprocess
import sys

from tests.documents import ROOT, read


def trips():
    parts = re.split(r"^## ", read("docs/architecture.md"), flags=re.M)[1:]
    return {part.splitlines()[0]: re.findall(r"`(rewardft/[\w./]+)`", part) for part in parts}


def test_the_picture_is_drawn_from_todays_imports():
    """Mended by: python docs/draw_architecture.py"""
    command = [sys.executable, str(ROOT / "docs" / "draw_architecture.py"), "--check"]
    assert subprocess.run(command).returncode == 0
    assert ", 0 of them in a cycle." in read("docs/architecture.md")


def test_each_of_three_trips_names_at_most_eight_files_that_exist():
    assert len(trips()) == 3
    for title, files in trips().items():
        assert 0 < len(files) <= 8, title
        assert [file for file in files if not (ROOT / file).exists()] == []
