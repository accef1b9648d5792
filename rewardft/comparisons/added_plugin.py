"""The plugin of an algorithm that a comparison varies, where the recipe does not list it."""

from __future__ import annotations

import json
from collections.abc import Iterable

from rewardft.comparisons.settings import key_of
from rewardft.comparisons.sources import Variant
from rewardft.errors import PluginError
from rewardft.plugins.loading import load_installed
from rewardft.plugins.manager import LoadedPlugin
from rewardft.plugins.sources import installed
from rewardft.recipe.recipe import Recipe, load_recipe


def with_plugin(variant: Variant) -> Variant:
    """A varied algorithm's plugin is listed as well, where the recipe does not list it."""
    # Only for what `--vary` or `--set` brought in: a recipe's own list of plugins is its author's.
    changed = [text for text in variant.settings if key_of(text) in ("algorithm", "algorithm.use")]
    if not changed or any(key_of(text) == "plugins" for text in variant.settings):
        return variant
    recipe = load_recipe(variant.recipe, variant.settings)
    plugin = plugin_of_algorithm(recipe.algorithm.use, recipe)
    if plugin is None:
        return variant
    return variant.with_settings(f"plugins={json.dumps([*recipe.dump()['plugins'], plugin])}")


def plugin_of_algorithm(name: str, recipe: Recipe) -> str | None:
    """The installed plugin that must be added for an algorithm;
    None when it is loaded already, or no plugin has it."""
    from rewardft.plugins.builtin import register_algorithms
    from rewardft.plugins.loading import load_plugins

    listed = load_plugins(recipe.plugins, recipe.base).registrations("register_algorithms")
    if name.casefold() in names_in(listed) | set(register_algorithms()):
        return None
    for points in installed().values():
        try:
            found = load_installed(points[0].name).registrations("register_algorithms")
        except PluginError:  # a broken plugin that nobody asked for; `rewardft plugins` reports it
            continue
        if name.casefold() in names_in(found):
            return points[0].name
    return None


def names_in(registrations: Iterable[tuple[LoadedPlugin, Iterable[str]]]) -> set[str]:
    """The registered names in lower case, without the plugins that they are of."""
    return {name.casefold() for _, found in registrations for name in found}
