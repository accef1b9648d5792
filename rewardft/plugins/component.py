"""One component of a recipe: its factory with options that were checked against the factory's
signature."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rewardft.contracts.protocols import Dataset, DiffusionModel, Reward
from rewardft.errors import ComponentError, DataError, PluginError, RewardftError
from rewardft.files.paths import anchored
from rewardft.plugins.annotations import annotation_of
from rewardft.plugins.catalog import Catalog
from rewardft.plugins.entries import SINGULAR, Entry, is_tags, look_up, not_tags
from rewardft.plugins.made import check_made
from rewardft.plugins.sources import missing_package
from rewardft.recipe.elsewhere import hint
from rewardft.recipe.typed_values import Mismatch, convert, type_words, value_words

# Kinds whose contract is a plain call: a function with these first parameters is the component, not
# a factory of it.
CALLS = {"rewards": ("rollout", "batch"), "regularizers": ("new", "reference")}

# Annotations that stand for a component of a kind: a recipe gives `{use: NAME, OPTION: ...}` there.
NESTED: Mapping[Any, str] = {Reward: "rewards", DiffusionModel: "models", Dataset: "datasets"}

# The folder that a relative path at these keys starts at.
BaseOf = Callable[[tuple[str, ...]], Path]

# Converted options with the problems, as pairs of (keys that lead to the option, message).
Checked = tuple[dict[str, Any], list[tuple[tuple[str, ...], str]]]


@dataclass(frozen=True, repr=False)
class Component:
    """A catalog entry and its options.

    `options` holds what the recipe gives, converted to the annotated types.
    """

    entry: Entry
    options: Mapping[str, Any]

    @property
    def all_options(self) -> dict[str, Any]:
        """The options with the factory's defaults filled in."""
        known = option_parameters(self.entry)
        defaults = {n: p.default for n, p in known.items() if p.default is not p.empty}
        return {**defaults, **self.options}

    @property
    def flat_options(self) -> dict[str, Any]:
        """The same, with the options of a component inside as `option.its_option`."""
        flat: dict[str, Any] = {}
        for name, value in self.all_options.items():
            if isinstance(value, Component):
                flat |= {f"{name}.{key}": each for key, each in value.flat_options.items()}
            else:
                flat[name] = value
        return flat

    def build(self) -> Any:
        """Make the object.

        What fails in the factory is raised as `ComponentError` that names the component.
        """
        factory = self.entry.factory
        given = self.options.items()
        options = {n: v.build() if isinstance(v, Component) else v for n, v in given}
        # A plain function is not called here: its options are bound, and it scores later.
        if is_the_component(self.entry):
            return functools.update_wrapper(functools.partial(factory, **options), factory)
        try:
            made = factory(**options)
        except RewardftError as error:
            error.add_note(f"while building {self.title}")
            raise
        except Exception as error:
            cure = missing_package(error)
            raise ComponentError(
                f"{self.title} could not be built: {type(error).__name__}: {error}{cure}"
            ) from error
        check_made(self.entry, made)
        return made

    def tags(self, attribute: str, dynamic: str) -> frozenset[str]:
        """The static tags in `attribute` with those that the method `dynamic` gives for these
        options."""
        try:
            return tags_of(self.entry, attribute, dynamic, self.all_options)
        except RewardftError:
            raise
        except Exception as error:
            raise ComponentError(
                f"{self.title}: {dynamic}() failed: {type(error).__name__}: {error}"
            ) from error

    def __repr__(self) -> str:
        """As a recipe writes it inside an option."""
        options = {"use": self.entry.name, **self.options}
        return "{" + ", ".join(f"{name}: {value}" for name, value in options.items()) + "}"

    @property
    def title(self) -> str:
        """'algorithm 'mine' (plugin 'mine', mine.py:3)', for messages."""
        return f"{self.entry.title} (plugin {self.entry.plugin!r}, {self.entry.location})"


def is_the_component(entry: Entry) -> bool:
    """Whether the registered callable is the reward or regularizer itself, not a factory of one."""
    names = list(_signature(entry.factory))[:2]
    return (
        entry.kind in CALLS
        and not inspect.isclass(entry.factory)
        and tuple(names) == CALLS[entry.kind]
    )


def option_parameters(entry: Entry) -> dict[str, inspect.Parameter]:
    """The parameters that a recipe can give, by name;
    `**kwargs` is among them under its own name."""
    parameters = list(_signature(entry.factory).values())[2 if is_the_component(entry) else 0 :]
    return {p.name: p for p in parameters if p.kind is not p.VAR_POSITIONAL}


def check_options(
    catalog: Catalog, entry: Entry, options: Mapping[str, Any], fixed: tuple[str, ...]
) -> Checked:
    """Convert options to the factory's types; returns them with the problems.

    catalog: where the names of components inside options are looked up.
    fixed: the section's own keys, so that a misspelled one is recognised too.
    """
    known = option_parameters(entry)
    named = {name: p for name, p in known.items() if p.kind is not p.VAR_KEYWORD}
    open_ended = len(named) < len(known)
    values: dict[str, Any] = {}
    problems: list[tuple[tuple[str, ...], str]] = []
    for key, value in options.items():
        if key in named:
            values[key], found = check_option(catalog, entry, named[key], value)
            problems += [((key, *path), message) for path, message in found]
            continue
        values[key] = value
        if not open_ended:
            section = "data" if entry.kind == "datasets" else entry.kind.removesuffix("s")
            near = hint(key, section, [*named, *fixed])
            # Its section's fixed keys alone are no choice of options.
            bare = not named and (not near or near.startswith(" Choose"))
            said = " It has no options." if bare else near
            problems.append(((key,), f"{entry.title} has no option {key!r}.{said}"))
    problems += [
        ((), _missing(entry, p))
        for p in named.values()
        if p.default is p.empty and p.name not in options
    ]
    return values, problems


