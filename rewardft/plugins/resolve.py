"""From a recipe's names to components: every name looked up, every option and tag checked, nothing
built.

Loads no weights; imports torch only when a plugin does. All problems are reported at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rewardft.errors import PluginError, RecipeError
from rewardft.files.surroundings import put_back
from rewardft.plugins.catalog import Catalog, build_catalog
from rewardft.plugins.component import Component, anchor_options, check_options
from rewardft.plugins.entries import Entry
from rewardft.plugins.loading import load_usable_plugins
from rewardft.plugins.manager import Plugins
from rewardft.plugins.misfits import (
    gradient_problems,
    optimizer_problems,
    provided,
    refusal_problems,
    step_problems,
    tag_problems,
)
from rewardft.plugins.resolved import Resolved
from rewardft.recipe.recipe import ComponentSpec, Recipe, read_recipe
from rewardft.recipe.strict_yaml import Keys

__all__ = ["Resolved", "open_recipe", "resolve"]


@put_back()
def open_recipe(
    path: Path | str, overrides: Sequence[str] = (), folder: Path | None = None
) -> tuple[Recipe, Plugins, Resolved]:
    """Read a recipe, load its plugins and resolve it. folder: as in `read_recipe`.

    Raises `RecipeError` with the problems of all three at once: neither a wrong section nor a
    plugin that cannot be used hides the rest.
    """
    # Its sections may be wrong; its list of plugins is mostly sound and can be loaded all the same.
    recipe, problems = read_recipe(path, overrides, folder)
    plugins, broken = load_usable_plugins(recipe.plugins, recipe.base)
    if not problems and not broken:
        anchored, resolved = _resolve(recipe, plugins)
        return anchored, plugins, resolved
    # What is not there for want of a plugin follows from its own problem.
    found = _look_up(recipe, plugins, bool(broken) or recipe.lacks_plugins)
    places = [("plugins",) if e.entry is None else ("plugins", e.entry) for e in broken]
    said = [f"{recipe.where(*keys)}: {error}" for keys, error in zip(places, broken)]
    raise RecipeError(recipe.source, [*problems, *said, *found]) from next(iter(broken), None)


def _look_up(recipe: Recipe, plugins: Plugins, incomplete: bool) -> list[str]:
    """The problems of names and options in a recipe that has others;
    tags and plugins' objections need a sound one."""
    try:
        resolver = _Resolver(recipe, build_catalog(plugins), incomplete)
    except PluginError as error:
        return [f"{recipe.source}: {error}"]
    resolver.resolve()  # for its problems alone
    return resolver.problems


def resolve(recipe: Recipe, plugins: Plugins) -> Resolved:
    """Look up and check every component of `recipe`; raises `RecipeError` with all problems."""
    return _resolve(recipe, plugins)[1]


def _resolve(recipe: Recipe, plugins: Plugins) -> tuple[Recipe, Resolved]:
    """The recipe with absolute paths, and its components."""
    resolver = _Resolver(recipe, build_catalog(plugins))
    resolved = resolver.resolve()
    recipe, problems = resolver.recipe, resolver.problems
    if resolved is not None and not problems:  # tags may depend on options, so these must be sound
        resolved = replace(resolved, tags=provided(resolved))
        problems += [
            *tag_problems(recipe, resolved),
            *refusal_problems(recipe, resolved),
            *gradient_problems(recipe, resolved),
            *step_problems(recipe, resolved),
        ]
    problems += optimizer_problems(recipe, plugins)
    # Asked even then: plugins object to names and settings, which are there in any case.
    problems += [_located(recipe, text) for text in _objections(recipe, plugins)]
    if problems or resolved is None:
        raise RecipeError(recipe.source, problems)
    return recipe, resolved


