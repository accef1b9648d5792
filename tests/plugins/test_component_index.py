"""Lists of names are answered from what was found before, for as long as nothing has changed."""

import json
import os
import sys

import pytest

from rewardft.plugins import component_index
from rewardft.plugins.component_index import Listed, listed_components, owner_of

PLUGIN = '''
print("imported")
from rewardft import hookimpl


def glow(rollout, batch):
    """Light."""
    return 0.0


@hookimpl
def register_rewards():
    return {"glow": glow}
'''


@pytest.fixture
def stranger(tmp_path, monkeypatch):
    """An installed plugin; returns the file that it is in."""
    site = tmp_path / "site"
    facts = site / "stranger-1.0.dist-info"
    facts.mkdir(parents=True)
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: stranger\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text("[rewardft]\nstranger = stranger_plugin\n")
    (site / "stranger_plugin.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(site)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    found = component_index.installed
    monkeypatch.setattr(
        component_index, "installed", lambda: {k: v for k, v in found().items() if k == "stranger"}
    )
    yield site / "stranger_plugin.py"
    sys.modules.pop("stranger_plugin", None)


def rewards(problems=None):
    sys.modules.pop("stranger_plugin", None)
    listed = listed_components([] if problems is None else problems)
    return [one for one in listed if one.kind == "rewards"]


def test_a_plugin_is_imported_once_and_again_when_it_was_edited(stranger, capsys):
    expected = [Listed("rewards", "glow", "stranger", "Light.")]
    assert rewards() == expected and capsys.readouterr().out == "imported\n"
    assert rewards() == expected and capsys.readouterr().out == ""
    assert owner_of("rewards", "GLOW", ["toy"]) == "stranger"
    assert owner_of("rewards", "glow", ["Stranger"]) is None
    assert owner_of("models", "glow", []) is None

    stranger.write_text(PLUGIN.replace('"glow": glow', '"glim": glow'))
    os.utime(stranger, ns=(1, 1))
    assert [one.name for one in rewards()] == ["glim"]
    assert capsys.readouterr().out == "imported\n"


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"stranger": 3}', '{"stranger": {"stamp": "x", "components": [{}]}}', "\xff"],
)
def test_a_damaged_cache_is_made_anew(stranger, tmp_path, text):
    before = rewards()
    cache = tmp_path / "cache" / "rewardft" / "components.json"
    sound = json.loads(cache.read_text())
    cache.write_bytes(text.encode("latin-1"))
    assert rewards() == before and json.loads(cache.read_text()) == sound


def test_a_plugin_that_cannot_be_used_is_said_each_time_and_not_kept(stranger, tmp_path):
    stranger.write_text("raise SystemExit('gone')")
    for _ in range(2):
        problems = []
        assert rewards(problems) == []
        assert problems == [
            f"plugin 'stranger' could not be imported ({stranger}:1): SystemExit: gone"
        ]
    kept = json.loads((tmp_path / "cache" / "rewardft" / "components.json").read_text())
    assert set(kept) == {"builtin"}


def test_a_cache_that_cannot_be_written_costs_time_alone(stranger, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert [one.name for one in rewards()] == ["glow"] == [one.name for one in rewards()]
