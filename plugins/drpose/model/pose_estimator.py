"""The pose estimator: one picture -> joints in three dimensions, the condition that is drawn into
every view.

PSHuman's variant with SMPL takes its pose from an estimator that was trained on people in many
poses; this small one takes its place. Joints are placed in the picture as the mean of a softmax
over positions, which turns and moves with the picture. Each joint has a depth at every position;
its depth is the mean of these under the same softmax.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from rewardft_plugins.drpose.weights import load_network, save_network
from rewardft_plugins.humans.body import JOINTS
from rewardft_plugins.humans.camera import HALF_EXTENT
from rewardft_plugins.humans.positions import expected_position
from torch import Tensor, nn


class Residual(nn.Module):
    """Two 3 x 3 convolutions, each after group norm, and a shortcut; the identity at first."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.n1 = nn.GroupNorm(8, width)
        self.c1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.n2 = nn.GroupNorm(8, width)
        self.c2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        nn.init.zeros_(self.c2.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.c2(F.silu(self.n2(self.c1(F.silu(self.n1(x))))))


def twice_as_wide(channels: int) -> nn.Sequential:
    """`(b, channels, h, w)` -> `(b, channels / 2, 2 h, 2 w)`."""
    return nn.Sequential(nn.Conv2d(channels, 2 * channels, 1), nn.PixelShuffle(2))


class PoseEstimator(nn.Module):
    """Pictures `(b, 3, 64, 64)` in [0, 1] on white -> joints `(b, 23, 3)`, metres in the rendered
    frame.

    A U-Net of three levels, 16, 8 and 4 pixels wide, with a layer that sees all positions at the
    coarsest.
    """

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.width, w = width, width
        self.enter = nn.Sequential(
            nn.PixelUnshuffle(4), nn.Conv2d(48, w, 3, padding=1), Residual(w)
        )
        self.down8 = nn.Sequential(nn.Conv2d(w, 2 * w, 3, 2, 1), Residual(2 * w), Residual(2 * w))
        self.down4 = nn.Sequential(
            nn.Conv2d(2 * w, 4 * w, 3, 2, 1), Residual(4 * w), Residual(4 * w)
        )
        self.deep = nn.Sequential(
            nn.Flatten(), nn.Linear(64 * w, 256), nn.SiLU(), nn.Dropout(0.1), nn.Linear(256, 64 * w)
        )
        self.up8, self.r8 = twice_as_wide(4 * w), Residual(2 * w)
        self.up16, self.r16 = twice_as_wide(2 * w), Residual(w)
        self.head = nn.Sequential(nn.GroupNorm(8, w), nn.SiLU(), nn.Conv2d(w, 2 * len(JOINTS), 1))

    @property
    def config(self) -> dict[str, int]:
        return {"width": self.width}

    def forward(self, pictures: Tensor) -> Tensor:
        # White becomes 0, which is what convolutions pad with.
        fine = self.enter(1 - pictures)
        middle = self.down8(fine)
        coarse = self.down4(middle)
        # One layer over all positions: which arm is the left one depends on the whole body.
        coarse = coarse + self.deep(coarse).view_as(coarse)
        middle = self.r8(middle + self.up8(coarse))
        fine = self.r16(fine + self.up16(middle))
        # float32: a place is a small difference between sums over many pixels.
        heat, depth = self.head(fine).float().chunk(2, dim=1)
        # (b, 23, 2) in [-1, 1].
        place = expected_position(heat)
        towards = (heat.flatten(2).softmax(-1) * depth.flatten(2)).sum(-1)
        # The picture's y points down, the body's up.
        return torch.stack([place[..., 0], -place[..., 1], towards], dim=-1) * HALF_EXTENT

    def save(self, folder: Path, *, half: bool = False) -> None:
        """Write pose_estimator.json and pose_estimator.safetensors."""
        save_network(self, folder, "pose_estimator", half=half)

    @classmethod
    def load(cls, folder: Path) -> PoseEstimator:
        """Read what `save` wrote. Raises `ComponentError` when something is missing or does not
        fit."""
        return load_network(cls, folder, "pose_estimator")
