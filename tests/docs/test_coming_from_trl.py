"""The page that maps TRL's fields: every key that it names exists."""

import inspect
import re

import pytest

from rewardft.algorithms.direct_presets import alignprop
from rewardft.plugins.catalog import build_catalog
from rewardft.plugins.loading import load_plugins
from rewardft.recipe.sections import Sections, section_of
from tests.documents import ROOT, read, table_rows, words

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


def test_alignprop_keeps_the_form_of_the_loss_that_the_page_states():
    assert alignprop().shape == "negative"
