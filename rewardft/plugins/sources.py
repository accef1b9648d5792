"""Finds and imports what an entry of `plugins:` names: an installed plugin,
a file, a folder or a module."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import importlib
import importlib.metadata
import importlib.util
import re
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.abc import MetaPathFinder
from importlib.machinery import SourceFileLoader
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import CodeType
from typing import Any

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version

from rewardft.errors import DataError, PluginError, did_you_mean
from rewardft.paths import local_path
from rewardft.recipe.plugin_names import is_path

GROUP = "rewardft"
PATIENCE = 15.0  # seconds after which a command says that it waits for a plugin
_MACHINERY = (Path(importlib.__file__).parent, Path(importlib.metadata.__file__).parent)


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


def installed() -> dict[str, list[EntryPoint]]:
    """Installed plugins by folded entry-point name; imports none of them."""
    found: dict[str, list[EntryPoint]] = {}
    for point in entry_points(group=GROUP):
        same = found.setdefault(point.name.casefold(), [])
        if not any(p.value == point.value for p in same):
            same.append(point)
    return found


def parse_request(text: str) -> Request:
    """Split 'name>=0.2'; raises `PluginError` when the requirement cannot be read."""
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
    if len(points) > 1:
        owners = " and ".join(sorted(f"{_owner(p)} ({p.value})" for p in points))
        raise PluginError(
            f"plugin {request.name!r} is offered by two installed packages, {owners}: uninstall "
            "one."
        )
    if points:
        point = points[0]
        return Source(
            point.name,
            point.value.partition(":")[0],
            point.load,
            point.dist.version if point.dist else None,
        )
    if _importable(request.name):
        return Source(request.name, request.name, lambda: importlib.import_module(request.name))
    raise PluginError(_nowhere(request.name, base))


def import_plugin(source: Source) -> Any:
    """Import the plugin; whatever goes wrong becomes a `PluginError` that names the plugin,
    the file and the error."""
    try:
        return source.load()
    except (Exception, SystemExit) as error:
        where = error_location(error, source.place)
        message = (
            f"plugin {source.name!r} could not be imported ({where}): "
            f"{type(error).__name__}: {error}{missing_package(error)}"
        )
        raise PluginError(message) from error


@contextlib.contextmanager
def waiting_for(what: str) -> Iterator[None]:
    """Code of a plugin runs, which may loop: say on stderr what is waited for, after a while."""

    def say() -> None:
        text = f"still waiting for {what}; Ctrl-C ends the command"
        print(text, file=sys.stderr, flush=True)

    timer = threading.Timer(PATIENCE, say)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def missing_package(error: BaseException) -> str:
    """How to install what an import did not find, where an extra of an installed plugin's package
    has it; else ''."""
    if not isinstance(error, ModuleNotFoundError) or not error.name:
        return ""
    module = error.name.partition(".")[0]
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
        good = request.versions.contains(Version(version), prereleases=True)
    except InvalidVersion:
        raise PluginError(
            f"plugin {name!r} states the version {version!r}, which is not a version number."
        ) from None
    if not good:
        raise PluginError(
            f"plugin {name!r}: the recipe asks for {request.versions}, but version {version} is "
            "there."
        )


def error_location(error: BaseException, place: str) -> str:
    """'file:line' of the plugin's own line that failed;
    `place` when the error came before any line of it ran."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not _is_machinery(f.filename)]
    mine = [f for f in frames if Path(f.filename).parent == Path(frames[0].filename).parent]
    return f"{mine[-1].filename}:{mine[-1].lineno}" if mine else place


def _is_machinery(filename: str) -> bool:
    return filename == __file__ or filename.startswith("<") or Path(filename).parent in _MACHINERY


def _is_init(place: str) -> bool:
    return Path(place).name == "__init__.py"


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
    if (base / f"{name}.py").is_file():
        return (
            f"plugin {name!r} is not installed; for the file beside the recipe write ./{name}.py."
        )
    if (base / name / "__init__.py").is_file():
        return f"plugin {name!r} is not installed; for the folder beside the recipe write ./{name}."
    known = did_you_mean(name, (points[0].name for points in installed().values()))
    return f"plugin {name!r} is neither an installed plugin nor an importable module.{known}"


