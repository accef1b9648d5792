"""Adjoint matching: reward fine-tuning as stochastic optimal control."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from rewardft import hookimpl

if TYPE_CHECKING:
    from rewardft import Recipe

Factories = Mapping[str, Callable[..., Any]]


@hookimpl
def register_algorithms() -> Factories:
    # Imported inside the hooks, so that loading the plugin alone costs nothing.
    from rewardft_plugins.adjoint.adjoint_matching import AdjointMatching

    return {"adjoint_matching": AdjointMatching}


@hookimpl
def check_recipe(recipe: Recipe) -> Iterator[str]:
    """The method is built on memoryless noise; a sampler known to lack it is refused."""
    if recipe.algorithm.use.casefold() != "adjoint_matching":
        return
    # Only DDIM has an eta; its default is 0, which is not memoryless.
    eta = recipe.sampler.options.get("eta", 0.0) if recipe.sampler.use.casefold() == "ddim" else 1.0
    if isinstance(eta, (int, float)) and eta != 1.0:
        yield (
            "algorithm 'adjoint_matching' needs memoryless noise: the sampler ddim with eta 1, "
            f"got eta {eta:g}. Set sampler.eta to 1; the tuned model may be sampled with eta 0 "
            "afterwards."
        )
    if recipe.regularizers:
        yield (
            "algorithm 'adjoint_matching' has the distance to the base in its objective, and "
            "applies no regularizers. Leave `regularizers` out; `reward_scale` sets how far the "
            "policy may go."
        )
