"""Paths in a comparison file start at its folder, as those of a recipe do at the recipe's."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rewardft.comparisons.settings import key_of, value_of
from rewardft.errors import RewardftError
from rewardft.plugins.resolve import open_recipe


def from_folder(folder: Path, recipe: Path, settings: Sequence[str]) -> tuple[str, ...]:
    """The settings of a variant with its relative paths made absolute: a run is started from
    anywhere. Settings that the recipe does not take are left as they are, to be reported by the
    check of the variant."""
    # Reading the recipe loads its plugins, so only where there can be a path at all.
    if folder == Path.cwd() or not any(holds_text(value_of(text)) for text in settings):
        return tuple(settings)
    try:
        anchored, _, _ = open_recipe(recipe, settings, folder)
    except RewardftError:
        return tuple(settings)
    made = anchored.dump()
    return tuple(replaced(text, made) for text in settings)


def as_read(settings: Sequence[str], made: Any) -> list[str]:
    """The settings of a recipe that has been read, with the absolute paths that it has."""
    return [replaced(text, made) if holds_text(value_of(text)) else text for text in settings]


def holds_text(value: Any) -> bool:
    """Whether there is text in a value, other than names of components."""
    if isinstance(value, dict):
        return any(holds_text(item) for key, item in value.items() if key != "use")
    return any(map(holds_text, value)) if isinstance(value, list) else isinstance(value, str)


def replaced(setting: str, made: Any) -> str:
    """The setting with the paths that the whole recipe, `made`, has in their places."""
    key, before = key_of(setting), value_of(setting)
    for word in key.split("."):
        made = made[int(word) if isinstance(made, list) else word]
    after = with_paths(before, made)
    return setting if after == before else f"{key}={json.dumps(after)}"


def with_paths(before: Any, made: Any) -> Any:
    """`before` with each text that became an absolute path as that path."""
    if isinstance(before, dict) and isinstance(made, dict):
        return {key: with_paths(item, made.get(key)) for key, item in before.items()}
    if isinstance(before, list) and isinstance(made, list) and len(before) == len(made):
        return [with_paths(item, other) for item, other in zip(before, made)]
    # Other text that changed was no path: a validator may fold a name.
    moved = isinstance(before, str) and isinstance(made, str) and before != made
    return made if moved and Path(made).is_absolute() else before
