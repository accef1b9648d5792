"""Densification and pruning (Kerbl et al. 2023, 2308.04079; for scenes under a diffusion model
DreamGaussian, Tang et al. 2023, 2309.16653), in a table of fixed size.

A scene has as many places as it may ever have Gaussians and starts with few of them; the others
are transparent, and no picture sees them. Every so many steps

    prune   what is fainter than `faint`: it becomes transparent, and its place is free
    clone   a small Gaussian that pictures pull hard: a copy in a free place, which goes on alone
    split   a large one that they pull hard: two of 1/1.6 of its size, drawn from its ellipsoid

until no place is free, the hardest pulled first. "Hard" is the mean, over the pictures that saw a
Gaussian since the last time, of the length of the loss's slope by its centre in the picture. The
papers have a fixed threshold for it; losses here differ in scale, so it is in units of the scene's
mean. Their reset of all opacities and their pruning of what is too large are left out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from rewardft_plugins.ddpo3d.gaussians import rotation_matrix
from rewardft_plugins.ddpo3d.rasterise import LEAST
from rewardft_plugins.ddpo3d.table import TRANSPARENT, Forget, SceneTable
from torch import Tensor

from rewardft.errors import ComponentError, did_you_mean

SHRINK = 1.6  # of the halves of a split


@dataclass(frozen=True)
class Densification:
    """When Gaussians are added, and where.

    every: optimizer steps. start: of the Gaussians of a scene, how many it starts with.
    above: how hard a Gaussian is pulled to be doubled, in units of the scene's mean, > 0.
    size: largest standard deviation of what is cloned and not split, in the world's units.
    """

    every: float = 50
    start: float = 100
    above: float = 2.0
    size: float = 0.05


def densification(
    options: dict[str, float], gaussians: int, faint: float, opacity: float
) -> Densification:
    """Of a recipe's options; raises ComponentError for unknown ones and for bad numbers.

    faint: below which a Gaussian is pruned. opacity: with which all start.
    """
    known = [field.name for field in fields(Densification)]
    for name in options:
        if name not in known:
            raise ComponentError(
                f"gaussian_scene: densify has {', '.join(known)}, got {name!r}."
                f"{did_you_mean(name, known)}"
            )
    found = Densification(**options)
    whole = found.every == int(found.every) and found.start == int(found.start)
    if not whole or found.every < 1 or not 1 <= found.start <= gaussians:
        raise ComponentError(
            f"gaussian_scene: densify: expected whole numbers every >= 1 and start from 1 to the "
            f"{gaussians} of `gaussians`, got every={found.every:g} and start={found.start:g}"
        )
    if min(found.above, found.size) <= 0:
        raise ComponentError(
            f"gaussian_scene: densify: expected above > 0 and size > 0, got {found.above:g} and "
            f"{found.size:g}"
        )
    least = max(faint, LEAST)
    if least >= opacity:
        raise ComponentError(
            f"gaussian_scene: densify: Gaussians start with an opacity of {opacity:g}, and what is "
            f"below {least:g} is pruned, so that as they start nothing would be left. Expected an "
            f"opacity above {least:g}."
        )
    return found


@torch.no_grad()
def densify(
    table: SceneTable,
    rule: Densification,
    faint: float,
    generator: torch.Generator,
    forget: Forget,
) -> tuple[int, int]:
    """Prune, clone and split by what `table.pull` has noted, which starts anew; returns how many
    Gaussians were added, and how many pruned."""
    assert table.pull is not None
    opacity = table.opacity.sigmoid()
    free = opacity < max(faint, LEAST)
    pruned = int((free & (opacity >= LEAST)).sum())
    table.opacity[free] = TRANSPARENT
    fresh, added = free.clone(), 0
    for scene, pulled in enumerate(table.pull.mean()):
        room = free[scene].nonzero()[:, 0]
        parents = hard_pulled(pulled, ~free[scene], rule.above)[: len(room)]
        places = room[: len(parents)]
        halves = double(table, scene, parents, places, rule.size, generator)
        fresh[scene, halves] = True
        added += len(places)
    # What begins anew has no history; a Gaussian that was cloned keeps its own.
    for parameter in table.gaussians():
        forget(parameter, fresh)
    table.pull.clear()
    return added, pruned


def hard_pulled(pulled: Tensor, live: Tensor, above: float) -> Tensor:
    """Numbers of the live Gaussians that are pulled at least `above` times as hard as the mean of
    these, the hardest first. pulled, live: `(n,)`."""
    if not bool(live.any()):
        return live.nonzero()[:, 0]
    level = above * pulled[live].mean()
    order = pulled.argsort(descending=True, stable=True)
    return order[((pulled >= level) & (pulled > 0) & live)[order]]


def double(
    table: SceneTable,
    scene: int,
    parents: Tensor,
    places: Tensor,
    size: float,
    generator: torch.Generator,
) -> Tensor:
    """Clone or split `parents` `(m,)` into `places` `(m,)`; returns the parents that were split."""
    for parameter in table.gaussians():
        parameter[scene, places] = parameter[scene, parents]
    large = table.scale[scene, parents].exp().amax(1) > size
    first, second = parents[large], places[large]
    axes = rotation_matrix(table.rotation[scene, first])
    axes = axes * table.scale[scene, first].exp()[:, None]
    centre = table.position[scene, first]
    for half in (first, second):
        # Drawn on the CPU, so that devices agree.
        noise = torch.randn(len(half), 3, generator=generator).to(centre)
        table.position[scene, half] = centre + (axes @ noise[..., None])[..., 0]
        table.scale[scene, half] -= math.log(SHRINK)
    return first
