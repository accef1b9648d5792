"""The components of a session, built as a recipe says."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from rewardft.errors import ComponentError
from rewardft.policy.answers import titled
from rewardft.policy.context import WeightedRegularizer
from rewardft.policy.weighted_reward import WeightedReward
from rewardft.recipe.recipe import Recipe


def build_model(resolved: Any) -> Any:
    """The model. Weights that it draws at random without a seed of its own are the same at every
    seed of a run, and where the run is evaluated; the global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return resolved.model.build()


def build_samplers(recipe: Recipe, resolved: Any, model: Any) -> tuple[Any, Any]:
    """The sampler of training and that of evaluation, which may be the same."""
    sampler = build_sampler(resolved.sampler, model, recipe.where("sampler", "use"))
    if resolved.eval_sampler is None:
        return sampler, sampler
    line = recipe.where("evaluate", "sampler", "use")
    return sampler, build_sampler(resolved.eval_sampler, model, line)


def build_sampler(component: Any, model: Any, place: str) -> Any:
    """A sampler that has seen the model; raises ComponentError when the two do not fit.

    place: of the sampler in the recipe, for the error.
    """
    sampler = component.build()
    try:
        sampler.setup(model)
    except Exception as error:
        if isinstance(error, AttributeError) and error.obj is model:
            raise ComponentError(
                f"{place}: {component.entry.title} asks the model for `{error.name}`, and "
                f"{titled(model)} has none. Give the model one, or take another sampler."
            ) from error
        error.add_note(f"while setting up {component.entry.title} ({place}) for the model")
        raise
    return sampler


def build_regularizers(specs: Any) -> list[WeightedRegularizer]:
    """Regularizers with their names and weights."""
    return [WeightedRegularizer(spec.name, part.build(), spec.weight) for spec, part in specs]


def build_rewards(specs: Any, device: torch.device) -> list[WeightedReward]:
    """Rewards ready to score: those that are modules are frozen, in evaluation mode and on the
    device."""
    rewards = []
    for spec, component in specs:
        reward = component.build()
        # A reward network must never learn, though the gradient runs through it.
        if isinstance(reward, nn.Module):
            reward.requires_grad_(False).eval().to(device)
        rewards.append(WeightedReward(spec.name, reward, spec.weight, spec.on_error))
    return rewards
