"""What pluggy lets pass in silence, made loud: every slip in a plugin's hooks becomes a sentence
with file and line.

A misspelled hook, a forgotten decorator, an argument that would never be filled, a class instead of
an instance: none of these may leave a run that quietly does less than its recipe says.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import pluggy

from rewardft.contracts import hookspecs
from rewardft.errors import did_you_mean

# Read off the specifications, so that no list has to be kept in step.
HOOKS: dict[str, tuple[str, ...]] = {
    name: tuple(inspect.signature(spec).parameters)
    for name, spec in vars(hookspecs).items()
    if getattr(spec, "rewardft_spec", None) is not None
}


def location(function: Any) -> str:
    """'file.py:12' of a function or method; '' for what has no source."""
    code = getattr(inspect.unwrap(getattr(function, "__func__", function)), "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code else ""


def implementations(manager: pluggy.PluginManager, plugin: object) -> dict[str, tuple[str, Any]]:
    """Decorated functions of a plugin: attribute name -> (hook name, function)."""
    found = {}
    for name in dir(plugin):
        # As pluggy itself finds them, so that nothing is checked that would not be called.
        options = manager.parse_hookimpl_opts(plugin, name)
        if options is not None:
            found[name] = (options.get("specname") or name, getattr(plugin, name))
    return found


def hook_problems(manager: pluggy.PluginManager, plugin: object) -> Iterator[str]:
    """Everything wrong with the hooks of a plugin object, each with 'file:line: ' in front."""
    if inspect.isclass(plugin):
        yield (
            f"the plugin is the class {plugin.__name__!r}, and hooks are called on an instance: "
            "name a module or an instance. Have you forgotten the `()`?"
        )
        return
    found = implementations(manager, plugin)
    for hook, function in found.values():
        for problem in _function_problems(hook, function):
            yield f"{location(function)}: {problem}"
    # A forgotten decorator is the commonest slip, and pluggy would never call the function.
    for name, function in _undecorated(plugin, set(found)):
        yield (
            f"{location(function)}: {name!r} is named like a hook but is not one: put `@hookimpl` "
            "above it."
        )
    if not found and not list(_undecorated(plugin, set())):
        yield _no_hooks(manager, plugin)


def _function_problems(hook: str, function: Any) -> Iterator[str]:
    if hook not in HOOKS:
        yield f"there is no hook {hook!r}.{did_you_mean(hook, HOOKS)}"
        return
    # Never awaited, it would do nothing.
    if inspect.iscoroutinefunction(function):
        yield (
            f"hook {hook!r} is `async`, and hooks are called directly: write "
            f"`def {function.__name__}`."
        )
    yields, wraps = inspect.isgeneratorfunction(function), _is_wrapper(function)
    if wraps and not yields:
        yield (
            f"hook {hook!r} is declared a wrapper and has no `yield` where the other "
            "implementations would run."
        )
    if yields and not wraps and hook != "check_recipe":  # whose answer is iterated over
        yield f"hook {hook!r} has a `yield`, so its answer would be a generator: use `return`."
    signature = f"{hook}({', '.join(HOOKS[hook])})"
    for parameter in inspect.signature(function).parameters.values():
        problem = _parameter_problem(
            parameter, HOOKS[hook], getattr(function, "__self__", None) is None
        )
        if problem:
            yield f"hook {hook!r} {problem}. The hook is {signature}; take any of these, by name."


def _is_wrapper(function: Any) -> bool:
    options = getattr(function, "rewardft_impl", {})
    return bool(options.get("wrapper") or options.get("hookwrapper"))


def _parameter_problem(
    parameter: inspect.Parameter, known: tuple[str, ...], is_function: bool
) -> str:
    name = parameter.name
    if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
        star = "*" if parameter.kind is parameter.VAR_POSITIONAL else "**"
        return f"takes `{star}{name}`, which is never filled"
    if name == "self" and is_function:
        return "takes `self`, so it is a method of a class: move it to the top level of the module"
    if name not in known:
        return f"has no argument {name!r}"
    if parameter.kind is parameter.POSITIONAL_ONLY:
        return f"takes {name!r} by position only, and hooks are called by name: remove the `/`"
    if parameter.kind is parameter.KEYWORD_ONLY:
        return f"takes {name!r} after a `*`, which is never filled: remove the `*`"
    if parameter.default is not parameter.empty:
        return f"gives {name!r} a default, and would always receive that: remove the default"
    return ""


def _undecorated(plugin: object, decorated: set[str]) -> Iterator[tuple[str, Any]]:
    for name in HOOKS:
        function = getattr(plugin, name, None)
        if (
            name not in decorated
            and inspect.isroutine(function)
            # A module that imports the specifications has them as attributes.
            and not hasattr(function, "rewardft_spec")
        ):
            yield name, function


def _no_hooks(manager: pluggy.PluginManager, plugin: object) -> str:
    """A module without hooks: say why,
    when the hooks sit in a class or the names are nearly right."""
    for name, value in getattr(plugin, "__dict__", {}).items():
        if inspect.isclass(value) and value.__module__ == getattr(plugin, "__name__", None):
            inside = sorted(implementations(manager, value))
            # Decorated, but pluggy looks at the module alone.
            if inside:
                hooks = ", ".join(inside)
                return (
                    f"it has no hooks: {hooks} inside the class {name!r} is not seen; move it to "
                    "the top level."
                )
    return (
        "it has no hooks: a plugin has at least one function with `@hookimpl` (from rewardft) "
        "above it, such as register_rewards."
    )
