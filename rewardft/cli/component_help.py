"""`show KIND NAME`: one component without a recipe: its options, tags and description."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path

from rewardft.cli.tables import print_table
from rewardft.errors import PluginError, RewardftError, did_you_mean
from rewardft.plugins.catalog import KINDS, SINGULAR, Catalog, Entry, build_catalog, plain_callable
from rewardft.plugins.component import annotation_of, option_parameters, tags_of
from rewardft.plugins.loading import load_installed, load_plugins
from rewardft.plugins.sources import installed
from rewardft.recipe.typed_values import type_words

# A kind as one says it: in the singular, or by its section's name.
WORDS = {"data": "datasets", "dataset": "datasets"} | {one: many for many, one in SINGULAR.items()}


def show_component(word: str, name: str) -> None:
    """Describe one component. Raises RewardftError for an unknown kind or name."""
    kind = WORDS.get(word, word)
    if kind not in KINDS:
        raise RewardftError(f"there is no kind {word!r} of component.{did_you_mean(word, WORDS)}")
    entry = find(kind, name)
    # The fixed tags alone: those that depend on options need a recipe.
    tags = {tag: ", ".join(sorted(tags_of(entry, tag, None, {}))) for tag in ("provides", "needs")}
    facts = [("plugin", entry.plugin), ("file", entry.location)]
    facts += [(tag, words) for tag, words in tags.items() if words]
    print_table(entry.title, ("what", "value"), facts)
    print_table("options", ("option", "type", "default"), list(options(entry)))
    own = inspect.getdoc(plain_callable(entry.factory))
    print(f"\n{own or entry.summary}\n\nIn a recipe: {{use: {entry.name}, option: value}}")


def find(kind: str, name: str) -> Entry:
    """The component of that name, of the core or of any installed plugin that loads."""
    known: list[str] = []
    for catalog in catalogs():
        found = {entry.name.casefold(): entry for entry in catalog.of_kind(kind)}
        if name.casefold() in found:
            return found[name.casefold()]
        # Of every catalogue, so that did-you-mean knows what is in a plugin too.
        known += [entry.name for entry in found.values()]
    hint = did_you_mean(name, set(known))
    raise RewardftError(f"unknown {SINGULAR[kind]} {name!r} in the installed plugins.{hint}")


def catalogs() -> Iterator[Catalog]:
    """The core's components, then those of each installed plugin."""
    yield build_catalog(load_plugins([], Path()))
    for points in installed().values():
        try:
            yield build_catalog(load_installed(points[0].name))
        except PluginError:  # `rewardft plugins` says what is wrong with it
            continue


def options(entry: Entry) -> Iterator[tuple[str, str, str]]:
    """Name, type in words and default of each option."""
    for name, parameter in option_parameters(entry).items():
        if parameter.kind is parameter.VAR_KEYWORD:
            yield f"{name} ...", "any further options", ""
            continue
        given = parameter.default is not parameter.empty
        words = type_words(annotation_of(entry, parameter))
        yield name, words, repr(parameter.default) if given else "(required)"
