"""Online reinforcement learning on the forward process, for any sampler and any reward.

Samples are scored, noised and denoised again; no step of the sampler is visited. Registers
`diffusion_nft`, `awm`, `dgpo`, `crd` and `raft`. `opsd`, which has the loss of `diffusion_nft` on
targets that a reward's gradient makes, visits one step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from rewardft import hookimpl

if TYPE_CHECKING:
    from rewardft import Recipe

Factories = Mapping[str, Callable[..., Any]]
# What stands in for a regularizer, by algorithm.
PULLS = {
    "diffusion_nft": "`reference_weight` pulls to the reference.",
    "awm": "`reference_weight` pulls to the reference.",
    "dgpo": "`reference_weight` pulls to the reference.",
    "crd": "`kl_weight` pulls to the reference.",
    "raft": "It uses no reference.",
}


@hookimpl
def register_algorithms() -> Factories:
    # Imported inside the hooks, so that loading the plugin alone costs nothing.
    from rewardft_plugins.nft.awm import AWM
    from rewardft_plugins.nft.crd import CRD
    from rewardft_plugins.nft.dgpo import DGPO
    from rewardft_plugins.nft.diffusion_nft import DiffusionNFT
    from rewardft_plugins.nft.opsd import OPSD
    from rewardft_plugins.nft.raft import RAFT

    return {
        "diffusion_nft": DiffusionNFT,
        "awm": AWM,
        "dgpo": DGPO,
        "crd": CRD,
        "raft": RAFT,
        "opsd": OPSD,
    }


@hookimpl
def check_recipe(recipe: Recipe) -> Iterator[str]:
    """Regularizers that would silently be ignored, and missing rewards."""
    name = recipe.algorithm.use.casefold()
    if name not in PULLS:
        return
    # They are applied at steps of the sampler, and none is visited.
    if recipe.regularizers:
        yield (
            f"algorithm {name!r} learns from noised samples and visits no step of the sampler, so "
            f"the regularizers would never be applied. Leave `regularizers` out; {PULLS[name]}"
        )
    if not recipe.rewards:
        yield (
            f"algorithm {name!r} weighs its samples by the recipe's rewards, and the recipe "
            "lists none."
        )
