"""Components that do not fit each other: which tag is missing, where, and what to write instead."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Annotated, Any, Literal, get_args, get_origin

from rewardft.errors import did_you_mean
from rewardft.plugins.annotations import annotation_of
from rewardft.plugins.component import (
    Component,
    is_the_component,
    option_parameters,
    tags_of,
)
from rewardft.plugins.entries import KINDS, SINGULAR, Entry
from rewardft.plugins.manager import BUILTIN, Plugins
from rewardft.plugins.resolved import Resolved
from rewardft.recipe.recipe import Recipe
from rewardft.recipe.strict_yaml import Keys

MOST_NAMES = 12  # of components that would do


def provided(resolved: Resolved) -> frozenset[str]:
    """What the components offer together; of the rewards only what every one of them offers that
    has a weight."""
    single = [resolved.model, resolved.sampler, resolved.dataset, resolved.algorithm]
    single += [component for _, component in resolved.regularizers]
    # Any one of them is enough: a sampler has log-probabilities, a model a decoder.
    tags = frozenset().union(*(_provides(c) for c in single))
    # An algorithm that needs a gradient needs it of every reward that it learns from; one of weight
    # 0 is only watched.
    rewards = [_provides(component) for spec, component in resolved.rewards if spec.weight != 0]
    return tags | frozenset.intersection(*rewards) if rewards else tags


def tag_problems(recipe: Recipe, resolved: Resolved) -> Iterator[str]:
    """A sentence for each tag that a component needs and the others do not provide, with the line
    of each and what to write there."""
    for keys, component in resolved.placed():
        place = recipe.where(*keys, "use")
        for tag in sorted(_needs(component) - resolved.tags):
            text = (
                f"{place}: {component.entry.title} needs {tag!r}, "
                f"{_who_lacks(tag, recipe, resolved)}"
            )
            # The other way out: the component that needs the tag may do without it.
            if own := _other_options(component, tag, is_need=True):
                text += f" Or give {component.entry.title} {', or '.join(own)}."
            is_algorithm = component.entry.kind == "algorithms"
            yield text + _who_would_do(resolved) if is_algorithm else text


def refusal_problems(recipe: Recipe, resolved: Resolved) -> Iterator[str]:
    """A sentence for each tag that a component refuses and another one has."""
    for keys, component in resolved.placed():
        for tag in sorted(_refuses(component.entry) & resolved.tags):
            owners = [(k, c) for k, c in resolved.placed() if tag in _provides(c)]
            names = " and ".join(_placed_title(recipe, *owner) for owner in owners)
            entries = resolved.catalog.of_kind(component.entry.kind)
            others = sorted(e.name for e in entries if tag not in _refuses(e))
            cures = [f"use: {' / '.join(others[:MOST_NAMES])}"] if others else []
            cures += [
                f"give {c.entry.title} {cure}"
                for _, c in owners
                for cure in _options_where(c, "provides", "tags", tag, False)
            ]
            has = "has" if len(owners) == 1 else "have"
            yield (
                f"{recipe.where(*keys, 'use')}: {component.entry.title} does not go with {tag!r}, "
                f"which {names} {has}. Write there {', or '.join(cures) or 'another one'}."
            )


def gradient_problems(recipe: Recipe, resolved: Resolved) -> Iterator[str]:
    """`train.reward_gradients` where there are no gradients to take apart."""
    how, count = recipe.train.reward_gradients, len(resolved.rewards)
    uses_gradient = "reward_gradient" in _needs(resolved.algorithm)
    if how == "sum" or (uses_gradient and count > 1):
        return
    only = "reward" if count == 1 else "rewards"
    why = (
        f"the recipe lists {count or 'no'} {only}"
        if uses_gradient
        else f"{resolved.algorithm.entry.title} asks for no gradient"
    )
    yield (
        f"{recipe.where('train', 'reward_gradients')}: train.reward_gradients: {how!r} takes the "
        f"gradients of several rewards apart, and {why}. Leave it out."
    )


def step_problems(recipe: Recipe, resolved: Resolved) -> Iterator[str]:
    """Steps to learn from that the sampler may not execute: said here, not when the random draw
    comes to it."""
    entry, steps = resolved.algorithm.entry, resolved.sampler.all_options.get("steps")
    # Only the core's own: a plugin checks its algorithms in a hook of its own.
    if entry.plugin != BUILTIN or not isinstance(steps, int):
        return
    algorithm = resolved.algorithm.build()
    if not hasattr(algorithm, "step_problems"):
        return
    for key, problem in algorithm.step_problems(steps):
        yield f"{recipe.where('algorithm', key)}: {entry.title}: {problem}"


def optimizer_problems(recipe: Recipe, plugins: Plugins) -> Iterator[str]:
    """An optimizer that nobody makes: the core has one, and no listed plugin any."""
    name = recipe.optimizer.use
    # Which names a plugin's hook answers to, only its code knows.
    if name == "adamw" or plugins.places("create_optimizer"):
        return
    yield (
        f"{recipe.where('optimizer', 'use')}: there is no optimizer {name!r}."
        f"{did_you_mean(name, ['adamw'])} No listed plugin has the hook `create_optimizer`, which "
        "adds others."
    )


def _provides(component: Component) -> frozenset[str]:
    return component.tags("provides", "tags")


def _needs(component: Component) -> frozenset[str]:
    return component.tags("needs", "needs_for")


def _refuses(entry: Entry) -> frozenset[str]:
    return tags_of(entry, "refuses", None, {})


def _placed_title(recipe: Recipe, keys: Keys, component: Component) -> str:
    """A component with its line and its plugin."""
    where = recipe.where(*keys, "use")
    return f"{component.entry.title} ({where}, plugin {component.entry.plugin!r})"


def _who_lacks(tag: str, recipe: Recipe, resolved: Resolved) -> str:
    """The listed components of those kinds that can provide the tag, and what would do in the place
    of each."""
    entries = (e for kind in KINDS for e in resolved.catalog.of_kind(kind))
    offering = [entry for entry in entries if tag in _static(entry)]
    kinds = {entry.kind for entry in offering}
    # The evaluation's sampler provides nothing to a run.
    watched = {("rewards", i) for i, (spec, _) in enumerate(resolved.rewards) if spec.weight == 0}
    trained = [(k, c) for k, c in resolved.placed() if k[0] != "evaluate" and k not in watched]
    # Also kinds whose component provides it with another option, such as `eta`.
    kinds |= {c.entry.kind for _, c in trained if _other_options(c, tag)}
    lacking = [(k, c) for k, c in trained if c.entry.kind in kinds and tag not in _provides(c)]
    if not kinds:
        return "and no loaded plugin has a component that provides it."
    if not lacking:
        wanted = " or ".join(sorted(SINGULAR[kind] for kind in kinds))
        return f"and the recipe lists no {wanted} that provides it."
    names = " and ".join(_placed_title(recipe, *one) for one in lacking)
    cures = [cure for _, c in lacking for cure in _other_options(c, tag)]
    others = sorted(e.name for e in offering if e.kind in {c.entry.kind for _, c in lacking})
    cures += [f"use: {' / '.join(others[:MOST_NAMES])}"] if others else []
    return (
        f"which {names} {'does' if len(lacking) == 1 else 'do'} not provide. Write there "
        f"{', or '.join(cures)}.{''.join(_undeclared(c.entry, tag) for _, c in lacking)}"
    )


def _undeclared(entry: Entry, tag: str) -> str:
    """How a reward's class says that it has a gradient, where it says nothing of the kind; else
    ''."""
    # A class that says nothing either way may simply have forgotten to.
    silent = getattr(entry.factory, "provides", None) is None
    silent &= getattr(entry.factory, "differentiable", None) is None
    if tag != "reward_gradient" or entry.kind != "rewards" or is_the_component(entry) or not silent:
        return ""
    word = "class" if inspect.isclass(entry.factory) else "factory"
    return (
        f" If a gradient reaches the samples through {entry.title}, give its {word} "
        f"({entry.location}) the attribute provides = frozenset({{{tag!r}}})."
    )


def _other_options(component: Component, tag: str, is_need: bool = False) -> list[str]:
    """Single options, as 'name: value', with which a component would provide the tag, or would not
    need it."""
    attribute, dynamic = ("needs", "needs_for") if is_need else ("provides", "tags")
    return _options_where(component, attribute, dynamic, tag, has=not is_need)


def _options_where(
    component: Component, attribute: str, dynamic: str, tag: str, has: bool
) -> list[str]:
    """Single options, as 'name: value', with which the tag would, or would not, be there."""
    if not hasattr(component.entry.factory, dynamic):
        return []
    found = []
    for name, parameter in option_parameters(component.entry).items():
        value = component.all_options.get(name)
        for other in _alternatives(annotation_of(component.entry, parameter), value):
            options = component.all_options | {name: other}
            if (tag in tags_of(component.entry, attribute, dynamic, options)) == has:
                shown = str(other).lower() if isinstance(other, bool) else other
                found.append(f"{name}: {shown}")
    return found


def _alternatives(annotation: Any, value: Any) -> list[Any]:
    """Other values of an option that tags may depend on: a switch, a choice, an amount of none."""
    if isinstance(value, bool):
        return [not value]
    if get_origin(annotation) is Literal:
        return [choice for choice in get_args(annotation) if choice != value]
    # An amount of 0 switches something off, such as a sampler's noise; it may have bounds.
    plain = get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation
    return [1.0] if plain is float and value == 0 else []


def _static(entry: Entry) -> frozenset[str]:
    """Tags of a registered component with its default options;
    without required ones, its fixed tags alone."""
    return _tags_by_default(entry, "provides", "tags")


def _tags_by_default(entry: Entry, attribute: str, dynamic: str) -> frozenset[str]:
    parameters = option_parameters(entry)
    defaults = {name: p.default for name, p in parameters.items() if p.default is not p.empty}
    # Tags that depend on options can only be asked for where all of these are known.
    complete = len(defaults) == sum(p.kind is not p.VAR_KEYWORD for p in parameters.values())
    return tags_of(entry, attribute, dynamic if complete else None, defaults)


def _who_would_do(resolved: Resolved) -> str:
    """Algorithms whose needs this recipe satisfies."""
    others = [
        e for e in resolved.catalog.of_kind("algorithms") if e.name != resolved.algorithm.entry.name
    ]
    fit = [
        e.name
        for e in others
        if _tags_by_default(e, "needs", "needs_for") <= resolved.tags | _static(e)
    ]
    return (
        f" Algorithms of the listed plugins that would work here: {', '.join(fit)}."
        if fit
        else " No other algorithm of the listed plugins would work here."
    )
