"""Loads the plugins that a recipe lists, and only those. One manager per call, none global.

The core's own components are registered first (`rewardft.plugins.builtin`), then the listed plugins
in order. A plugin that was asked for and cannot be used stops the run: the message names the
plugin, the hook, the file and the fix.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import re
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pluggy

from rewardft.contracts import hookspecs
from rewardft.errors import PluginError, RewardftError
from rewardft.plugins.hook_checks import HOOKS, hook_problems, implementations, location
from rewardft.plugins.sources import (
    Source,
    check_version,
    find,
    import_plugin,
    installed,
    missing_package,
    parse_request,
    waiting_for,
)

BUILTIN = "builtin"
LABEL = r"[\w-]([\w.-]{0,78}[\w-])?"  # a name that values are logged under, in metrics and files
NAME = r"[\w.+-]{1,80}"  # of other components
LABELLED = ("register_rewards", "register_regularizers", "register_metrics")


@dataclass(frozen=True)
class LoadedPlugin:
    """A registered plugin: name, version (None: it states none), file, the hooks that it
    implements, the object.

    sha256: of the sources of a file or folder plugin; None for an installed one.
    """

    name: str
    version: str | None
    file: Path
    hooks: tuple[str, ...]
    module: Any
    sha256: str | None = None


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


class Plugins:
    """The loaded plugins of one run.

    Cannot be pickled: every process builds its own from the recipe.
    """

    def __init__(self) -> None:
        self.manager = pluggy.PluginManager("rewardft")
        self.manager.add_hookspecs(hookspecs)
        self.loaded: list[LoadedPlugin] = []

    @property
    def hook(self) -> Any:
        """Pluggy's relay: `plugins.hook.on_step_end(...)`.

        Prefer `call`, whose errors name the plugin.
        """
        return self.manager.hook

    def digests(self) -> dict[str, str]:
        """SHA-256 of each file or folder plugin, by the file's path."""
        return {str(plugin.file): plugin.sha256 for plugin in self.loaded if plugin.sha256}

    def call(self, hook_name: str, **arguments: Any) -> Any:
        """Call a hook with exactly its arguments.

        An exception gets a note that names the plugin and the hook.
        """
        _check_arguments(hook_name, arguments)
        try:
            return getattr(self.hook, hook_name)(**arguments)
        except Exception as error:
            self._attribute(error, hook_name)
            raise

    def results(self, hook_name: str, **arguments: Any) -> list[tuple[str, Any]]:
        """Each plugin's own answers to a hook, in order of loading;
        plugins that answer None are left out."""
        _check_arguments(hook_name, arguments)
        answers = []
        for plugin in self.loaded:
            if hook_name not in plugin.hooks:
                continue
            others = [p for p in self.manager.get_plugins() if p is not plugin.module]
            caller = self.manager.subset_hook_caller(hook_name, others)
            try:
                answer = caller(**arguments)
                if isinstance(
                    answer, list
                ):  # run generators to their end here, where an error can be attributed
                    answer = [list(one) if inspect.isgenerator(one) else one for one in answer]
            except Exception as error:
                self._attribute(error, hook_name)
                raise
            first_only = caller.spec is not None and caller.spec.opts["firstresult"]
            several = [] if answer is None else [answer] if first_only else answer
            answers += [(plugin.name, one) for one in several]
        return answers

    def registrations(
        self, hook_name: str
    ) -> list[tuple[LoadedPlugin, Mapping[str, Callable[..., Any]]]]:
        """The factories of each plugin, checked: a mapping from names to callables.

        Raises `PluginError`.
        """
        by_name = {plugin.name: plugin for plugin in self.loaded}
        try:
            with waiting_for(f"hook {hook_name!r} of the plugins {', '.join(by_name)}"):
                answers = [(by_name[name], answer) for name, answer in self.results(hook_name)]
        except RewardftError:
            raise
        except Exception as error:
            note = (getattr(error, "__notes__", None) or [f"raised in hook {hook_name!r}"])[-1]
            cure = missing_package(error)
            raise PluginError(f"{type(error).__name__}: {error} ({note}){cure}") from error
        silent = [
            p
            for p in self.loaded
            if hook_name in p.hooks and all(p is not plugin for plugin, _ in answers)
        ]
        checked: list[tuple[LoadedPlugin, Any]] = [*answers, *((plugin, None) for plugin in silent)]
        problems = [
            p
            for plugin, answer in checked
            for p in _registration_problems(plugin, hook_name, answer)
        ]
        if problems:
            raise PluginError("\n".join(problems))
        return answers

    def add(self, source: Source, plugin: Any, version: str | None) -> LoadedPlugin:
        """Check and register a plugin object;
        raises `PluginError` and leaves nothing half registered."""
        problems = list(hook_problems(self.manager, plugin))
        file = _file_of(plugin, source)
        if problems:
            raise PluginError("\n".join(_sentence(source.name, file, p) for p in problems))
        try:
            self.manager.register(plugin, name=source.name)
            self.manager.check_pending()
        except (pluggy.PluginValidationError, ValueError) as error:
            if self.manager.is_registered(plugin):
                self.manager.unregister(plugin)
            raise PluginError(_sentence(source.name, file, str(error))) from error
        hooks = tuple(sorted({hook for hook, _ in implementations(self.manager, plugin).values()}))
        loaded = LoadedPlugin(source.name, version, file, hooks, plugin, source.sha256)
        self.loaded.append(loaded)
        return loaded

    def _attribute(self, error: BaseException, hook_name: str) -> None:
        """Note on `error` which plugin raised it: the innermost implementation of the hook on
        its traceback."""
        codes = {}
        for impl in getattr(self.hook, hook_name).get_hookimpls():
            function = getattr(impl.function, "__func__", impl.function)
            codes[inspect.unwrap(function).__code__] = impl.plugin_name
        for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
            if frame.f_code in codes:
                where = f"{frame.f_code.co_filename}:{line}"
                error.add_note(
                    f"raised by plugin {codes[frame.f_code]!r} in hook {hook_name!r} ({where})"
                )
                return


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


