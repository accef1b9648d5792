"""Imports a plugin that is a file or a folder, and the modules beside it that it imports.

Such a plugin is no installed package: it gets a module name of its own, and its neighbours are
found for it alone, so that two recipes may each have a `rewards.py`.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.metadata
import importlib.util
import re
import sys
from collections.abc import Iterator, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType
from typing import Any

# Frames of these files stand between a plugin's import statement and its error, and say nothing.
# Compared by file name, which frames have.
MACHINERY = {__file__, str(Path(__file__).with_name("sources.py"))}
_FOLDERS = (Path(importlib.__file__).parent, Path(importlib.metadata.__file__).parent)


def is_machinery(filename: str) -> bool:
    """Whether a frame belongs to the import system or to the loader of plugins."""
    own = filename in MACHINERY or filename.startswith("<")
    return own or Path(filename).parent in _FOLDERS


def is_init(place: str) -> bool:
    """Whether a file is the one that makes a folder a package."""
    return Path(place).name == "__init__.py"


def neighbours(path: Path) -> list[Path]:
    """The modules beside a plugin file that it imports by name, and those that these import."""
    found: list[Path] = []
    waiting = [path]
    while waiting:
        for name in _imported(waiting.pop()):
            module, package = path.parent / f"{name}.py", path.parent / name / "__init__.py"
            # A package goes before a module of its name, as Python itself has it.
            near = next((each for each in (package, module) if each.is_file()), None)
            if near is not None and near not in found and near != path:
                inside = sorted(near.parent.rglob("*.py")) if near == package else [near]
                found += [each for each in inside if each not in found]
                waiting += inside
    return sorted(found)


def _imported(path: Path) -> Iterator[str]:
    """Names of the top-level modules in a file's import statements; none where it is no Python."""
    try:
        # Parsed, not imported: what belongs to a plugin must be known before its code runs.
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
        # By who asks: two recipes' `rewards.py` would otherwise shadow each other.
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
    while frame.f_back is not None and is_machinery(frame.f_code.co_filename):
        frame = frame.f_back
    return frame.f_code.co_filename


def _offer_neighbours(path: Path, contents: Sequence[Path]) -> None:
    """Let a plugin file import the modules beside it. One of the same name that another plugin's
    folder has, or an older state of the same, is forgotten first."""
    beside = [each for each in contents if each != path and not is_init(str(path))]
    names = {each.relative_to(path.parent).parts[0].removesuffix(".py") for each in beside}
    if not names:
        return
    # Only modules that a finder of ours has brought in: an installed one of that name stays.
    offered = {name for one in sys.meta_path if isinstance(one, _Beside) for name in one.names}
    for module in [m for m in sys.modules if m.partition(".")[0] in names & offered]:
        del sys.modules[module]
    # In front: an installed module of the same name must not be found first.
    sys.meta_path.insert(0, _Beside(path.parent, sorted(names)))


class _FreshLoader(SourceFileLoader):
    """Compiles the source each time: no stale byte code,
    and no __pycache__ beside a user's recipe."""

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)


def import_file(path: Path, contents: list[Path]) -> Any:
    """Import a file under a name of its own, kept in `sys.modules` so that dataclasses and pickling
    work.

    The name follows from path and contents: the same file is imported once, an edited one anew.
    """
    # Of all sources: an edited neighbour makes another module, too.
    mark = hashlib.sha256(
        str(path).encode() + b"".join(p.read_bytes() for p in contents)
    ).hexdigest()[:10]
    stem = path.parent.name if is_init(str(path)) else path.stem
    name = f"rewardft_file_{re.sub(r'[^0-9A-Za-z_]', '_', stem)}_{mark}"
    if name in sys.modules:
        return sys.modules[name]
    _offer_neighbours(path, contents)
    folder = [str(path.parent)] if is_init(str(path)) else None
    loader = _FreshLoader(name, str(path))
    spec = importlib.util.spec_from_file_location(
        name, path, loader=loader, submodule_search_locations=folder
    )
    if spec is None:
        raise ImportError(f"{path} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    # Before it is executed, as Python does: dataclasses look their module up while it runs.
    sys.modules[name] = module
    try:
        loader.exec_module(module)
    # Half a module must not be what a second try finds.
    except BaseException:
        for imported in [m for m in sys.modules if m == name or m.startswith(name + ".")]:
            del sys.modules[imported]
        raise
    return module
