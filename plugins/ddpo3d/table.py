"""What is trained: a table of scenes of 3D Gaussians."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from rewardft_plugins.ddpo3d.gaussians import Gaussians
from torch import Tensor, nn

from rewardft.noise import keyed_generator


class SceneTable(nn.Module):
    """S scenes of n Gaussians each, as numbers without bounds: logarithms of scales, logits of
    opacities and colours."""

    def __init__(
        self,
        scenes: int,
        count: int,
        channels: int,
        box: Sequence[float],
        scale: float,
        opacity: float,
        seed: int,
    ) -> None:
        """Grey balls, spread evenly over a box.

        Args:
            box: half its width, height and depth. scale: standard deviation of a ball. opacity: of
                each, in (0, 1).
        """
        super().__init__()
        half = torch.tensor(list(box), dtype=torch.float32)
        places = torch.stack([scatter(seed, scene, count) for scene in range(scenes)])
        upright = torch.tensor([1.0, 0.0, 0.0, 0.0])
        self.position = nn.Parameter(places * half)
        self.scale = nn.Parameter(torch.full((scenes, count, 3), scale).log())
        self.rotation = nn.Parameter(upright.repeat(scenes, count, 1))
        self.opacity = nn.Parameter(torch.full((scenes, count), opacity).logit())
        self.colour = nn.Parameter(torch.zeros(scenes, count, channels))

    def forward(self, scene: Tensor) -> Gaussians:
        """The Gaussians of the scenes `(b,)`, whole numbers."""
        return Gaussians(
            self.position[scene],
            self.scale[scene].exp(),
            self.rotation[scene],
            self.opacity[scene].sigmoid(),
            self.colour[scene].sigmoid(),
        )


def scatter(seed: int, scene: int, count: int) -> Tensor:
    """Places `(count, 3)` in [-1, 1], the same for a scene however many there are."""
    generator = keyed_generator("gaussian_scene", seed, scene)
    return 2 * torch.rand(count, 3, generator=generator) - 1
