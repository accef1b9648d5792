"""Recipes: one strict YAML file that says everything about a run.

Every key belongs to a fixed section (`rewardft.recipe.sections`) or is an option of the named
component; anything else is a problem with a line number. `load_recipe` reports all problems of a
file at once.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import PrivateAttr

from rewardft.errors import DataError, RecipeError, did_you_mean
from rewardft.files.paths import local_path, read_text
from rewardft.recipe import strict_yaml
from rewardft.recipe.overrides import Origin, apply_override, dotted
from rewardft.recipe.plugin_names import is_path
from rewardft.recipe.salvage import salvage
from rewardft.recipe.section_checks import check_sections
from rewardft.recipe.sections import (
    AdapterSpec,
    ComponentSpec,
    DataSpec,
    EvaluateSpec,
    OptimizerSpec,
    RegularizerSpec,
    RewardSpec,
    SaveSpec,
    Sections,
    TrainSpec,
    fold_options,
)
from rewardft.recipe.shipped import shipped_folders
from rewardft.recipe.strict_yaml import Keys

__all__ = [
    "AdapterSpec",
    "ComponentSpec",
    "DataSpec",
    "EvaluateSpec",
    "OptimizerSpec",
    "Recipe",
    "RegularizerSpec",
    "RewardSpec",
    "SaveSpec",
    "TrainSpec",
    "dotted",
    "load_recipe",
    "read_recipe",
]


class Recipe(Sections):
    """A checked recipe. Sections are frozen; component options are checked later, by
    `rewardft.plugins.resolve`."""

    _origin: Origin = PrivateAttr()

    @property
    def source(self) -> str:
        """The path that the recipe was read from, as given."""
        return self._origin.source

    @property
    def base(self) -> Path:
        """The folder that relative paths start at: the recipe's, or for a shipped recipe, which is
        read as if it had been copied here, the current one."""
        return self._origin.base

    @property
    def lacks_plugins(self) -> bool:
        """Whether `plugins` could not be read, so that a name that is not known may be one of
        theirs."""
        return self._origin.lacks_plugins

    def base_of(self, *keys: str | int) -> Path:
        """The same for the value at `keys`: the folder of the shell when a `--set` gave it."""
        return self._origin.base_of(keys)

    def line(self, *keys: str | int) -> int | None:
        """The line of a key, or of the nearest section around it; None when it came from a `--set`
        or a default."""
        return self._origin.line(keys)

    def where(self, *keys: str | int) -> str:
        """'recipe.yaml:12' for messages; the `--set` when the value came from one."""
        return self._origin.where(keys)

    def dump(self) -> dict[str, Any]:
        """The recipe as plain data with the defaults filled in; plugin files as absolute paths."""
        flat = self.as_options()
        # Absolute: the copy in a run folder must find them from there.
        flat["plugins"] = [_absolute(name, self.base) for name in self.plugins]
        return flat

    def with_options(self, keys: Keys, options: dict[str, Any]) -> Recipe:
        """The recipe with other options of the component at `keys`."""
        recipe: Recipe = _replaced(self, keys, options)
        return recipe

    def to_yaml(self) -> str:
        """`dump` as YAML; `load_recipe` reads it back, from any folder, to an equal recipe."""
        return strict_yaml.dump(self.dump())

    def digest(self) -> str:
        """SHA-256 of the resolved recipe, in hex. The folder that plugin files lie in does not
        enter it, nor do the pictures that are drawn on the way."""
        flat = self.as_options()
        flat.pop("samples")
        # As before there were these keys, so that finished runs are known again.
        if flat["evaluate"]["fractions"] is None:
            flat["evaluate"].pop("fractions")
        for key in ("keep_for_rollouts", "compile"):
            if not flat["train"][key]:
                flat["train"].pop(key)
        # What is in a plugin file counts elsewhere, by its own digest.
        flat["plugins"] = [Path(name).name if is_path(name) else name for name in self.plugins]
        # Sorted: the order of keys in a file means nothing.
        return hashlib.sha256(json.dumps(flat, sort_keys=True).encode()).hexdigest()


def _replaced(part: Any, keys: Keys, options: dict[str, Any]) -> Any:
    if not keys:
        return options if isinstance(part, dict) else part.model_copy(update={"options": options})
    if isinstance(part, list):
        # A new list: sections are frozen, and the old recipe may still be in use.
        index = int(keys[0])
        return [*part[:index], _replaced(part[index], keys[1:], options), *part[index + 1 :]]
    inner = _replaced(getattr(part, str(keys[0])), keys[1:], options)
    return part.model_copy(update={str(keys[0]): inner})


def load_recipe(path: Path | str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe and apply `key.path=value` overrides; raises `RecipeError` with every problem
    found.

    Plugin files that the file names are relative to its folder, those of an override to the current
    one.
    """
    recipe, problems = read_recipe(path, overrides)
    if problems:
        raise RecipeError(recipe.source, problems)
    return recipe