def load_usable_plugins(
    names: Sequence[str], base: Path, core: Any = None
) -> tuple[Plugins, list[PluginError]]:
    """`load_plugins`, but the plugins that cannot be used are left out and their errors
    returned."""
    plugins = Plugins()
    core = core or importlib.import_module("rewardft.plugins.builtin")
    plugins.add(Source(BUILTIN, core.__name__, lambda: core), core, _core_version())
    places: dict[str, str] = {core.__name__: BUILTIN}
    required: set[str] = set()
    broken = []
    for index, text in enumerate(names):
        try:
            _load_one(plugins, text, base, places, required)
        except PluginError as error:
            error.entry = index
            broken.append(error)
    return plugins, broken


def join_errors(errors: Sequence[PluginError]) -> PluginError:
    """One error that says them all."""
    if len(errors) == 1:
        return errors[0]
    text = "\n".join(f"  - {line}" for error in errors for line in str(error).splitlines())
    joined = PluginError(f"{len(errors)} plugins cannot be used:\n{text}")
    joined.__cause__ = errors[0]
    return joined


def load_installed(name: str) -> Plugins:
    """Load one installed plugin by its entry-point name, alone: without the core's.

    Raises `PluginError`.
    """
    plugins = Plugins()
    source = find(parse_request(name), Path())
    plugins.add(source, import_plugin(source), source.version)
    return plugins


def list_installed_plugins() -> list[InstalledPlugin]:
    """Try every installed plugin, each alone, so that a broken one spoils only its own row."""
    return [_try_installed(point) for _, points in sorted(installed().items()) for point in points]


