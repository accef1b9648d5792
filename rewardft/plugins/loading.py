"""Loads the plugins that a recipe lists, and only those, each after the plugins that it requires.

The core's own components are registered first (`rewardft.plugins.builtin`), then the listed plugins
in order. A plugin that was asked for and cannot be used stops the run: the message names the
plugin, the hook, the file and the fix.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

from rewardft.errors import PluginError
from rewardft.files.surroundings import put_back
from rewardft.files.versions import version_of
from rewardft.plugins import builtin
from rewardft.plugins.manager import BUILTIN, Plugins
from rewardft.plugins.sources import (
    Source,
    check_version,
    find,
    import_plugin,
    installed,
    parse_request,
    source_of,
    waiting_for,
)


@dataclass(frozen=True)
class InstalledPlugin:
    """A row of `rewardft plugins`.

    `problem` says why an installed plugin cannot be used; None when it can.
    """

    name: str
    package: str
    version: str | None
    file: Path | None = None
    hooks: tuple[str, ...] = ()
    problem: str | None = None
    requires: tuple[str, ...] = ()


def load_plugins(names: Sequence[str], base: Path, core: Any = None) -> Plugins:
    """Load `names` (entries of `plugins:`; paths are relative to `base`) after the core's own
    plugin.

    Raises `PluginError` with every plugin that cannot be used. `core` replaces
    `rewardft.plugins.builtin` in tests.
    """
    plugins, broken = load_usable_plugins(names, base, core)
    if broken:
        raise join_errors(broken)
    return plugins


@put_back()
def load_usable_plugins(
    names: Sequence[str], base: Path, core: Any = None
) -> tuple[Plugins, list[PluginError]]:
    """`load_plugins`, but the plugins that cannot be used are left out and their errors
    returned."""
    plugins = Plugins()
    core = core or builtin
    plugins.add(Source(BUILTIN, core.__name__, lambda: core), core, version_of("rewardft"))
    # By place and not by name: the same plugin may be listed under two names.
    places: dict[str, str] = {core.__name__: BUILTIN}
    required: set[str] = set()
    broken = []
    for index, text in enumerate(names):
        try:
            _load_one(plugins, text, base, places, required)
        except PluginError as error:
            # So that the message can name the entry's line in the recipe.
            error.entry = index
            broken.append(error)
    return plugins, broken


def join_errors(errors: Sequence[PluginError]) -> PluginError:
    """One error with all the messages."""
    if len(errors) == 1:
        return errors[0]
    text = "\n".join(f"  - {line}" for error in errors for line in str(error).splitlines())
    joined = PluginError(f"{len(errors)} plugins cannot be used:\n{text}")
    # One traceback is enough to show where; all messages are in the text.
    joined.__cause__ = errors[0]
    return joined


@put_back()
def load_installed(name: str) -> Plugins:
    """Load one installed plugin by its entry-point name, alone: without the core's.

    Raises `PluginError`.
    """
    plugins = Plugins()
    source = find(parse_request(name), Path())
    # Without the core and without what it requires: only its own names are asked for.
    plugins.add(source, import_plugin(source), source.version)
    return plugins


def list_installed_plugins() -> list[InstalledPlugin]:
    """Try every installed plugin, each alone: one that fails to load does not hide the others."""
    return [_try_installed(point) for _, points in sorted(installed().items()) for point in points]


@put_back()
def _try_installed(point: EntryPoint) -> InstalledPlugin:
    package, source = point.dist.name if point.dist else "", source_of(point)
    try:
        plugin = import_plugin(source)
        requires = _requires(source.name, plugin)
        # Registered too: hooks that are wrong show only then.
        loaded = Plugins().add(source, plugin, source.version)
    except PluginError as error:
        return InstalledPlugin(point.name, package, source.version, problem=str(error))
    return InstalledPlugin(
        point.name, package, source.version, loaded.file, loaded.hooks, requires=requires
    )


def _load_one(
    plugins: Plugins, text: str, base: Path, places: dict[str, str], required: set[str]
) -> None:
    """Load one entry of `plugins:`, and before it the plugins that it builds on.

    places: what has been loaded from where, by the entry that asked for it.
    required: the places that no entry asked for yet, so that one may still name them.
    """
    request = parse_request(text)
    if request.name.casefold() == BUILTIN:
        raise PluginError(
            f"plugin {request.name!r} is the core's own and always loaded: remove it from "
            "`plugins:`."
        )
    source = find(request, base)
    # Listed after all, after a plugin that requires it: its version may be checked only here.
    if source.place in required:
        required.remove(source.place)
        places[source.place] = text
        version = next(p.version for p in plugins.loaded if p.name == source.name)
        return check_version(request, source.name, version)
    if source.place in places:
        other = places[source.place]
        same = "twice" if other == text else f"twice, as {other!r} and as {text!r}"
        raise PluginError(f"plugin {source.name!r} is listed {same} ({source.place}): remove one.")
    places[source.place] = text
    # Two of one name could not be told apart in messages and manifests.
    for loaded in plugins.loaded:
        if loaded.name.casefold() == source.name.casefold():
            raise PluginError(
                f"two plugins are called {source.name!r}, {loaded.file} and {source.place}: rename "
                "one."
            )
    with waiting_for(f"plugin {source.name!r} to be imported ({source.place})"):
        plugin = import_plugin(source)
    # A file has no metadata; its module may say.
    version = source.version or _own_version(plugin)
    check_version(request, source.name, version)
    # Though the recipe does not list them: the plugin's components build on theirs.
    for needed in _requires(source.name, plugin):
        place = _place_of(source.name, needed, base)
        if place not in places:
            _load_one(plugins, needed, base, places, required)
            required.add(place)
    plugins.add(source, plugin, version)


def _requires(name: str, plugin: Any) -> tuple[str, ...]:
    """The module's `requires`: names of installed plugins that it imports from."""
    requires = getattr(plugin, "requires", ())
    listed = isinstance(requires, (tuple, list, set, frozenset))
    if not listed or not all(isinstance(needed, str) for needed in requires):
        raise PluginError(
            f"plugin {name!r}: `requires` is {requires!r}; expected a tuple of plugin names, such "
            'as requires = ("name",).'
        )
    return tuple(requires)


def _own_version(plugin: Any) -> str | None:
    """The module's `__version__`, which may be a number, as text; None where it has none."""
    version = getattr(plugin, "__version__", None)
    return None if version is None else str(version)


def _place_of(name: str, needed: str, base: Path) -> str:
    try:
        return find(parse_request(needed), base).place
    except PluginError as error:
        raise PluginError(f"plugin {name!r} requires {needed!r}: {error}") from error
