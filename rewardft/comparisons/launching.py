"""The launcher of a comparison, by name and options as a command line gives them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rewardft.comparisons.runner import Launch
from rewardft.errors import ComponentError, did_you_mean
from rewardft.plugins.catalog import Catalog, build_catalog
from rewardft.plugins.component import Component, check_options
from rewardft.plugins.component_index import listed_components, owner_of
from rewardft.plugins.entries import Entry
from rewardft.plugins.loading import load_plugins
from rewardft.recipe import strict_yaml
from rewardft.recipe.overrides import shortened

KIND = "launchers"


def find_launch(name: str, options: Mapping[str, Any], jobs: int | None) -> Launch:
    """Where runs are made, checked and built before any of them is.

    name: of a launcher of the core or of an installed plugin, or a plugin's file, such as
        `./mine.py`. Raises ComponentError for an unknown one, and for options that it has not.
    """
    catalog, entry = find_file(name) if is_file(name) else find_name(name)
    values, problems = check_options(catalog, entry, options, ())
    if problems:
        raise ComponentError("\n".join(f"--launcher-option: {message}" for _, message in problems))
    return Launch(Component(entry, values).build(), jobs)


def is_file(name: str) -> bool:
    """Whether a plugin is meant, by its path."""
    return name.endswith(".py") or "/" in name


def find_file(path: str) -> tuple[Catalog, Entry]:
    """The only launcher of a plugin's file or folder."""
    plugins = load_plugins([path], Path.cwd())
    catalog = build_catalog(plugins)
    own = [entry for entry in catalog.of_kind(KIND) if entry.plugin == plugins.loaded[-1].name]
    if len(own) != 1:
        names = ", ".join(entry.name for entry in own) or "none"
        raise ComponentError(
            f"--launcher {path}: expected a plugin that registers one launcher; it has {names}."
        )
    return catalog, own[0]


def find_name(name: str) -> tuple[Catalog, Entry]:
    """The launcher of that name; only the plugin that has it is loaded."""
    catalog = build_catalog(load_plugins([], Path.cwd()))
    # First, for a list of all plugins' names may take seconds.
    if name.casefold() in catalog.entries[KIND]:
        return catalog, catalog.get(KIND, name)
    problems: list[str] = []
    known = [one.name for one in listed_components(problems) if one.kind == KIND]
    if name.casefold() not in map(str.casefold, known):
        # A plugin that cannot be used may be the one that has it.
        broken = "".join(f"\n{problem}" for problem in problems)
        raise ComponentError(
            f"--launcher: there is no launcher {name!r}.{did_you_mean(name, known)}{broken}"
        )
    owner = owner_of(KIND, name, [])
    assert owner is not None
    catalog = build_catalog(load_plugins([owner], Path.cwd()))
    return catalog, catalog.get(KIND, name)


def parse_options(texts: Sequence[str]) -> dict[str, Any]:
    """`NAME=VALUE` as after `--launcher-option`, values as in a recipe. Raises ComponentError."""
    options: dict[str, Any] = {}
    for text in texts:
        here = f"--launcher-option {shortened(text)}"
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise ComponentError(f"{here}: expected NAME=VALUE, such as gpus=1.")
        if name.strip() in options:
            raise ComponentError(f"{here}: {name.strip()} is given twice.")
        document = strict_yaml.parse(value)
        if document.problems:
            raise ComponentError(f"{here}: {document.problems[0].message}")
        options[name.strip()] = document.data
    return options
