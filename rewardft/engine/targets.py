"""Whether the layers that `adapter.targets` names are there, before any weights are loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rewardft.errors import ComponentError, RecipeError, RewardftError
from rewardft.files.paths import looks_local
from rewardft.files.shapes import shapes_only
from rewardft.plugins.entries import look_up
from rewardft.recipe.recipe import Recipe


def check_targets(recipe: Recipe, resolved: Any) -> bool:
    """Look for them in the model, without its weights; returns whether that could be done.

    Raises RecipeError for a layer that is not there, and for a model that cannot be built.
    """
    if not names_layers(recipe):
        return True
    if not is_light(recipe, resolved):
        return False
    from rewardft.engine.components import build_model
    from rewardft.policy.lora import lora_targets

    try:
        with shapes_only():
            model = build_model(resolved)
    except RewardftError as error:
        raise RecipeError(recipe.source, [f"{recipe.where('model')}: {error}"]) from error
    try:
        lora_targets(model.trainable, recipe.adapter.targets)
    except ComponentError as error:
        problem = f"{recipe.where('adapter', 'targets')}: {error}"
        raise RecipeError(recipe.source, [problem]) from error
    return True


def names_layers(recipe: Recipe) -> bool:
    """What a model names itself, or all linear layers, is no slip of the recipe's."""
    return recipe.adapter.kind == "lora" and recipe.adapter.targets not in (None, "all-linear")


def is_light(recipe: Recipe, resolved: Any) -> bool:
    """Whether the model says that it can be built without weights, and nothing of it would have to
    be fetched."""
    weights = recipe.model.options.get("weights")
    here = not isinstance(weights, str) or looks_local(weights) or Path(weights).is_dir()
    return here and look_up(resolved.model.entry.factory, "light_to_build") is True
