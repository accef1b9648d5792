"""What the denoiser is told about a picture: a detector's landmarks, or features of a convolutional
network."""

from __future__ import annotations

from typing import Protocol

import torch
from rewardft_plugins.adhmr.detector import LANDMARKS
from rewardft_plugins.adhmr.space import METRES
from rewardft_plugins.humans.poses.skeleton import JOINTS
from torch import Tensor, nn
from torch.nn.functional import grid_sample

from rewardft.errors import ComponentError
from rewardft.types import Batch


class Condition(Protocol):
    """A module; `size` is the length of its vectors `(b, size)`."""

    size: int

    def __call__(self, batch: Batch) -> Tensor: ...


class LandmarkCondition(nn.Module):
    """The detector's columns as one vector, all of a size near 1; nothing is learned.

    `landmarks` `(b, 33, 4)`: x, y, z in half widths of the picture (x right, y up, z towards the
    camera) and visibility in [0, 1]; `world` `(b, 33, 3)`: metres from the middle of the hips;
    `turned` `(b, 2)`: cosine and sine of the angle by which the detector turned the picture.
    """

    size = LANDMARKS * (4 + 3) + 2

    def forward(self, batch: Batch) -> Tensor:
        if "landmarks" not in batch:
            raise ComponentError(
                "pose_diffusion needs the detector's columns `landmarks`, `world` and `turned`: a "
                "data set such as `pose_pictures`"
            )
        # Landmarks are mostly within half of a half width; metres go in units of the variable.
        landmarks, world = 2 * batch["landmarks"].flatten(1), batch["world"].flatten(1) / METRES
        return torch.cat([landmarks, world, batch["turned"]], dim=1).float()


class ImageCondition(nn.Module):
    """Features like those of ScoreHypo's HRNet: a fine and a coarse branch that exchange features.

    The column `picture` `(b, 3, s, s)` in [0, 1] becomes a global vector, where each joint is seen
    (the mean of a heat map), and the features at these places. Two branches of a few channels here;
    HRNet-W48 has four of 48 to 384.
    """

    CHANNELS = 16
    LOCAL = 4
    GLOBAL = 64
    size = GLOBAL + JOINTS * (2 + LOCAL)

    def __init__(self) -> None:
        super().__init__()
        channels = self.CHANNELS
        self.stem = nn.Sequential(_conv(3, channels, 2), _conv(channels, channels, 2))
        self.fine = nn.ModuleList([_conv(channels, channels, 1), _conv(channels, channels, 1)])
        self.down = _conv(channels, 2 * channels, 2)
        self.coarse = _conv(2 * channels, 2 * channels, 1)
        self.up = nn.Conv2d(2 * channels, channels, 1)
        self.heat = nn.Conv2d(channels, JOINTS, 1)
        self.local = nn.Conv2d(channels, self.LOCAL, 1)
        self.globe = nn.Linear(2 * channels, self.GLOBAL)

    def forward(self, batch: Batch) -> Tensor:
        if "picture" not in batch:
            raise ComponentError(
                "pose_diffusion with `condition: image` needs the column `picture`: a data set "
                "such as `annotated_pictures` with `images`"
            )
        fine, coarse = self.features(batch["picture"].float())
        places = self.places(fine)
        # Pixel-aligned: what a joint's place looks like, beside where it is.
        near = grid_sample(self.local(fine), places[:, :, None], align_corners=False)[..., 0]
        whole = self.globe(coarse.mean((2, 3)))
        return torch.cat([whole, places.flatten(1), near.flatten(1)], dim=1)

    def features(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Fine `(b, c, s/4, s/4)` and coarse `(b, 2c, s/8, s/8)` features."""
        fine = self.fine[0](self.stem(pictures))
        coarse = self.coarse(self.down(fine))
        back = nn.functional.interpolate(self.up(coarse), size=fine.shape[-2:])
        return self.fine[1](fine + back), coarse

    def places(self, fine: Tensor) -> Tensor:
        """Where each joint is seen, `(b, 27, 2)` in [-1, 1], x right, y down: the mean of a heat
        map."""
        heat = self.heat(fine)
        # (b, 27, s/4, s/4), each map summing to 1.
        share = heat.flatten(2).softmax(-1).view_as(heat)
        rows, columns = (_centres(size, heat) for size in heat.shape[-2:])
        return torch.stack(
            [(share.sum(2) * columns).sum(-1), (share.sum(3) * rows).sum(-1)], dim=-1
        )


def _conv(channels: int, out: int, stride: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(channels, out, 3, stride=stride, padding=1), nn.GroupNorm(4, out), nn.SiLU()
    )


def _centres(size: int, like: Tensor) -> Tensor:
    """Centres of `size` pixels between -1 and 1."""
    return (torch.arange(size, device=like.device, dtype=like.dtype) + 0.5) * 2 / size - 1
