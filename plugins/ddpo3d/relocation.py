"""Gaussians that have faded are moved to where others are (Kheradmand et al. 2024, 3D Gaussian
Splatting as Markov Chain Monte Carlo, 2404.09591).

Instead of densification and pruning (see `density.py`); the number of Gaussians stays as it
is. Of N that share a place from then on, each gets

    o' = 1 - (1 - o)^(1/N)
    scale' = scale o / sum_{i=1}^{N} sum_{k=0}^{i-1} C(i - 1, k) (-1)^k o'^(k+1) / sqrt(k + 1)   (9)

so that together they look about as the one did. The paper then adds noise to all positions, which
draws them apart; here those that move are placed at random in the ellipsoid of the one.
"""

from __future__ import annotations

import math

import torch
from rewardft_plugins.ddpo3d.gaussians import rotation_matrix
from rewardft_plugins.ddpo3d.table import Forget, SceneTable, keep
from torch import Tensor


@torch.no_grad()
def relocate(
    table: SceneTable, faint: float, generator: torch.Generator, forget: Forget = keep
) -> int:
    """Move all Gaussians with an opacity below `faint`; returns how many.

    A scene in which none, or all, are faint is left as it is. forget: told of those that share a
    place from then on, so that what the optimizer remembers of them does not pull them away.
    """
    opacity = table.opacity.sigmoid()
    fresh = torch.zeros_like(opacity, dtype=torch.bool)
    moved = 0
    for scene, values in enumerate(opacity):
        dead = (values < faint).nonzero()[:, 0]
        live = (values >= faint).nonzero()[:, 0]
        if len(dead) and len(live):
            # Drawn on the CPU, so that devices agree; the more opaque, the more often.
            chances = values[live].float().cpu()
            drawn = torch.multinomial(chances, len(dead), replacement=True, generator=generator)
            to = live[drawn.to(live.device)]
            join(table, scene, dead, to, generator)
            fresh[scene, dead] = fresh[scene, to] = True
            moved += len(dead)
    for parameter in table.gaussians():
        forget(parameter, fresh)
    return moved


def join(
    table: SceneTable, scene: int, moved: Tensor, to: Tensor, generator: torch.Generator
) -> None:
    """Put the Gaussians `moved` `(m,)` beside those at `to` `(m,)`, and share these out."""
    place, count = to.unique(return_counts=True)
    opacity = table.opacity[scene, place].sigmoid()
    own = 1 - (1 - opacity) ** (1 / (1 + count))
    factor = torch.stack([shrink(o, new, int(n) + 1) for o, new, n in zip(opacity, own, count)])
    noise = torch.randn(len(moved), 3, generator=generator).to(table.position)
    # Within the ellipsoid as it was, before it shrinks.
    axes = rotation_matrix(table.rotation[scene, to]) * table.scale[scene, to].exp()[:, None]
    position = table.position[scene, to] + (axes @ noise[..., None])[..., 0]
    table.opacity[scene, place] = own.logit()
    table.scale[scene, place] += factor.log()[:, None]
    for parameter in (table.scale, table.rotation, table.opacity, table.colour):
        parameter[scene, moved] = parameter[scene, to]
    table.position[scene, moved] = position


def shrink(before: Tensor, after: Tensor, count: int) -> Tensor:
    """The factor of equation 9 for `count` Gaussians of opacity `after` in the place of one."""
    # Over i, the C(i - 1, k) add up to C(N, k + 1). In logarithms, as they overflow from N = 128.
    j = torch.arange(1, count + 1, dtype=torch.float64, device=after.device)
    size = math.lgamma(count + 1) - (j + 1).lgamma() - (count - j + 1).lgamma()
    size = size + j * after.double().log()
    signs = 1 - 2 * ((j - 1) % 2)
    return before / (signs * size.exp() / j.sqrt()).sum().to(before)
