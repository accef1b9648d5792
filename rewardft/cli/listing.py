"""`ls`, `cp` and `plugins`: what there is."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rewardft.cli.tables import print_table
from rewardft.errors import RewardftError, did_you_mean
from rewardft.files.atomic import write_text
from rewardft.files.paths import local_path, read_text
from rewardft.plugins.catalog import build_catalog
from rewardft.plugins.component_index import listed_components
from rewardft.plugins.entries import KINDS, Entry
from rewardft.plugins.loading import list_installed_plugins, load_plugins
from rewardft.recipe.shipped import (
    COMPARISON,
    find_recipe,
    headline,
    shipped_comparisons,
    shipped_recipes,
)

FILES = {
    "recipes": ("what it trains", shipped_recipes),
    "comparisons": ("what it compares", shipped_comparisons),
}


def list_everything(names: Sequence[str], only: str | None = None) -> None:
    """Recipes, then components by kind. Installed plugins are tried each alone; named ones are
    loaded together.

    only: a kind of component, `recipes` or `comparisons`; None: all. Raises RewardftError for
        another word.
    """
    tables, problems = everything(names, only)
    for title, rows in tables.items():
        of_files = (FILES[title][0],) if title in FILES else ("plugin", "what it is")
        print_table(title, ("name", *of_files), [tuple(row.values()) for row in rows])
    # Last, where they are seen: a broken plugin spoils no table.
    for problem in problems:
        print(f"\nnot listed: {problem}")


def list_json(names: Sequence[str], only: str | None = None) -> None:
    """The same as one JSON object: a list for each kind, and `not_listed` with what is wrong."""
    tables, problems = everything(names, only)
    print(json.dumps({**tables, "not_listed": problems}, indent=1))


def everything(
    names: Sequence[str], only: str | None
) -> tuple[dict[str, list[dict[str, str]]], list[str]]:
    """({kind: rows of name, plugin and summary}, why plugins are not listed)."""
    if only is not None and only not in (*FILES, *KINDS):
        raise RewardftError(
            f"there is no kind {only!r} to list.{did_you_mean(only, (*FILES, *KINDS))}"
        )
    tables = {
        title: [{"name": name, "summary": headline(path)} for name, path in found().items()]
        for title, (_, found) in FILES.items()
        if only in (None, title)
    }
    problems: list[str] = []
    if only in FILES:
        return tables, problems
    entries: list[Any] = _entries_of(names) if names else list(listed_components(problems))
    for kind in KINDS if only is None else (only,):
        listed = sorted((e for e in entries if e.kind == kind), key=lambda e: e.name)
        tables[kind] = [{"name": e.name, "plugin": e.plugin, "summary": e.summary} for e in listed]
    return tables, problems


def _entries_of(names: Sequence[str]) -> list[Entry]:
    catalog = build_catalog(load_plugins(names, Path.cwd()))
    return [entry for kind in KINDS for entry in catalog.of_kind(kind)]


def copy_recipe(name: str, destination: Path) -> None:
    """Copy a recipe's text as it is; raises `RewardftError` rather than overwrite."""
    source, place = find_recipe(name), local_path(destination, Path.cwd())
    target = destination / source.name if place.is_dir() else destination
    # Never overwritten: the copy there may have been edited.
    if local_path(target, Path.cwd()).exists():
        raise RewardftError(
            f"{target} exists and is not overwritten; give another name, or remove it first."
        )
    if not target.parent.is_dir():
        raise RewardftError(f"{target}: there is no folder {target.parent}; make it first.")
    # As text, with its comments: these are what one copies a recipe for.
    write_text(target, read_text(source))
    command = "compare" if source.name.startswith(COMPARISON) else "run"
    print(f"{target}: a copy of {source}. Run it with: rewardft {command} {target}")


def list_plugins() -> None:
    """One row for each installed plugin: version, package, hooks; or why it cannot be used."""
    rows = [
        (
            row.name,
            row.version or "-",
            row.package,
            ", ".join(row.requires),
            ", ".join(row.hooks) if row.problem is None else row.problem,
        )
        for row in list_installed_plugins()
    ]
    print_table("installed plugins", ("name", "version", "package", "requires", "hooks"), rows)
