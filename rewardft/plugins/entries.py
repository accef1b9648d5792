"""A registered component, and who it comes from."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from rewardft.errors import PluginError
from rewardft.files.sentences import first_sentence
from rewardft.plugins.manager import Plugins

KINDS = (
    "models",
    "samplers",
    "algorithms",
    "rewards",
    "regularizers",
    "datasets",
    "metrics",
    "launchers",
)
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
            # Built in C or made at run time: there is no line to point at.
            return 0

    @property
    def location(self) -> str:
        return f"{self.file}:{self.line}"

    @property
    def summary(self) -> str:
        """The first sentence of the docstring, over all its lines; '' without one."""
        own = (
            vars(self.factory).get("__doc__")
            if isinstance(self.factory, functools.partial)
            else None
        )
        target = plain_callable(self.factory)
        doc = own or getattr(target, "__doc__", None) or ""
        generated = doc.startswith(f"{getattr(target, '__name__', '')}(")  # what @dataclass writes
        return "" if generated else first_sentence(doc)


def registered(plugins: Plugins) -> list[Entry]:
    """The components of all plugins. Raises `PluginError` when two register the same name."""
    entries = [
        Entry(kind, name, factory, plugin.name, plugin.version)
        for kind in KINDS
        for plugin, factories in plugins.registrations(f"register_{kind}")
        for name, factory in factories.items()
    ]
    first: dict[tuple[str, str], Entry] = {}
    problems = []
    for entry in entries:
        # The first keeps the name, so that every later one is reported against it.
        twin = first.setdefault((entry.kind, entry.name.casefold()), entry)
        if twin is not entry:
            problems.append(
                f"{entry.title} is registered by two plugins: {twin.plugin!r} ({twin.location}) "
                f"and {entry.plugin!r} ({entry.location}). Rename one, or list only one of the "
                "plugins."
            )
    problems += [problem for entry in entries for problem in _declaration_problems(entry)]
    if problems:
        raise PluginError("\n".join(problems))
    return entries


def _declaration_problems(entry: Entry) -> Iterator[str]:
    """What is wrong with a factory's parameters and tags, before anything asks for them."""
    try:
        inspect.signature(entry.factory)
    except (TypeError, ValueError):
        yield (
            f"{_origin(entry)}: {entry.factory!r:.60} does not say what parameters it takes, so a "
            "recipe could give it no options. Wrap it in a function."
        )
    for attribute in ("needs", "provides", "refuses"):
        value = look_up(entry.factory, attribute)
        if value is not None and not is_tags(value):
            yield f"{_origin(entry)}: {not_tags(f'`{attribute}` is', value)}"


def _origin(entry: Entry) -> str:
    """'reward 'sharpness' of the plugin 'mine' (mine.py:3)'; finding the line parses the file."""
    place = f" ({entry.location})" if entry.file else ""
    return f"{entry.title} of the plugin {entry.plugin!r}{place}"


def look_up(factory: Any, name: str) -> Any:
    """An attribute of the factory, or of what a partial wraps; None without it."""
    while isinstance(factory, functools.partial) and not hasattr(factory, name):
        factory = factory.func
    return getattr(factory, name, None)


def is_tags(value: Any) -> bool:
    """Whether tags are given as a set or list of words. A word alone, as `("log_prob")` is, would
    be read as its letters."""
    listed = isinstance(value, (set, frozenset, tuple, list))
    return listed and all(isinstance(tag, str) for tag in value)


def not_tags(said: str, value: Any) -> str:
    """What is said of tags that are none. said: such as '`provides` is'."""
    word = value if isinstance(value, str) else "log_prob"
    return (
        f"{said} {value!r:.60} ({type(value).__name__}); expected a set of words, such as "
        f"frozenset({{{word!r}}})."
    )


def plain_callable(factory: Any) -> Any:
    """The class or function behind partials and decorators; the class of a callable instance."""
    while isinstance(factory, functools.partial):
        factory = factory.func
    # `functools.wraps` keeps the way back to what was written.
    factory = inspect.unwrap(factory)
    return factory if inspect.isclass(factory) or inspect.isroutine(factory) else type(factory)
