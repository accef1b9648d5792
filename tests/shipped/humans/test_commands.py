"""`rewardft humans ...`."""

import json

import pytest
from typer.testing import CliRunner

pytest.importorskip("smplx")
from rewardft_plugins.humans.commands import app


def test_import_motion_command(tmp_path):
    source = __file__.replace("test_commands.py", "files/humanoid3d_backflip.txt")
    result = CliRunner().invoke(app, ["import-motion", str(tmp_path / "mine.npz"), source])
    assert result.exit_code == 0, result.output
    assert "1 clips, 29 frames" in result.output
    assert (
        json.loads((tmp_path / "mine.json").read_text())["clips"]["dm_backflip"]["plain"] is False
    )
