"""Finds and imports what an entry of `plugins:` names: an installed plugin,
a file, a folder or a module."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.metadata
import importlib.util
import os
import re
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version

from rewardft.errors import DataError, PluginError, did_you_mean
from rewardft.files.paths import local_path
from rewardft.plugins.file_import import import_file, is_init, is_machinery, neighbours
from rewardft.recipe.plugin_names import is_path

GROUP = "rewardft"
PATIENCE = 15.0  # seconds after which a command says that it waits for a plugin


@dataclass(frozen=True)
class Source:
    """Where a plugin comes from: `name` to show, `place` to tell twins, `load` to import, `version`
    to check.

    contents: the sources of a file or folder plugin, which has no version that would tell that it
        was edited.
    """

    name: str
    place: str
    load: Callable[[], Any]
    version: str | None = None
    contents: tuple[Path, ...] = ()

    @property
    def sha256(self) -> str | None:
        """Of the names and bytes of `contents`, in hex; None without any."""
        folder = Path(self.place).parent
        parts = [(p.relative_to(folder).as_posix(), p.read_bytes()) for p in self.contents]
        return hashlib.sha256(repr(parts).encode()).hexdigest() if parts else None


@dataclass(frozen=True)
class Request:
    """One entry of `plugins:`, split into the thing named and the versions accepted."""

    text: str
    name: str
    versions: SpecifierSet | None


def installed() -> Mapping[str, list[EntryPoint]]:
    """Installed plugins by folded entry-point name; imports none of them."""
    return _installed_in(tuple(_as_it_is(place or ".") for place in sys.path))


def _as_it_is(place: str) -> tuple[str, int, int]:
    """A folder and what changes when a package is put into it or taken out."""
    try:
        facts = os.stat(place)
    except OSError:  # `sys.path` may name what is not there
        return place, 0, 0
    return place, facts.st_ino, facts.st_mtime_ns


# Kept: a recipe asks for each of its plugins, and every installed package has a file to be read.
@lru_cache(maxsize=4)
def _installed_in(places: tuple[tuple[str, int, int], ...]) -> Mapping[str, list[EntryPoint]]:
    """places: the folders of `sys.path` as they are."""
    found: dict[str, list[EntryPoint]] = {}
    for point in entry_points(group=GROUP):
        same = found.setdefault(point.name.casefold(), [])
        # An editable install may list the same entry point twice.
        if not any(p.value == point.value for p in same):
            same.append(point)
    return found


def parse_request(text: str) -> Request:
    """Split 'name>=0.2'; raises `PluginError` when the requirement cannot be read."""
    # Longest operators first, or `===` would be read as `==` and `=`.
    match = re.match(r"^(.*?)\s*((?:===|~=|==|!=|<=|>=|<|>).*)?$", text.strip())
    name, requirement = match.groups() if match else (text, None)
    try:
        versions = SpecifierSet(requirement) if requirement else None
    except InvalidSpecifier:
        raise PluginError(
            f"plugin {text!r}: {requirement!r} is not a version requirement; write it like "
            f"{name}>=0.1."
        ) from None
    return Request(text, name, versions)


def find(request: Request, base: Path) -> Source:
    """Say where the named plugin is, without importing it;
    raises `PluginError` when it is nowhere."""
    if is_path(request.name):
        try:
            return _from_path(request.name, local_path(request.name, base))
        except DataError as error:
            raise PluginError(f"plugin {request.name!r:.200}: {error}") from None
    points = installed().get(request.name.casefold(), [])
    # Which of them is found first depends on the order of sys.path.
    if len(points) > 1:
        owners = " and ".join(sorted(f"{_owner(p)} ({p.value})" for p in points))
        raise PluginError(
            f"plugin {request.name!r} is offered by two installed packages, {owners}: uninstall "
            "one."
        )
    if points:
        return source_of(points[0])
    # Last: an installed plugin's name wins over a module that happens to have it.
    if _importable(request.name):
        return Source(request.name, request.name, lambda: importlib.import_module(request.name))
    raise PluginError(_nowhere(request.name, base))


def source_of(point: EntryPoint) -> Source:
    """An installed plugin."""
    version = point.dist.version if point.dist else None
    return Source(point.name, point.value.partition(":")[0], point.load, version)


def import_plugin(source: Source) -> Any:
    """Import the plugin; whatever goes wrong becomes a `PluginError` that names the plugin,
    the file and the error."""
    try:
        return source.load()
    # SystemExit too: a script with `sys.exit()` at its end is not a plugin.
    except (Exception, SystemExit) as error:
        where = error_location(error, source.place)
        message = (
            f"plugin {source.name!r} could not be imported ({where}): "
            f"{type(error).__name__}: {error}{missing_package(error)}"
            f"{near_and_unknown(error, source)}"
        )
        raise PluginError(message) from error


@contextlib.contextmanager
def waiting_for(what: str) -> Iterator[None]:
    """Code of a plugin runs, which may loop: say on stderr what is waited for, after a while."""

    def say() -> None:
        text = f"still waiting for {what}; Ctrl-C ends the command"
        print(text, file=sys.stderr, flush=True)

    timer = threading.Timer(PATIENCE, say)
    # It must not keep a command from ending.
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def near_and_unknown(error: BaseException, source: Source) -> str:
    """Why a module beside a plugin file was not found: its name is nowhere in the code; else ''."""
    if not isinstance(error, ModuleNotFoundError) or not error.name:
        return ""
    near = Path(source.place).parent / f"{error.name.partition('.')[0]}.py"
    if not source.contents or near in source.contents or not near.is_file():
        return ""
    return (
        f". {near.name} lies beside the plugin, but no import names it, and what belongs to a "
        f"plugin is found without running it: write `import {near.stem}`."
    )


def missing_package(error: BaseException) -> str:
    """How to install what an import did not find, where an extra of an installed plugin's package
    has it; else ''."""
    if not isinstance(error, ModuleNotFoundError) or not error.name:
        return ""
    module = error.name.partition(".")[0]
    # Packages that are imported under another name than they are installed by.
    package = {"PIL": "pillow", "sklearn": "scikit-learn", "yaml": "pyyaml"}.get(module, module)
    wanted = package.replace("_", "-").casefold()
    owners = {point.dist.name: point.dist for (point, *_) in installed().values() if point.dist}
    for name, dist in owners.items():
        extras = [
            found[1]
            for text in dist.requires or ()
            if re.split(r"[^\w.-]", text)[0].replace("_", "-").casefold() == wanted
            and (found := re.search(r"extra == [\"']([\w-]+)", text))
            and found[1] != "dev"
        ]
        if extras:
            return f". Install it: pip install '{name}[{extras[0]}]'"
    return ""


def check_version(request: Request, name: str, version: str | None) -> None:
    """Raise `PluginError` unless `version` satisfies the request."""
    if request.versions is None:
        return
    if version is None:
        raise PluginError(
            f"plugin {name!r}: the recipe asks for {request.versions}, but the plugin states no "
            "version; give its module a `__version__`."
        )
    try:
        # prereleases: `>=0.2` must accept the 0.3.dev1 that a plugin's author works on.
        good = request.versions.contains(Version(version), prereleases=True)
    except InvalidVersion:
        raise PluginError(
            f"plugin {name!r} states the version {version!r}, which is not a version number."
        ) from None
    if not good:
        raise PluginError(
            f"plugin {name!r}: the recipe asks for {request.versions}, but its version is "
            f"{version}."
        )


def error_location(error: BaseException, place: str) -> str:
    """'file:line' of the plugin's own line that failed;
    `place` when the error came before any line of it ran."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not is_machinery(f.filename)]
    # The last line of the plugin's own folder: the innermost one may be in torch.
    mine = [f for f in frames if Path(f.filename).parent == Path(frames[0].filename).parent]
    return f"{mine[-1].filename}:{mine[-1].lineno}" if mine else place


