"""The page that maps TRL's fields: every key that it names exists."""

import inspect
import re

import pytest

from rewardft.algorithms.direct_presets import alignprop
from rewardft.plugins.catalog import build_catalog
from rewardft.plugins.loading import load_plugins
from rewardft.recipe.elsewhere import HERE
from rewardft.recipe.sections import Sections, section_of
from rewardft.testing import run_recipe
from tests.documents import ROOT, files_in, read, table_rows, words
from tests.shipped.text2image import checkpoints

COMPONENTS = {
    "model": ["stable_diffusion"],
    "sampler": ["ddim"],
    "algorithm": ["ddpo", "alignprop"],
}
KEYS = sorted(
    {
        w
        for row in table_rows(read("docs/coming-from-trl.md"))
        for w in words(row[1])
        if re.fullmatch(r"\w+\.\w+", w)
    }
)


@pytest.fixture(scope="module")
def options():
    """Every option of the components that the page is about, by section."""
    catalog = build_catalog(load_plugins(["text2image", "ddpo"], ROOT))
    found = {}
    for section, names in COMPONENTS.items():
        entries = [e for e in catalog.of_kind(f"{section}s") if e.name in names]
        assert len(entries) == len(names)
        found[section] = {name for e in entries for name in inspect.signature(e.factory).parameters}
    return found


def test_the_page_names_keys():
    assert len(KEYS) > 20 and "algorithm.clip" in KEYS and "train.micro_batch" in KEYS


@pytest.mark.parametrize("key", KEYS)
def test_every_key_exists(key, options):
    section, name = key.split(".")
    if section in options:
        assert name in options[section]
    else:
        assert name in section_of(Sections, section).model_fields


def test_the_check_knows_the_names_that_the_page_translates():
    """Of each name that has one key here."""
    rows = [(words(row[0]), words(row[1])) for row in table_rows(read("docs/coming-from-trl.md"))]
    pairs = [
        (name, keys[0])
        for names, keys in rows
        for name in names
        if len(keys) == 1
        and keys[0].startswith(("--", "data.", "train.", "optimizer.", "save."))
        and name.isidentifier()
    ]
    assert len(pairs) > 15
    assert [(name, key) for name, key in pairs if key not in HERE.get(name, "")] == []


def test_the_ported_script_trains(tmp_path):
    """The three files as they are printed, on a tiny checkpoint and fewer samples."""
    for name, text in files_in("docs/coming-from-trl.md").items():
        (tmp_path / name).write_text(text)
    weights = checkpoints.stable_diffusion(tmp_path / "weights")
    small = ["sampler.steps=3", "data.batch_size=4", "algorithm.updates=2", "train.steps=4"]
    run = run_recipe(
        tmp_path / "ported.yaml",
        tmp_path / "run",
        f"model.weights={weights}",
        "train.micro_batch=2",
        "train.log_every=1",
        *small,
    )
    assert run.summary["status"] == "finished" and run.summary["reward_evaluations"] == 2 * 4
    assert all(-1 < value < 1 for value in run.column("reward/redness"))


def test_alignprop_keeps_the_form_of_the_loss_that_the_page_states():
    assert alignprop().shape == "negative"