def read_recipe(
    path: Path | str, overrides: Sequence[str] = (), folder: Path | None = None
) -> tuple[Recipe, list[str]]:
    """A recipe and its problems; where the sections have any, it is good for looking up its
    components alone.

    folder: where relative paths of the overrides start; None: the current one.
    Raises `RecipeError` for a file that cannot be read as a mapping.
    """
    origin = Origin(str(path), base=_base_of(Path(path)), folder=folder or Path.cwd())
    data, problems = _read(Path(path), origin)
    for text in overrides:
        problems += apply_override(data, text, origin)
    # Before the checks: these know nothing of where a value came from.
    unread = list(_anchor_plugins(data, origin))
    problems += [*unread, *_anchor_initial(data, origin)]
    # In the order of the file, as one reads and fixes them.
    found = sorted(check_sections(data), key=lambda problem: origin.line(problem[0]) or 0)
    origin.lacks_plugins = bool(unread) or any(_is_of_plugins(keys, data) for keys, _ in found)
    problems += [f"{origin.where(keys)}: {message}" for keys, message in found]
    folded = fold_options(Recipe, data)
    if found:
        # Good enough to look names up, so that these problems too are reported at once.
        recipe = salvage(Recipe, folded)
    else:
        # JSON mode: strict about scalars, and takes a list for a tuple.
        recipe = Recipe.model_validate_json(json.dumps(folded), strict=True)
    # Private and not a field: where a value came from is no part of the recipe.
    recipe._origin = origin
    return recipe, problems


def _is_of_plugins(keys: Keys, data: dict[str, Any]) -> bool:
    """Whether the problem at `keys` is one of the list of plugins, or a slip in its name."""
    word = str(keys[0]).casefold()
    near = "plugins" not in data and difflib.get_close_matches(word, ["plugins"], cutoff=0.8)
    return word == "plugins" or bool(near)


def _anchor_plugins(data: dict[str, Any], origin: Origin) -> Iterator[str]:
    """Make the plugin files that overrides name absolute, before they are taken for neighbours of
    the recipe; gives a problem for each that cannot be a path, and leaves it out."""
    if not isinstance(data.get("plugins"), list):
        return
    names = []
    for index, name in enumerate(data["plugins"]):
        base = origin.base_of(("plugins", index))
        try:
            path = _absolute(name, base) if isinstance(name, str) else name
        except DataError as error:
            yield f"{origin.where(('plugins', index))}: plugins.{index}: {error}"
            continue
        # Those of the file stay as written, as messages name them.
        names.append(path if base != origin.base else name)
    data["plugins"] = names


def _anchor_initial(data: dict[str, Any], origin: Origin) -> Iterator[str]:
    """Make `adapter.init` absolute; gives a problem for what cannot be a path."""
    section, keys = data.get("adapter"), ("adapter", "init")
    if not isinstance(section, dict) or not isinstance(section.get("init"), str):
        return
    try:
        section["init"] = str(local_path(section["init"], origin.base_of(keys)))
    except DataError as error:
        yield f"{origin.where(keys)}: adapter.init: {error}"


def _absolute(name: str, base: Path) -> str:
    return str(local_path(name, base)) if is_path(name) else name


def _read(path: Path, origin: Origin) -> tuple[dict[str, Any], list[str]]:
    """The file's data and its problems. What stops the reading altogether is raised here."""
    document = strict_yaml.parse(_text(path, origin.source))
    origin.lines = document.lines
    problems = [
        f"{origin.source}{f':{p.line}' if p.line else ''}: {p.message}" for p in document.problems
    ]
    # Empty, or comments alone.
    if document.data is None and not problems:
        problems = [f"{origin.source}: the file is empty; a recipe needs {_required_words()}."]
    elif document.data is not None and not isinstance(document.data, dict):
        got = "a list" if isinstance(document.data, list) else repr(document.data)
        problems.append(
            f"{origin.source}:1: a recipe is a mapping (`key: value` lines), got {got}."
        )
    if not isinstance(document.data, dict):
        raise RecipeError(origin.source, problems)
    return document.data, problems


def _base_of(path: Path) -> Path:
    """The folder of a recipe; that of the shell for a shipped one."""
    folder = local_path(path, Path.cwd()).parent
    return Path.cwd() if folder in shipped_folders() else folder


def _text(path: Path, source: str) -> str:
    try:
        return read_text(path)
    except DataError as error:
        known = [p.name for p in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
        near = did_you_mean(path.name, known) if not path.exists() else ""
        raise RecipeError(source, [f"{error}{near}"]) from None


def _required_words() -> str:
    return ", ".join(name for name, info in Sections.model_fields.items() if info.is_required())