def _try_installed(point: EntryPoint) -> InstalledPlugin:
    package = point.dist.name if point.dist else ""
    version = point.dist.version if point.dist else None
    source = Source(point.name, point.value.partition(":")[0], point.load, version)
    try:
        plugin = import_plugin(source)
        requires = _requires(source.name, plugin)
        loaded = Plugins().add(source, plugin, version)
    except PluginError as error:
        return InstalledPlugin(point.name, package, version, problem=str(error))
    return InstalledPlugin(
        point.name, package, version, loaded.file, loaded.hooks, requires=requires
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
    for loaded in plugins.loaded:
        if loaded.name.casefold() == source.name.casefold():
            raise PluginError(
                f"two plugins are called {source.name!r}, {loaded.file} and {source.place}: rename "
                "one."
            )
    with waiting_for(f"plugin {source.name!r} to be imported ({source.place})"):
        plugin = import_plugin(source)
    version = source.version or getattr(plugin, "__version__", None)
    check_version(request, source.name, version)
    for needed in _requires(source.name, plugin):
        place = _place_of(source.name, needed, base)
        if place not in places:
            _load_one(plugins, needed, base, places, required)
            required.add(place)
    plugins.add(source, plugin, version)


def _requires(name: str, plugin: Any) -> tuple[str, ...]:
    """The module's `requires`: names of installed plugins that it imports from."""
    requires = getattr(plugin, "requires", ())
    if isinstance(requires, str) or not all(isinstance(needed, str) for needed in requires):
        raise PluginError(
            f"plugin {name!r}: `requires` is {requires!r}; expected a tuple of plugin names, such "
            'as requires = ("name",).'
        )
    return tuple(requires)


def _place_of(name: str, needed: str, base: Path) -> str:
    try:
        return find(parse_request(needed), base).place
    except PluginError as error:
        raise PluginError(f"plugin {name!r} requires {needed!r}: {error}") from error


def _core_version() -> str | None:
    """None where the package lies on the path without having been installed."""
    try:
        return importlib.metadata.version("rewardft")
    except importlib.metadata.PackageNotFoundError:
        return None


def _file_of(plugin: Any, source: Source) -> Path:
    owner = plugin if inspect.ismodule(plugin) or inspect.isclass(plugin) else type(plugin)
    module = inspect.getmodule(owner)
    return Path(getattr(module, "__file__", None) or source.place)


def _sentence(name: str, file: Path, problem: str) -> str:
    """'plugin 'x' (file:line): problem', whether or not the problem brings its own file:line."""
    where, separator, rest = problem.partition(": ")
    own = separator and where.rpartition(":")[2].isdecimal() and ".py:" in where
    return f"plugin {name!r} ({where}): {rest}" if own else f"plugin {name!r} ({file}): {problem}"


def _check_arguments(hook_name: str, arguments: Mapping[str, Any]) -> None:
    """Pluggy only warns about a missing argument."""
    if hook_name not in HOOKS:
        raise TypeError(f"there is no hook {hook_name!r}")
    if set(arguments) != set(HOOKS[hook_name]):
        want, got = ", ".join(HOOKS[hook_name]), ", ".join(arguments)
        raise TypeError(f"hook {hook_name!r} is called with ({want}), got ({got})")


def _registration_problems(plugin: LoadedPlugin, hook_name: str, answer: Any) -> list[str]:
    function = next(f for hook, f in _functions(plugin) if hook == hook_name)
    head = f"plugin {plugin.name!r} ({location(function)}): hook {hook_name!r}"
    if not isinstance(answer, Mapping):
        return [f"{head} returned {_kind_of(answer)}; expected a mapping {{name: factory}}."]
    problems = []
    for name, factory in answer.items():
        if not isinstance(name, str) or not name.strip():
            problems.append(
                f"{head} registers the name {name!r}; a name is text that is not empty."
            )
        elif not re.fullmatch(LABEL if hook_name in LABELLED else NAME, name):
            problems.append(
                f"{head} registers the name {name!r:.100}; a name has letters, numbers, - and _, "
                "dots inside, and at most 80 characters: it becomes part of metrics and files."
            )
        elif not callable(factory):
            problems.append(
                f"{head} registers {name!r} as {_kind_of(factory)}; expected a class or a function."
            )
    folded = [str(name).casefold() for name in answer]
    twice = sorted({name for name in folded if folded.count(name) > 1})
    return problems + [
        f"{head} registers {name!r} twice; names do not tell case." for name in twice
    ]


def _functions(plugin: LoadedPlugin) -> list[tuple[str, Any]]:
    manager = pluggy.PluginManager("rewardft")
    return list(implementations(manager, plugin.module).values())


def _kind_of(value: Any) -> str:
    return "nothing" if value is None else f"a {type(value).__name__} ({value!r:.60})"
