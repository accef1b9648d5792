"""Imports a plugin that is a file or a folder, and the modules beside it that it imports.

Such a plugin is no installed package: it gets a module name of its own, and its neighbours are
found for it alone, so that two recipes may each have a `rewards.py`.
"""

from __future__ import annotations

import ast
import builtins
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
from types import CodeType, ModuleType
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
    """Names of the top-level modules that a file imports, by statements or by calls with the name
    as text; none where it is no Python."""
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
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            function, name = ast.unparse(node.func).rpartition(".")[2], node.args[0].value
            if function in ("import_module", "__import__") and isinstance(name, str):
                yield name.partition(".")[0]


class _Beside(MetaPathFinder):
    """The modules beside a plugin file, each under a name that starts with `prefix`.

    Import statements of the file and of these modules are answered here (`find`), also those inside
    functions that are called much later, and so is their `importlib.import_module`. `sys.modules`
    has no entry `helper`, so that two plugins may each have a `helper.py`, and nobody else sees
    either.
    """

    def __init__(self, folder: Path, names: Sequence[str], prefix: str) -> None:
        self.folder, self.names, self.prefix = folder, frozenset(names), prefix
        self.builtins = vars(builtins) | {"__import__": self.find}
        self.importlib = _Importlib(self)

    def find(
        self,
        name: str,
        globals: Any = None,
        locals: Any = None,
        fromlist: Sequence[str] = (),
        level: int = 0,
    ) -> Any:
        """What an import statement gives: `__import__` with the modules beside the file."""
        top = name.partition(".")[0]
        if not level and (name == "importlib" or (top == "importlib" and not fromlist)):
            builtins.__import__(name)
            return self.importlib
        if level or top not in self.names:
            return builtins.__import__(name, globals, locals, fromlist, level)
        if not fromlist:  # `import a.b` binds a
            importlib.import_module(f"{self.prefix}.{name}")
            return sys.modules[f"{self.prefix}.{top}"]
        # A plain import with a list also imports the submodules in it.
        return builtins.__import__(f"{self.prefix}.{name}", globals, locals, fromlist)

    def import_module(self, name: str, package: str | None = None) -> ModuleType:
        """`importlib.import_module` with the modules beside the file."""
        beside = name.partition(".")[0] in self.names
        return importlib.import_module(f"{self.prefix}.{name}" if beside else name, package)

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> Any:
        """A module of this folder by its name here."""
        if not fullname.startswith(f"{self.prefix}."):
            return None
        place = self.folder.joinpath(*fullname.removeprefix(f"{self.prefix}.").split("."))
        init = place / "__init__.py"
        file = init if init.is_file() else place.with_name(f"{place.name}.py")
        if not file.is_file():
            return None
        return importlib.util.spec_from_file_location(
            fullname,
            file,
            loader=_FreshLoader(fullname, str(file), self),
            submodule_search_locations=[str(place)] if file == init else None,
        )


class _Importlib(ModuleType):
    """`importlib` as a plugin file has it: `import_module` finds the modules beside it."""

    def __init__(self, beside: _Beside) -> None:
        super().__init__(importlib.__name__, importlib.__doc__)
        self.import_module = beside.import_module

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib, name)


def _offer_neighbours(path: Path, contents: Sequence[Path], prefix: str) -> _Beside | None:
    """Let a plugin file import the modules beside it; None where it imports none."""
    beside = [each for each in contents if each != path and not is_init(str(path))]
    names = {each.relative_to(path.parent).parts[0].removesuffix(".py") for each in beside}
    if not names:
        return None
    found = _Beside(path.parent, sorted(names), prefix)
    parent = ModuleType(prefix, f"The modules beside {path}.")
    parent.__path__ = []
    sys.modules[prefix] = parent
    sys.meta_path.insert(0, found)
    return found


class _FreshLoader(SourceFileLoader):
    """Compiles the source each time: no stale byte code,
    and no __pycache__ beside a user's recipe."""

    def __init__(self, name: str, path: str, beside: _Beside | None) -> None:
        super().__init__(name, path)
        self.beside = beside

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)

    def exec_module(self, module: ModuleType) -> None:
        if self.beside is not None:
            # Where every import statement of the module's code looks for `__import__`.
            vars(module)["__builtins__"] = self.beside.builtins
        super().exec_module(module)


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
    beside = _offer_neighbours(path, contents, f"{name}_beside")
    folder = [str(path.parent)] if is_init(str(path)) else None
    loader = _FreshLoader(name, str(path), beside)
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
    except BaseException:
        # Half a module must not be what a second try finds.
        for imported in [m for m in sys.modules if m.partition(".")[0] in (name, f"{name}_beside")]:
            del sys.modules[imported]
        if beside is not None:
            sys.meta_path.remove(beside)
        raise
    return module
