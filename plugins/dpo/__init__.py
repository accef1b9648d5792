"""Preferences: pairs of a better and a worse image, given, sampled or from self-play.

Algorithms: `diffusion_dpo` (given pairs), `online_dpo` (best and worst of a group of samples),
`group_preference` (all samples of a group), `d3po` (every step of two sampled trajectories), `spin`
(the data set against the previous policy) and `diffusion_kto` (wanted and unwanted). Data sets:
`preference_pairs` (folders, JSONL, parquet) and `toy_pairs`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from rewardft import hookimpl

if TYPE_CHECKING:
    from rewardft import Recipe

Factories = Mapping[str, Callable[..., Any]]

# They visit no step of the sampler.
OFF_TRAJECTORY = (
    "diffusion_dpo",
    "online_dpo",
    "group_preference",
    "spin",
    "diffusion_kto",
)


@hookimpl
def register_algorithms() -> Factories:
    # Imported inside the hooks, so that loading the plugin alone costs nothing.
    from rewardft_plugins.dpo.d3po import D3PO
    from rewardft_plugins.dpo.diffusion_dpo import DiffusionDPO
    from rewardft_plugins.dpo.group_preference import GroupPreference
    from rewardft_plugins.dpo.kto import DiffusionKTO
    from rewardft_plugins.dpo.online_dpo import OnlineDPO
    from rewardft_plugins.dpo.spin import Spin

    return {
        "diffusion_dpo": DiffusionDPO,
        "online_dpo": OnlineDPO,
        "group_preference": GroupPreference,
        "d3po": D3PO,
        "spin": Spin,
        "diffusion_kto": DiffusionKTO,
    }


@hookimpl
def register_datasets() -> Factories:
    from rewardft_plugins.dpo.pairs import PreferencePairs, ToyPairs

    return {"preference_pairs": PreferencePairs, "toy_pairs": ToyPairs}


@hookimpl
def check_recipe(recipe: Recipe) -> Iterator[str]:
    """Regularizers that would silently be ignored, and missing rewards."""
    name = recipe.algorithm.use.casefold()
    if name in OFF_TRAJECTORY and recipe.regularizers:
        yield (
            f"algorithm {name!r} learns from noised samples and visits no step of the sampler, so "
            "the regularizers would never be applied. Leave `regularizers` out; `beta` is what "
            "keeps the policy near the reference."
        )
    # With `source: data` the data set brings its own scores.
    online = recipe.algorithm.options.get("source", "policy") == "policy"
    ranks = name in ("online_dpo", "d3po") or (name == "group_preference" and online)
    if ranks and not recipe.rewards:
        yield (
            f"algorithm {name!r} ranks its samples by the recipe's rewards, and the recipe lists "
            "none."
        )
