"""What components say of themselves: where they are installed, the help of their options, their
paper."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from rewardft.errors import PluginError
from rewardft.plugins.annotations import class_made_by
from rewardft.plugins.catalog import Catalog, build_catalog
from rewardft.plugins.entries import KINDS, Entry, plain_callable
from rewardft.plugins.loading import load_installed, load_plugins
from rewardft.plugins.sources import installed

ARXIV = re.compile(r"(?<![\d.])\d{4}\.\d{4,5}(?!\d)")
# `name: text` or `name (type): text` under `Args:`.
ARGUMENT = re.compile(r"^(\s*)(\w+(?:, \w+)*)(?: \([^)]*\))?: (.*)$")
# Names of several options that go on in the next line.
WRAPPED = re.compile(r"^(\s+\w+(?:, \w+)*),\n\s+", re.MULTILINE)


def catalogs() -> Iterator[Catalog]:
    """The core's components, then those of each installed plugin that can be used."""
    yield build_catalog(load_plugins([], Path()))
    for points in installed().values():
        try:
            yield build_catalog(load_installed(points[0].name))
        except PluginError:  # `rewardft plugins` says what is wrong with it
            continue


def every_component(names: Sequence[str] = ()) -> list[Entry]:
    """The components of the core and of all installed plugins, then those of the plugins that
    `names` lists as a recipe would. Raises PluginError for one of `names` that cannot be used."""
    found: dict[tuple[str, str], Entry] = {}
    given = [build_catalog(load_plugins(names, Path.cwd()))] if names else []
    for catalog in (*catalogs(), *given):
        for entry in (entry for kind in KINDS for entry in catalog.of_kind(kind)):
            found.setdefault((entry.kind, entry.name.casefold()), entry)
    return sorted(found.values(), key=lambda entry: (KINDS.index(entry.kind), entry.name))


def docstring(entry: Entry) -> str:
    """The component's docstring, or its first line where only a partial has one."""
    return inspect.getdoc(plain_callable(entry.factory)) or entry.summary


def option_help(entry: Entry) -> dict[str, str]:
    """What docstrings say of each option under `Args:`, on one line: the factory's own, then those
    of the class that it says that it makes, and of what that inherits from."""
    target = plain_callable(entry.factory)
    made = class_made_by(entry)
    found: dict[str, str] = {}
    for owner in dict.fromkeys([target, *(made.__mro__ if made else ())]):
        # A class may document its options at `__init__` instead.
        for text in (inspect.getdoc(getattr(owner, "__init__", None)), inspect.getdoc(owner)):
            for name, line in arguments(text or ""):
                found.setdefault(name, line)
    return found


def arguments(text: str) -> Iterator[tuple[str, str]]:
    """(name, text) of each entry of a docstring's `Args:`; lines further in continue the last."""
    lines = WRAPPED.sub(r"\1, ", text.partition("Args:\n")[2]).splitlines()
    found: list[tuple[str, int, list[str]]] = []
    for line in lines:
        match = ARGUMENT.match(line)
        depth = len(line) - len(line.lstrip())
        if match and (not found or depth <= found[-1][1]):
            found.append((match[2], depth, [match[3]]))
        elif found and line.strip() and depth > found[-1][1]:
            found[-1][2].append(line.strip())
        elif line.strip():  # the next part of the docstring
            break
    for names, _, words in found:
        # `guidance, scale: ...` is said of both.
        yield from ((name, " ".join(words)) for name in names.split(", "))


def papers(entry: Entry) -> list[str]:
    """arXiv numbers in the component's docstring, else in the first paragraph of its file's."""
    module = inspect.getmodule(plain_callable(entry.factory))
    about = (module and module.__doc__) or ""
    for text in (docstring(entry), about.partition("\n\n")[0]):
        if found := list(dict.fromkeys(ARXIV.findall(text))):
            return found
    return []
