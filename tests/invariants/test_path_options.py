"""Every option that its docstring calls a folder, a file or a path starts at the recipe's folder."""

import inspect
import re
from pathlib import Path

import pytest

from rewardft.files.paths import anchored
from rewardft.plugins.annotations import annotation_of
from rewardft.plugins.catalog import build_catalog
from rewardft.plugins.component import option_parameters
from rewardft.plugins.entries import plain_callable
from rewardft.plugins.loading import load_plugins
from rewardft.plugins.sources import installed

BASE = Path("/the/folder/of/the/recipe")
ENTRIES = build_catalog(load_plugins(sorted(installed()), BASE))
A_PATH = re.compile(r"\b(folder|file|path)\b")
# Names within a folder or a repository.
A_NAME = {"prompts.split", "aesthetic.head_file"}


def described(entry):
    """What the docstring says of each option: `name: text`, or `name, other: text`."""
    target = plain_callable(entry.factory)
    parts = [target, getattr(target, "__init__", None)]
    found, names = {}, ()
    for line in "\n".join(inspect.getdoc(part) or "" for part in parts).splitlines():
        start = re.match(r"\s*(\w+(?:, \w+)*): +(.*)", line)
        if start:
            names, line = start[1].split(", "), start[2]
        elif not line.startswith(" "):
            names = ()
        for name in names:
            found[name] = f"{found.get(name, '')} {line.strip()}"
    return found


def path_options():
    for kind in ENTRIES.entries:
        for entry in ENTRIES.of_kind(kind):
            texts = described(entry)
            for name, parameter in option_parameters(entry).items():
                if A_PATH.search(texts.get(name, "")) and f"{entry.name}.{name}" not in A_NAME:
                    yield pytest.param(entry, parameter, id=f"{entry.name}.{name}")


@pytest.mark.parametrize(("entry", "parameter"), list(path_options()))
def test_a_relative_path_starts_at_the_recipe(entry, parameter):
    annotation = annotation_of(entry, parameter)
    assert anchored(annotation, "it/is/here.safetensors", BASE) == f"{BASE}/it/is/here.safetensors"
