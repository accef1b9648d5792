"""DiffusionNFT: online reinforcement learning on the forward process,
for any sampler and any reward."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from rewardft import hookimpl

if TYPE_CHECKING:
    from rewardft import Recipe

Factories = Mapping[str, Callable[..., Any]]


@hookimpl
def register_algorithms() -> Factories:
    from rewardft_plugins.nft.diffusion_nft import DiffusionNFT

    return {"diffusion_nft": DiffusionNFT}


@hookimpl
def check_recipe(recipe: Recipe) -> Iterator[str]:
    """What would be ignored without a word, and rewards that are missing."""
    if recipe.algorithm.use.casefold() != "diffusion_nft":
        return
    if recipe.regularizers:
        yield (
            "algorithm 'diffusion_nft' learns from noised samples and visits no step of the "
            "sampler, so the regularizers would never be applied. Leave `regularizers` out; "
            "`reference_weight` pulls to the reference."
        )
    if not recipe.rewards:
        yield (
            "algorithm 'diffusion_nft' weighs its samples by the recipe's rewards, and the recipe "
            "lists none."
        )