def _owner(point: EntryPoint) -> str:
    return point.dist.name if point.dist else "an unnamed package"


def _importable(name: str) -> bool:
    if not all(part.isidentifier() for part in name.split(".")):
        return False
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):  # a parent package is missing or broken; importing says which
        return name.partition(".")[0] in sys.modules or _importable(name.rpartition(".")[0])


def _nowhere(name: str, base: Path) -> str:
    # The likeliest slip: a file is meant, and `./` is missing.
    if (base / f"{name}.py").is_file():
        return (
            f"plugin {name!r} is not installed; for the file beside the recipe write ./{name}.py."
        )
    if (base / name / "__init__.py").is_file():
        return f"plugin {name!r} is not installed; for the folder beside the recipe write ./{name}."
    known = did_you_mean(name, (points[0].name for points in installed().values()))
    return f"plugin {name!r} is neither an installed plugin nor an importable module.{known}"


def _from_folder(name: str, path: Path) -> Source:
    init = path / "__init__.py"
    if not init.is_file():
        raise PluginError(
            f"plugin {name!r}: the folder {path} has no __init__.py; add one that has the hooks."
        )
    # All of the folder: which of them a package imports is known only by running it.
    contents = sorted(path.rglob("*.py"))
    return Source(
        path.name, str(init), lambda: import_file(init, contents), contents=tuple(contents)
    )


def _from_path(name: str, path: Path) -> Source:
    if path.is_dir():
        return _from_folder(name, path)
    if not path.exists():
        beside = (p.name for p in path.parent.glob("*.py") if not is_init(str(p)))
        near = did_you_mean(path.name, beside) if path.parent.is_dir() else ""
        raise PluginError(f"plugin {name!r}: there is no file {path}.{near}")
    # A pipe or a device would be waited for.
    if path.suffix != ".py" or not path.is_file():
        raise PluginError(f"plugin {name!r}: {path} is neither a .py file nor a folder.")
    contents = [path, *neighbours(path)]
    return Source(
        path.stem, str(path), lambda: import_file(path, contents), contents=tuple(contents)
    )
