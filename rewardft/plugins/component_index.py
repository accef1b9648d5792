"""What installed plugins register, remembered, so that a list of names needs no import of them.

Kept in the user's cache by plugin. What is known of one counts for as long as nothing that it may
depend on has changed: Python, the plugin's version, what is installed beside it, and size and time
of change of every source file of the plugin and of the core. A plugin that cannot be used is not
remembered.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

from rewardft.errors import CheckpointError, PluginError
from rewardft.files.atomic import write_text
from rewardft.files.digests import cache_folder
from rewardft.plugins.entries import registered
from rewardft.plugins.loading import load_plugins
from rewardft.plugins.manager import BUILTIN
from rewardft.plugins.sources import installed

CORE = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Listed:
    """A registered component, as lists show it."""

    kind: str
    name: str
    plugin: str
    summary: str


def listed_components(problems: list[str]) -> Iterator[Listed]:
    """The components of the core, then those of each installed plugin; why one cannot be used is
    added to `problems`."""
    # Importing every plugin takes seconds, and a list of names is asked for often.
    known = _read()
    stamps = {BUILTIN: _stamp(None)}
    stamps |= {points[0].name: _stamp(points[0]) for points in installed().values()}
    found: dict[str, dict[str, Any]] = {}
    for plugin, stamp in stamps.items():
        # Of an equal stamp the answer would be the same, so the plugin is not imported.
        if stamp is not None and known.get(plugin, {}).get("stamp") == stamp:
            found[plugin] = known[plugin]
            continue
        try:
            rows = [asdict(one) for one in _import([] if plugin == BUILTIN else [plugin], plugin)]
        except PluginError as error:
            problems.append(str(error))
        else:
            found[plugin] = {"stamp": stamp, "components": rows}
    # Plugins that were removed, or that fail now, are dropped with it.
    if found != known:
        _write(found)
    for entry in found.values():
        yield from (Listed(**row) for row in entry["components"])


def owner_of(kind: str, name: str, listed: Sequence[str]) -> str | None:
    """The installed plugin that registers a component and is not `listed`; None where none does."""
    here = {plugin.casefold() for plugin in (*listed, BUILTIN)}
    for one in listed_components([]):
        is_it = one.kind == kind and one.name.casefold() == name.casefold()
        if is_it and one.plugin.casefold() not in here:
            return one.plugin
    return None


def _import(names: Sequence[str], plugin: str) -> list[Listed]:
    """What a plugin registers, without what those that it requires do: they have their own turn."""
    entries = registered(load_plugins(names, Path.cwd()))
    return [Listed(e.kind, e.name, e.plugin, e.summary) for e in entries if e.plugin == plugin]


def _stamp(point: EntryPoint | None) -> str | None:
    """A digest of all that the components of a plugin (None: of the core) follow from; None where
    its files cannot be found."""
    # The core's sources too: they decide what is read off a factory.
    facts = [sys.version, *_states(CORE), *_installations()]
    if point is not None:
        try:
            spec = importlib.util.find_spec(point.module)
        # A parent package is imported to find the module in it, and may do anything.
        except (Exception, SystemExit):  # importing it says what is wrong
            return None
        if spec is None or not spec.origin:
            return None
        place = Path(spec.origin)
        facts += [point.value, point.dist.version if point.dist else ""]
        facts += _states(place.parent if place.name == "__init__.py" else place)
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()


def _installations() -> list[str]:
    """When a package was last installed or removed: a plugin may register what is there."""
    folders = [Path(p) for p in sys.path if p.endswith(("site-packages", "dist-packages"))]
    return [f"{folder} {folder.stat().st_mtime_ns}" for folder in folders if folder.is_dir()]


def _states(place: Path) -> list[str]:
    """Path, size and time of change of a source file, or of all in a folder."""
    files = sorted(place.rglob("*.py")) if place.is_dir() else [place]
    states = [(file, file.stat()) for file in files]
    # Not their contents: reading them all would take as long as importing some.
    return [f"{file} {state.st_size} {state.st_mtime_ns}" for file, state in states]


def cache_file() -> Path:
    """Where it is kept."""
    return cache_folder() / "components.json"


def _read() -> dict[str, dict[str, Any]]:
    """What an earlier call wrote; nothing where it is damaged, for it can be found again."""
    try:
        known = json.loads(cache_file().read_text(encoding="utf-8"))
        for entry in known.values():
            # Every row is built once: another version's file must not fail half-way.
            _ = entry["stamp"], [Listed(**row) for row in entry["components"]]
    except (OSError, ValueError, RecursionError, TypeError, KeyError, AttributeError, RuntimeError):
        return {}
    found: dict[str, dict[str, Any]] = known
    return found


def _write(found: dict[str, dict[str, Any]]) -> None:
    """Where it cannot be written, the next call imports the plugins again."""
    with contextlib.suppress(OSError, CheckpointError, RuntimeError):
        cache_file().parent.mkdir(parents=True, exist_ok=True)
        write_text(cache_file(), json.dumps(found))
