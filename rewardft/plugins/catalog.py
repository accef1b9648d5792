"""Every component that the loaded plugins offer, by kind and name, and who it comes from."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from rewardft.errors import PluginError, did_you_mean
from rewardft.plugins.loading import load_installed
from rewardft.plugins.manager import Plugins
from rewardft.plugins.sources import installed

KINDS = ("models", "samplers", "algorithms", "rewards", "regularizers", "datasets", "metrics")
SINGULAR = {kind: kind.removesuffix("s") for kind in KINDS} | {"datasets": "data set"}


@dataclass(frozen=True)
class Entry:
    """A registered component: its factory, and the plugin that registered it."""

    kind: str
    name: str
    factory: Callable[..., Any]
    plugin: str
    version: str | None

    @property
    def title(self) -> str:
        """'reward 'sharpness'', for messages."""
        return f"{SINGULAR[self.kind]} {self.name!r}"

    @property
    def file(self) -> str:
        """The file that the factory is written in; '' for what has no Python source."""
        target = plain_callable(self.factory)
        try:
            # Of the class or function that was written, not of a wrapper from functools.
            return inspect.getsourcefile(target) or ""
        except TypeError:
            return ""

    @property
    def line(self) -> int:
        """The line where the factory begins; 0 for what has no Python source."""
        try:
            return inspect.getsourcelines(plain_callable(self.factory))[1]
        except (OSError, TypeError):
            return 0

    @property
    def location(self) -> str:
        return f"{self.file}:{self.line}"

    @property
    def summary(self) -> str:
        """The first line of the docstring; '' without one."""
        # A partial's own docstring says more than that of what it wraps.
        own = (
            vars(self.factory).get("__doc__")
            if isinstance(self.factory, functools.partial)
            else None
        )
        target = plain_callable(self.factory)
        doc = own or getattr(target, "__doc__", None) or ""
        # "Name(field: type, ...)" says nothing that the options do not.
        generated = doc.startswith(f"{getattr(target, '__name__', '')}(")  # what @dataclass writes
        return "" if generated or not doc.strip() else doc.strip().splitlines()[0]


@dataclass
class Catalog:
    """Components by kind and folded name. Names are case-insensitive."""

    entries: dict[str, dict[str, Entry]] = field(
        default_factory=lambda: {kind: {} for kind in KINDS}
    )
    plugins: tuple[str, ...] = ()

    @property
    def kinds(self) -> tuple[str, ...]:
        return KINDS

    def of_kind(self, kind: str) -> list[Entry]:
        """The components of a kind, sorted by name."""
        return sorted(self.entries[kind].values(), key=lambda entry: entry.name)

    def get(self, kind: str, name: str) -> Entry:
        """The component of that name; raises `PluginError` with suggestions when there is none."""
        found = self.entries[kind].get(name.casefold())
        if found is None:
            raise PluginError(self._missing(kind, name))
        return found

    def _missing(self, kind: str, name: str) -> str:
        known = self.of_kind(kind)
        text = f"there is no {SINGULAR[kind]} {name!r}."
        text += (
            did_you_mean(name, (e.name for e in known))
            if known
            else f" The loaded plugins offer no {kind}."
        )
        others = [other for other in KINDS if name.casefold() in self.entries[other]]
        if others:
            text += f" {name!r} is a {SINGULAR[others[0]]}."
        # The likeliest cause of a missing name: its plugin is installed and not listed.
        owner = unlisted_owner(kind, name, self.plugins)
        if owner is not None:
            text += f" The installed plugin {owner!r} has it: add {owner} to `plugins:`."
        return text


def unlisted_owner(kind: str, name: str, listed: Sequence[str]) -> str | None:
    """The installed plugin that registers a component and is not listed; None where none does."""
    here = {plugin.casefold() for plugin in listed}
    for key, points in installed().items():
        if key not in here and name.casefold() in _names_of(points[0].name, kind):
            return points[0].name
    return None


@functools.cache
def _names_of(plugin: str, kind: str) -> frozenset[str]:
    """What an installed plugin registers; nothing of one that is broken, which nobody asked for."""
    try:
        # Cached: several wrong names in one recipe would import all plugins several times.
        found = load_installed(plugin).registrations(f"register_{kind}")
    except PluginError:
        return frozenset()
    return frozenset(name.casefold() for _, factories in found for name in factories)


def build_catalog(plugins: Plugins) -> Catalog:
    """Ask every plugin for its components.

    Raises `PluginError` when two plugins register the same name.
    """
    catalog = Catalog(plugins=tuple(p.name for p in plugins.loaded))
    problems = []
    for entry in _registered(plugins):
        # The first keeps the name, so that every later one is reported against it.
        first = catalog.entries[entry.kind].setdefault(entry.name.casefold(), entry)
        if first is not entry:
            problems.append(
                f"{entry.title} is registered by two plugins: {first.plugin!r} ({first.location}) "
                f"and {entry.plugin!r} ({entry.location}). Rename one, or list only one of the "
                "plugins."
            )
    if problems:
        raise PluginError("\n".join(problems))
    return catalog


def _registered(plugins: Plugins) -> Iterator[Entry]:
    for kind in KINDS:
        for plugin, factories in plugins.registrations(f"register_{kind}"):
            for name, factory in factories.items():
                yield Entry(kind, name, factory, plugin.name, plugin.version)


def plain_callable(factory: Any) -> Any:
    """The class or function behind partials and decorators; the class of a callable instance."""
    while isinstance(factory, functools.partial):
        factory = factory.func
    factory = inspect.unwrap(factory)
    return factory if inspect.isclass(factory) or inspect.isroutine(factory) else type(factory)