def check_option(
    catalog: Catalog, entry: Entry, parameter: inspect.Parameter, value: Any
) -> tuple[Any, list[tuple[tuple[str, ...], str]]]:
    """One option, converted, with its problems; the keys of these begin inside the option."""
    title = f"option {parameter.name!r} of {entry.title}"
    annotation = annotation_of(entry, parameter)
    if annotation in NESTED:
        return check_nested(catalog, NESTED[annotation], value, title)
    # `null` is the default spelled out, even where the annotation forgot `| None`.
    if value is None and parameter.default is None:
        return None, []
    try:
        return convert(annotation, value), []
    except Mismatch as error:
        return value, [((), f"{title}: {error}")]


def check_nested(
    catalog: Catalog, kind: str, value: Any, title: str
) -> tuple[Any, list[tuple[tuple[str, ...], str]]]:
    """A component of `kind` inside an option, as `{use: NAME, ...}`."""
    if not isinstance(value, Mapping) or not isinstance(value.get("use"), str):
        form = f"a {SINGULAR[kind]} as {{use: NAME, OPTION: ...}}"
        return value, [((), f"{title}: expected {form}, got {value_words(value)}.")]
    try:
        entry = catalog.get(kind, value["use"])
    except PluginError as error:
        return value, [(("use",), str(error))]
    options = {name: each for name, each in value.items() if name != "use"}
    values, problems = check_options(catalog, entry, options, ("use",))
    return Component(entry, values), problems


def anchor_options(
    catalog: Catalog, entry: Entry, options: Mapping[str, Any], base_of: BaseOf
) -> tuple[dict[str, Any], list[tuple[tuple[str, ...], str]]]:
    """Options with their paths made absolute, as the annotations say which are some, and problems
    as pairs (keys, message).

    base_of: the folder that a relative path at these keys starts at.
    """
    known = option_parameters(entry)
    values = dict(options)
    problems: list[tuple[tuple[str, ...], str]] = []
    for key in [key for key in options if key in known]:
        annotation, value = annotation_of(entry, known[key]), options[key]
        if annotation in NESTED:
            values[key], found = anchor_nested(catalog, annotation, value, key, base_of)
            problems += found
            continue
        try:
            values[key] = anchored(annotation, value, base_of((key,)))
        except DataError as error:
            problems.append(((key,), f"option {key!r} of {entry.title}: {error}"))
    return values, problems


def anchor_nested(
    catalog: Catalog, annotation: Any, value: Any, key: str, base_of: BaseOf
) -> tuple[Any, list[tuple[tuple[str, ...], str]]]:
    """The same for a component inside the option `key`; one that is not known is left as it is."""
    try:
        entry = catalog.get(NESTED[annotation], value["use"])
    except (PluginError, KeyError, TypeError, AttributeError):  # reported where it is checked
        return value, []
    values, found = anchor_options(catalog, entry, value, lambda keys: base_of((key, *keys)))
    return values, [((key, *keys), message) for keys, message in found]


def tags_of(
    entry: Entry, attribute: str, dynamic: str | None, options: Mapping[str, Any]
) -> frozenset[str]:
    """Tags of a component: its attribute, joined with what its method (None: not asked) says about
    the options."""
    tags = frozenset(look_up(entry.factory, attribute) or ())
    # A plain function is differentiable until it says otherwise; the start-up audit finds out.
    if (
        attribute == "provides"
        and is_the_component(entry)
        and look_up(entry.factory, "provides") is None
    ):
        tags = frozenset({"reward_gradient"}) if entry.kind == "rewards" else frozenset()
    if (
        entry.kind == "rewards"
        and attribute == "provides"
        and look_up(entry.factory, "differentiable") is False
    ):
        tags -= {"reward_gradient"}
    method = look_up(entry.factory, dynamic) if dynamic else None
    if method is None:
        return tags
    more = _call_with_known(method, options)
    if not is_tags(more):
        said = not_tags(f"`{dynamic}()` gave", more)
        raise ComponentError(f"{entry.title} ({entry.location}): {said}")
    return tags | frozenset(more)


def _call_with_known(method: Callable[..., Any], options: Mapping[str, Any]) -> Any:
    """Call `method` with those options that it takes."""
    parameters = inspect.signature(method).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return method(**options)
    return method(**{name: value for name, value in options.items() if name in parameters})


def _signature(factory: Any) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(factory).parameters


def _missing(entry: Entry, parameter: inspect.Parameter) -> str:
    annotation = annotation_of(entry, parameter)
    words = "" if annotation is Any else f" ({type_words(annotation)})"
    if annotation in NESTED:
        words = f" (a {SINGULAR[NESTED[annotation]]}, {{use: NAME, OPTION: ...}})"
    text = f"{entry.title} requires the option {parameter.name!r}{words}."
    first = next(iter(_signature(entry.factory)), None)
    if entry.kind in CALLS and inspect.isroutine(entry.factory) and parameter.name == first:
        names = ", ".join(CALLS[entry.kind])
        text += (
            " If the function itself is meant to be the component, name its first parameters "
            f"({names})."
        )
    return text