def _from_path(name: str, path: Path) -> Source:
    if path.is_dir():
        init = path / "__init__.py"
        if not init.is_file():
            raise PluginError(
                f"plugin {name!r}: the folder {path} has no __init__.py; add one that has the "
                "hooks."
            )
        contents = sorted(path.rglob("*.py"))
        return Source(
            path.name, str(init), lambda: _import_file(init, contents), contents=tuple(contents)
        )
    if not path.exists():
        beside = (p.name for p in path.parent.glob("*.py") if not _is_init(str(p)))
        near = did_you_mean(path.name, beside) if path.parent.is_dir() else ""
        raise PluginError(f"plugin {name!r}: there is no file {path}.{near}")
    if path.suffix != ".py":
        raise PluginError(f"plugin {name!r}: {path} is neither a .py file nor a folder.")
    contents = [path, *neighbours(path)]
    return Source(
        path.stem, str(path), lambda: _import_file(path, contents), contents=tuple(contents)
    )


def neighbours(path: Path) -> list[Path]:
    """The modules beside a plugin file that it imports by name, and those that these import."""
    found: list[Path] = []
    waiting = [path]
    while waiting:
        for name in _imported(waiting.pop()):
            module, package = path.parent / f"{name}.py", path.parent / name / "__init__.py"
            near = next((each for each in (package, module) if each.is_file()), None)
            if near is not None and near not in found and near != path:
                inside = sorted(near.parent.rglob("*.py")) if near == package else [near]
                found += [each for each in inside if each not in found]
                waiting += inside
    return sorted(found)


def _imported(path: Path) -> Iterator[str]:
    """Names of the top-level modules in a file's import statements; none where it is no Python."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, RecursionError, OSError):  # importing it says what is wrong
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.partition(".")[0]


class _Beside(MetaPathFinder):
    """Finds the neighbours of a plugin file for code in its folder, and for no other."""

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self.folder, self.names = folder, names

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> Any:
        """A module of this folder, when it is a file of this folder that asks."""
        if fullname not in self.names or not Path(_asking()).is_relative_to(self.folder):
            return None
        init = self.folder / fullname / "__init__.py"
        file = init if init.is_file() else self.folder / f"{fullname}.py"
        return importlib.util.spec_from_file_location(
            fullname,
            file,
            loader=_FreshLoader(fullname, str(file)),
            submodule_search_locations=[str(init.parent)] if file == init else None,
        )


def _asking() -> str:
    """The file of the import statement that is being carried out."""
    frame = sys._getframe(1)
    while frame.f_back is not None and _is_machinery(frame.f_code.co_filename):
        frame = frame.f_back
    return frame.f_code.co_filename


def _offer_neighbours(path: Path, contents: Sequence[Path]) -> None:
    """Let a plugin file import the modules beside it. One of the same name that another plugin's
    folder has, or an older state of the same, is forgotten first."""
    beside = [each for each in contents if each != path and not _is_init(str(path))]
    names = {each.relative_to(path.parent).parts[0].removesuffix(".py") for each in beside}
    if not names:
        return
    offered = {name for one in sys.meta_path if isinstance(one, _Beside) for name in one.names}
    for module in [m for m in sys.modules if m.partition(".")[0] in names & offered]:
        del sys.modules[module]
    sys.meta_path.insert(0, _Beside(path.parent, sorted(names)))


class _FreshLoader(SourceFileLoader):
    """Compiles the source each time: no stale byte code,
    and no __pycache__ beside a user's recipe."""

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)


def _import_file(path: Path, contents: list[Path]) -> Any:
    """Import a file under a name of its own, kept in `sys.modules` so that dataclasses and pickling
    work.

    The name follows from path and contents: the same file is imported once, an edited one anew.
    """
    mark = hashlib.sha256(
        str(path).encode() + b"".join(p.read_bytes() for p in contents)
    ).hexdigest()[:10]
    stem = path.parent.name if _is_init(str(path)) else path.stem
    name = f"rewardft_file_{re.sub(r'[^0-9A-Za-z_]', '_', stem)}_{mark}"
    if name in sys.modules:
        return sys.modules[name]
    _offer_neighbours(path, contents)
    folder = [str(path.parent)] if _is_init(str(path)) else None
    loader = _FreshLoader(name, str(path))
    spec = importlib.util.spec_from_file_location(
        name, path, loader=loader, submodule_search_locations=folder
    )
    if spec is None:
        raise ImportError(f"{path} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        loader.exec_module(module)
    except BaseException:
        for imported in [m for m in sys.modules if m == name or m.startswith(name + ".")]:
            del sys.modules[imported]
        raise
    return module
