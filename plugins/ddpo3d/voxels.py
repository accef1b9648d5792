"""`voxel_scene`: scenes as grids of density and colour (Sun et al. 2022, 2111.11215), marched along
rays (Mildenhall et al. 2020, 2003.08934), without a network and without view-dependent colour.

    alpha_k = 1 - exp(-density_k delta)
    C = sum_k colour_k alpha_k prod_{j < k} (1 - alpha_j)                        (2003.08934, 3)

at points on each pixel's ray, delta apart, from the nearest to the farthest. Both are trilinear
between the points of the grid, which span the cube [-extent, extent]^3, and fade over one more
cell.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from rewardft_plugins.ddpo3d.gaussians import Lens
from rewardft_plugins.ddpo3d.scene_model import Scenes, View, check_numbers
from torch import Tensor, nn

from rewardft.contracts.protocols import DiffusionModel
from rewardft.recipe.bounds import Count, CountOrZero, Fraction, Pair, Positive

NEAR = 0.05  # of the camera's distance: what is nearer is not drawn
RATES: Mapping[str, float] = {"lora": 1 / 100}


class VoxelTable(nn.Module):
    """S grids of g^3 points, as numbers without bounds, (z, y, x): inverse softplus of densities
    per length of the world `(S, 1, g, g, g)`, and logits of colours `(S, c, g, g, g)`.

    lora: an adapter of the prior, if it is trained beside the scenes.
    """

    def __init__(
        self, scenes: int, grid: int, channels: int, radius: float, density: float
    ) -> None:
        """A grey ball that fades: density exp(-(r / radius)^2 / 2) with r in units of the cube's
        half, so that there is something in the middle to begin with."""
        super().__init__()
        side = torch.linspace(-1, 1, grid)
        square = side.square()
        away = square[:, None, None] + square[:, None] + square
        ball = density * torch.exp(-away / (2 * radius**2)) + 1e-3
        # log(e^y - 1), which overflows from y = 89.
        start = ball + (-(-ball).expm1()).log()
        self.density = nn.Parameter(start.repeat(scenes, 1, 1, 1, 1))
        self.colour = nn.Parameter(torch.zeros(scenes, channels, grid, grid, grid))
        self.lora: nn.Module | None = None

    def forward(self, scene: Tensor) -> Tensor:
        """Densities, then colours, of the scenes `(b,)`: `(b, 1 + c, g, g, g)`."""
        density = nn.functional.softplus(self.density[scene])
        return torch.cat([density, self.colour[scene].sigmoid()], 1)


class VoxelScene(Scenes):
    """Scenes of voxels; goes with `adapter: {kind: full}`.

    Samples and batches are as `Scenes` says.

    Args:
        prior, scenes, size, channels, extent, distance, background, condition, rewards_see,
            lora_rank, seed: see `GaussianScene`.
        grid: points along each side of the cube, at least 2.
        density, radius: of the ball at the start, per length of the world and in units of the
            cube's half.
        rates: learning rates of density, colour and lora, in units of the recipe's; where nothing
            is said for lora 1/100 and for the others 1.
    """

    name = "voxel_scene"
    trainable: VoxelTable

    def __init__(
        self,
        prior: DiffusionModel,
        scenes: Count = 16,
        grid: Pair = 24,
        size: Count = 64,
        channels: dict[str, int] | None = None,
        extent: Positive = 1.0,
        distance: Positive | None = None,
        background: Fraction = 0.0,
        density: Positive = 2.0,
        radius: Positive = 0.3,
        rates: dict[str, float] | None = None,
        lora_rank: CountOrZero = 0,
        condition: Literal["given", "dropped"] = "given",
        rewards_see: Literal["pixels", "latents"] = "pixels",
        seed: int = 0,
    ) -> None:
        channels = channels or {"image": 3}
        counts = {"scenes": scenes, "size": size, **channels}
        lengths = {"extent": extent, "distance": distance, "density": density, "radius": radius}
        small = [f"grid >= 2, got {grid}"] if grid < 2 else []
        check_numbers(self.name, counts, lengths, {"background": background}, small)
        view = View(size, channels, Lens(extent, distance), background, condition, rewards_see)
        super().__init__(prior, scenes, view, lora_rank, seed)
        self.grid = grid
        self.trainable = VoxelTable(scenes, grid, sum(channels.values()), radius, density)
        self.trainable.lora = None if self.lora is None else self.lora.parameters
        own = {name: rate for name, rate in RATES.items() if lora_rank}
        self.rates = {**own, **(rates or {})}

    def draw(self, scene: Tensor, axes: Tensor) -> tuple[Tensor, Tensor]:
        """Two points on a ray for each of the grid that it passes."""
        grids = self.trainable(scene).repeat_interleave(len(axes) // len(scene), 0)
        return march(grids, axes, self.lens, self.size, 2 * self.grid)


def march(grids: Tensor, axes: Tensor, lens: Lens, size: int, count: int) -> tuple[Tensor, Tensor]:
    """Pictures `(b, c, size, size)` on black, and how much of a background shows, `(b, 1, size,
    size)`, of grids `(b, 1 + c, g, g, g)`, by `count` points on each ray."""
    points, delta = rays(axes, lens, size, count)
    # grid_sample has x first and -1 and 1 at the outermost points: (b, 1 + c, count, h, w).
    values = nn.functional.grid_sample(
        grids, points / lens.extent, padding_mode="zeros", align_corners=True
    )
    # A sum of logarithms: the gradient of a product divides by its factors.
    passed = -values[:, :1] * delta
    total = passed.cumsum(2)
    weight = -passed.expm1() * (total - passed).exp()
    colour = (weight * values[:, 1:]).sum(2)
    return colour, total[:, :, -1].exp()


def rays(axes: Tensor, lens: Lens, size: int, count: int) -> tuple[Tensor, Tensor]:
    """Points `(b, count, h, w, 3)` in the world through the middles of pixels, nearest first, and
    their distance along each ray, `(count, h, w)`, 0 for what is too near to be drawn. They span
    the cube as deep as its diagonal."""
    reach = 3**0.5 * lens.extent
    step = 2 * reach / count
    depth = (torch.arange(count).to(axes) + 0.5) * step - reach
    middle = ((torch.arange(size).to(axes) + 0.5) * 2 / size - 1) * lens.extent
    wide, slant = torch.ones_like(depth), torch.ones(size, size).to(axes)
    if lens.distance is not None:
        # A point's distance from the axis grows with that from the camera.
        wide = 1 + depth / lens.distance
        across = middle.square() / lens.distance**2
        slant = (1 + across + across[:, None]).sqrt()
    right, down, away = (axis[:, None, None, None] for axis in axes.unbind(1))
    flat = middle[:, None] * right + middle[:, None, None] * down  # (b, 1, h, w, 3)
    points = wide[:, None, None, None] * flat + depth[:, None, None, None] * away
    seen = (wide > NEAR).to(step * wide)
    return points, step * seen[:, None, None] * slant