class _Resolver:
    """Collects problems while it looks components up.

    incomplete: plugins are missing, so a name that is not found is no problem: one of them may have
        it.
    """

    def __init__(self, recipe: Recipe, catalog: Catalog, incomplete: bool = False) -> None:
        self.recipe, self.catalog, self.incomplete = recipe, catalog, incomplete
        self.problems: list[str] = []

    def resolve(self) -> Resolved | None:
        """The components; None when one of them was not found."""
        recipe = self.recipe
        model = self.component("models", recipe.model, ("model",))
        sampler = self.component("samplers", recipe.sampler, ("sampler",))
        dataset = self.component("datasets", recipe.data, ("data",))
        algorithm = self.component("algorithms", recipe.algorithm, ("algorithm",))
        rewards = self.listed("rewards", recipe.rewards, ("rewards",))
        regularizers = self.listed("regularizers", recipe.regularizers, ("regularizers",))
        eval_rewards = self.listed("rewards", recipe.evaluate.rewards, ("evaluate", "rewards"))
        metrics = self.listed("metrics", recipe.evaluate.metrics, ("evaluate", "metrics"))
        eval_sampler = self.component("samplers", recipe.evaluate.sampler, ("evaluate", "sampler"))
        eval_dataset = self.evaluated(dataset) if dataset else None
        if not (model and sampler and dataset and eval_dataset and algorithm):
            return None
        return Resolved(
            self.catalog,
            model,
            sampler,
            dataset,
            eval_dataset,
            algorithm,
            rewards,
            regularizers,
            eval_rewards,
            [component for _, component in metrics],
            eval_sampler,
        )

    def component(self, kind: str, spec: ComponentSpec | None, keys: Keys) -> Component | None:
        if spec is None:  # a section that is missing or wrong, which is reported as such
            return None
        try:
            entry = self.catalog.get(kind, spec.use)
        except PluginError as error:
            if not self.incomplete:
                self.problems.append(f"{self.recipe.where(*keys, 'use')}: {error}")
            return None
        fixed = tuple(name for name in type(spec).model_fields if name != "options")
        options = self.anchor(entry, spec.options, keys)
        values, problems = check_options(self.catalog, entry, options, fixed)
        for path, message in problems:
            self.problems.append(f"{self.recipe.where(*keys, *path)}: {message}")
        return Component(entry, values)

    def anchor(self, entry: Entry, options: Mapping[str, Any], keys: Keys) -> dict[str, Any]:
        """Options with absolute paths, which the recipe keeps: it then runs again from anywhere."""
        found, problems = anchor_options(
            self.catalog, entry, options, lambda path: self.recipe.base_of(*keys, *path)
        )
        self.problems += [f"{self.recipe.where(*keys, *path)}: {text}" for path, text in problems]
        if found != options:
            self.recipe = self.recipe.with_options(keys, found)
        return found

    def listed(self, kind: str, specs: list[Any], keys: Keys) -> list[tuple[Any, Component]]:
        found = [
            (spec, self.component(kind, spec, (*keys, index))) for index, spec in enumerate(specs)
        ]
        return [(spec, component) for spec, component in found if component is not None]

    def evaluated(self, dataset: Component) -> Component:
        """The data set of the evaluation: the training one with `evaluate.data` on top."""
        overrides = self.recipe.evaluate.data
        refused = "evaluate.data overrides options of the data set, and {!r} is not one."
        own = {
            "use": refused.format("use"),
            "batch_size": refused.format("batch_size") + " Write evaluate.batch_size.",
        }
        problems = [((key,), own[key]) for key in overrides if key in own]
        given = {key: value for key, value in overrides.items() if key not in own}
        options = self.anchor(dataset.entry, given, ("evaluate", "data"))
        values, found = check_options(self.catalog, dataset.entry, options, ())
        # A required option that is missing here (no path) is given in the `data` section.
        for path, message in problems + [(path, text) for path, text in found if path]:
            self.problems.append(f"{self.recipe.where('evaluate', 'data', *path)}: {message}")
        return Component(dataset.entry, {**dataset.options, **values})


def _located(recipe: Recipe, text: str) -> str:
    """A plugin's sentence with the recipe in front,
    unless it says its place itself, by `recipe.where(...)`."""
    return text if text.startswith((f"{recipe.source}:", "--set ")) else f"{recipe.source}: {text}"


def _objections(recipe: Recipe, plugins: Plugins) -> Iterator[str]:
    """The sentences of every plugin's `check_recipe`."""
    for name, answer in plugins.results("check_recipe", recipe=recipe):
        listed = isinstance(answer, Iterable) and not isinstance(answer, (str, bytes, Mapping))
        sentences: list[Any] = list(answer) if listed else [answer]
        if not listed or not all(isinstance(sentence, str) for sentence in sentences):
            raise PluginError(
                f"plugin {name!r}: hook 'check_recipe' returned {answer!r}; expected a list of "
                "sentences, or nothing."
            )
        yield from sentences
