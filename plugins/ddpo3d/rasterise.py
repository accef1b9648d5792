"""Pictures of 3D Gaussians, differentiable, in plain torch (Kerbl et al. 2023, 2308.04079).

Each Gaussian is projected to an ellipse (Zwicker et al. 2001, EWA splatting) and the ellipses are
laid over each other from the nearest to the farthest:

    Sigma' = J W Sigma W^T J^T + blur I                                          (equation 5)
    alpha_i = min(0.99, o_i exp(-1/2 d^T Sigma'^-1 d)), 0 below 1/255
    C = sum_i c_i alpha_i prod_{j < i} (1 - alpha_j)                             (equation 3)

with W the camera's axes, J the slope of the projection and d the distance from the ellipse's
centre. As in the authors' code an alpha below 1/255 is 0, so the picture can be cut into tiles that
each see few Gaussians, without any error. There is no view-dependent colour.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from rewardft_plugins.ddpo3d.gaussians import Gaussians, Lens
from torch import Tensor

TILE = 8
LEAST, MOST = 1 / 255, 0.99  # of an alpha
NEAR = 0.05  # of the camera's distance: what is nearer is not drawn


@dataclass(frozen=True)
class Splats:
    """Ellipses in a picture, nearest first, in pixels.

    centre `(b, n, 2)`, x right and y down from the upper left corner; spread `(b, n, 3)`, the
    covariance's xx, xy and yy; opacity `(b, n)`, 0 behind the camera; colour `(b, n, c)`.
    """

    centre: Tensor
    spread: Tensor
    opacity: Tensor
    colour: Tensor

    def take(self, picture: Tensor, index: Tensor) -> Splats:
        """Those at `index` `(r, k)` of the pictures `(r,)`."""
        # One table and one choice of its rows: the gradient of that is one sum.
        own = (self.centre, self.spread, self.opacity[..., None], self.colour)
        table = torch.cat(own, -1).flatten(0, 1)
        flat = (picture[:, None] * self.opacity.shape[1] + index).flatten()
        rows = table.index_select(0, flat).unflatten(0, index.shape)
        centre, spread, opacity, colour = rows.split([value.shape[-1] for value in own], -1)
        return Splats(centre, spread, opacity[..., 0], colour)


def rasterise(
    gaussians: Gaussians, axes: Tensor, lens: Lens, size: int, blur: float = 0.3
) -> tuple[Tensor, Tensor]:
    """Pictures `(b, c, size, size)` on black, and how much of a background shows, `(b, 1, size,
    size)` in [0, 1].

    Args:
        gaussians: of b scenes, one for each picture.
        axes: of the cameras, `(b, 3, 3)`, see `look`.
        blur: added to the variance of each ellipse, in square pixels, > 0: nothing is smaller than
            a pixel sees.
    """
    splats = project(gaussians, axes, lens, size, blur)
    side = -(-size // TILE)  # tiles
    with torch.no_grad():
        shares = share_out(bounds(splats), side)
    empty = splats.colour.new_zeros(shares.unseen.numel(), splats.colour.shape[2] + 1, TILE, TILE)
    empty[:, -1] = 1
    drawn = [tiles(splats, rows, index, side) for rows, index in shares.seen]
    order = torch.cat([*(rows for rows, _ in shares.seen), shares.unseen])
    grid = torch.cat([*drawn, empty])[order.argsort()].unflatten(0, (-1, side, side))
    # (b, rows of tiles, tiles, c + 1, h, w) -> (b, c + 1, rows, h, tiles, w)
    picture = grid.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)[..., :size, :size]
    return picture[:, :-1], picture[:, -1:]


def project(gaussians: Gaussians, axes: Tensor, lens: Lens, size: int, blur: float = 0.3) -> Splats:
    """Ellipses of the Gaussians in pictures of `size` pixels, nearest first."""
    x, y, depth = (gaussians.position @ axes.transpose(1, 2)).unbind(-1)
    # Pixels for a unit of the world, at the origin and then where the Gaussian is.
    scale = torch.full_like(depth, size / (2 * lens.extent))
    z, near = torch.ones_like(depth), torch.ones_like(depth, dtype=torch.bool)
    if lens.distance is not None:
        z = depth + lens.distance
        near = z > NEAR * lens.distance
        # Out of view a division by 0 would make the gradient NaN.
        z = torch.where(near, z, 1.0)
        scale = scale * lens.distance / z
    centre = torch.stack([x, y], -1) * scale[..., None] + size / 2
    slope = slopes(axes, scale, x, y, z, lens)
    stretched = slope @ gaussians.axes()  # (b, n, 2, 3): J W R S
    u, v = stretched.unbind(-2)
    spread = torch.stack(
        [(u * u).sum(-1) + blur, (u * v).sum(-1), (v * v).sum(-1) + blur], -1
    )  # equation 5
    opacity = torch.where(near, gaussians.opacity, 0.0)
    order = depth.argsort(dim=1, stable=True)
    every = torch.arange(len(depth), device=depth.device)
    return Splats(centre, spread, opacity, gaussians.colour).take(every, order)


def slopes(axes: Tensor, scale: Tensor, x: Tensor, y: Tensor, z: Tensor, lens: Lens) -> Tensor:
    """J W `(b, n, 2, 3)`: how far in pixels the picture of a Gaussian moves with its position."""
    right, down, away = axes[:, None].unbind(-2)  # (b, 1, 3)
    if lens.distance is None:
        return scale[..., None, None] * torch.stack([right, down], -2)
    # The slope of scale(z) x is scale in x and -scale x / z in z.
    along = torch.stack([x, y], -1) / z[..., None]
    flat = torch.stack([right, down], -2) - along[..., None] * away[..., None, :]
    return scale[..., None, None] * flat


def bounds(splats: Splats) -> Tensor:
    """Left, top, right and bottom `(b, n, 4)` of where alpha is at least 1/255; empty where that is
    nowhere."""
    # o exp(-r^2 / 2) = 1/255.
    reach = 2 * (splats.opacity / LEAST).log()
    radius = reach.clamp(min=0).sqrt()
    half = radius[..., None] * splats.spread[..., [0, 2]].sqrt()
    # A little more than the arithmetic says, for its rounding.
    half = torch.where(reach[..., None] > 0, 1.0001 * half + 1e-3, -torch.inf)
    return torch.cat([splats.centre - half, splats.centre + half], -1)


@dataclass(frozen=True)
class Shares:
    """Which Gaussians each tile sees; tiles are counted through all pictures, row by row.

    seen: tiles `(r,)` that see about equally many, with those Gaussians, nearest first, `(r, k)`;
    some that a tile does not see may be among them. unseen: tiles that see none.
    """

    seen: list[tuple[Tensor, Tensor]]
    unseen: Tensor


def share_out(boxes: Tensor, side: int) -> Shares:
    """Of boxes `(b, n, 4)` to `side` x `side` tiles for each picture."""
    edge = TILE * torch.arange(side, device=boxes.device, dtype=boxes.dtype)[:, None]
    left, top, right, bottom = boxes[:, None].unbind(-1)
    across = (left <= edge + TILE) & (right >= edge)  # (b, side, n)
    down = (top <= edge + TILE) & (bottom >= edge)
    # A tile sees what is both in its column and in its row: a product counts them.
    count = (down.float() @ across.float().transpose(1, 2)).flatten()
    # 2^m to 2^(m+1) - 1 at a time, so that tiles waste little time on what others see.
    level = count.log2().floor()
    found = []
    for value in level[count > 0].unique():
        rows = (level == value).nonzero()[:, 0]
        picture, row, column = place(rows, side)
        seen = down[picture, row] & across[picture, column]
        # Those that are seen first, and still in the order of their depth.
        order = (~seen).to(torch.uint8).argsort(dim=1, stable=True)
        found.append((rows, order[:, : int(count[rows].max())]))
    return Shares(found, (count == 0).nonzero()[:, 0])


def place(rows: Tensor, side: int) -> tuple[Tensor, Tensor, Tensor]:
    """Picture, row and column of tiles."""
    return rows // side**2, rows // side % side, rows % side


def tiles(splats: Splats, rows: Tensor, index: Tensor, side: int) -> Tensor:
    """`(r, c + 1, TILE, TILE)`: the colours, and how much of a background shows, of the tiles
    `rows` `(r,)` that see the Gaussians `index` `(r, k)`."""
    picture, row, column = place(rows, side)
    middle = torch.arange(TILE, device=rows.device, dtype=splats.centre.dtype) + 0.5
    x, y = column[:, None] * TILE + middle, row[:, None] * TILE + middle
    return composite(splats.take(picture, index), x, y)


def composite(splats: Splats, x: Tensor, y: Tensor) -> Tensor:
    """`(b, c + 1, h, w)` at the pixels with centres x `(b, w)` and y `(b, h)`."""
    alpha = alphas(splats, x, y)
    # A sum of logarithms: the gradient of a product divides by its factors.
    kept = torch.log1p(-alpha)
    total = kept.cumsum(1)
    weight = alpha * (total - kept).exp()
    colour = torch.einsum("bnhw,bnc->bchw", weight, splats.colour)  # equation 3
    return torch.cat([colour, total[:, -1:].exp()], 1)


def alphas(splats: Splats, x: Tensor, y: Tensor) -> Tensor:
    """`(b, n, h, w)`."""
    xx, xy, yy = splats.spread.unbind(-1)
    determinant = xx * yy - xy * xy
    dx = x[:, None] - splats.centre[..., :1]  # (b, n, w)
    dy = y[:, None] - splats.centre[..., 1:]  # (b, n, h)
    # -1/2 d^T Sigma'^-1 d; terms of one coordinate are computed once for a row or column.
    across = -0.5 * (yy / determinant)[..., None] * dx * dx
    along = -0.5 * (xx / determinant)[..., None] * dy * dy
    mixed = (xy / determinant)[..., None] * dy
    power = across[..., None, :] + along[..., None] + mixed[..., None] * dx[..., None, :]
    alpha = (splats.opacity[..., None, None] * power.exp()).clamp(max=MOST)
    return torch.where(alpha >= LEAST, alpha, 0.0)
