"""The table of docs/rewards.md is what the plugin registers and declares."""

from pathlib import Path

import pytest

from rewardft.plugins.catalog import build_catalog
from rewardft.plugins.component import tags_of
from rewardft.plugins.loading import load_plugins
from tests.documents import read, table_rows, words


@pytest.fixture(scope="module")
def entries():
    plugins = load_plugins(["toy", "rewards"], Path())
    return {e.name: e for e in build_catalog(plugins).of_kind("rewards") if e.plugin == "rewards"}


def test_the_table_lists_every_reward_with_its_gradient_and_range(entries):
    section = read("docs/rewards.md").partition("\n## The table")[2].partition("\n## ")[0]
    rows = {words(row[0])[0]: row[1:3] for row in table_rows(section)}
    assert list(rows) == sorted(entries)
    for name, (gradient, bounds) in rows.items():
        factory = entries[name].factory
        always = "reward_gradient" in tags_of(entries[name], "provides", None, {})
        asked = "reward_gradient" in tags_of(entries[name], "provides", "tags", {"gradient": True})
        assert gradient == ("yes" if always else "`gradient: true`" if asked else "no"), name
        assert bounds == "{:g} to {:g}".format(*factory.range), name
        assert factory.space == "pixels"


def test_rewards_that_read_prompts_say_so(entries):
    tagged = {
        name for name, e in entries.items() if "prompt_reward" in tags_of(e, "provides", None, {})
    }
    assert tagged == {"clip_score", "pick_score", "hps_v2", "image_reward"}


def test_every_reward_has_a_summary(entries):
    assert [name for name, entry in entries.items() if len(entry.summary) < 30] == []
