"""The registered plugins of one run, and the calls to their hooks. One per run, none global.

`rewardft.plugins.loading` fills it from a recipe.
"""

from __future__ import annotations

import inspect
import re
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pluggy

from rewardft.contracts import hookspecs
from rewardft.errors import PluginError, RewardftError
from rewardft.plugins.hook_checks import HOOKS, hook_problems, implementations, location
from rewardft.plugins.sources import (
    Source,
    missing_package,
    waiting_for,
)

BUILTIN = "builtin"
LABEL = r"[\w-]([\w.-]{0,78}[\w-])?"  # a name that values are logged under, in metrics and files
NAME = r"[\w.+-]{1,80}"  # of other components
# What these register becomes part of metric names and files, so they take fewer characters.
LABELLED = ("register_rewards", "register_regularizers", "register_metrics")


@dataclass(frozen=True)
class LoadedPlugin:
    """A registered plugin: name, version (None: it states none), file, the object, and what
    implements which hook, as (hook, function).

    sha256: of the sources of a file or folder plugin; None for an installed one.
    """

    name: str
    version: str | None
    file: Path
    functions: tuple[tuple[str, Any], ...]
    module: Any
    sha256: str | None = None

    @property
    def hooks(self) -> tuple[str, ...]:
        """The hooks that it implements, sorted."""
        return tuple(sorted({hook for hook, _ in self.functions}))


class Plugins:
    """The loaded plugins of one run.

    Cannot be pickled: every process builds its own from the recipe.
    """

    def __init__(self) -> None:
        self.manager = pluggy.PluginManager("rewardft")
        # One manager a run: two runs in one process must not see each other's plugins.
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
            # Pluggy has no call of one plugin alone, only of all but some.
            others = [p for p in self.manager.get_plugins() if p is not plugin.module]
            caller = self.manager.subset_hook_caller(hook_name, others)
            try:
                answer = caller(**arguments)
                # Run generators to their end here, where an error can be attributed.
                if isinstance(answer, list):
                    answer = [list(one) if inspect.isgenerator(one) else one for one in answer]
            except Exception as error:
                self._attribute(error, hook_name)
                raise
            if answer is None:
                continue
            # Such hooks give one answer, others a list of them.
            first_only = caller.spec is not None and caller.spec.opts["firstresult"]
            answers += [(plugin.name, one) for one in ([answer] if first_only else answer)]
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
            # `call` and `results` have noted who raised it.
            note = (getattr(error, "__notes__", None) or [f"raised in hook {hook_name!r}"])[-1]
            cure = missing_package(error)
            raise PluginError(f"{type(error).__name__}: {error} ({note}){cure}") from error
        # `results` leaves out answers that are None; here they are a forgotten `return`.
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
        # Before registering: pluggy drops what it does not know without a word.
        problems = list(hook_problems(self.manager, plugin))
        file = _file_of(plugin, source)
        if problems:
            raise PluginError("\n".join(_sentence(source.name, file, p) for p in problems))
        try:
            self.manager.register(plugin, name=source.name)
            self.manager.check_pending()
        except (pluggy.PluginValidationError, ValueError) as error:
            # Nothing half registered is left behind, or later plugins would be checked against it.
            if self.manager.is_registered(plugin):
                self.manager.unregister(plugin)
            raise PluginError(_sentence(source.name, file, str(error))) from error
        functions = tuple(implementations(self.manager, plugin).values())
        loaded = LoadedPlugin(source.name, version, file, functions, plugin, source.sha256)
        self.loaded.append(loaded)
        return loaded

    def places(self, hook_name: str) -> str:
        """The plugins that implement a hook, each as 'name (file:line)'; for messages."""
        return ", ".join(
            f"{plugin.name!r} ({location(function)})"
            for plugin in self.loaded
            for hook, function in plugin.functions
            if hook == hook_name and plugin.name != BUILTIN
        )

    def _attribute(self, error: BaseException, hook_name: str) -> None:
        """Note on `error` which plugin raised it: the innermost implementation of the hook on
        its traceback."""
        codes = {}
        for impl in getattr(self.hook, hook_name).get_hookimpls():
            function = getattr(impl.function, "__func__", impl.function)
            # By code object: a name may occur in several plugins.
            codes[inspect.unwrap(function).__code__] = impl.plugin_name
        for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
            if frame.f_code in codes:
                where = f"{frame.f_code.co_filename}:{line}"
                error.add_note(
                    f"raised by plugin {codes[frame.f_code]!r} in hook {hook_name!r} ({where})"
                )
                return


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
    function = next(f for hook, f in plugin.functions if hook == hook_name)
    head = f"plugin {plugin.name!r} ({location(function)}): hook {hook_name!r}"
    if not isinstance(answer, Mapping):
        return [f"{head} returned {_kind_of(answer)}; expected a mapping {{name: factory}}."]
    problems = []
    for name, factory in answer.items():
        if not isinstance(name, str) or not name.strip():
            problems.append(
                f"{head} registers the name {name!r}; a name must be text that is not empty."
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
    # A dictionary cannot hold a name twice, but it can hold two that differ in case.
    folded = [str(name).casefold() for name in answer]
    twice = sorted({name for name in folded if folded.count(name) > 1})
    return problems + [
        f"{head} registers {name!r} twice; names are case-insensitive." for name in twice
    ]


def _kind_of(value: Any) -> str:
    return "nothing" if value is None else f"a {type(value).__name__} ({value!r:.60})"
