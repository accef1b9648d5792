"""g_skel: clean multi-view latents -> one skeleton map per joint and view, the network inside
PoseScore.

DrPose (arXiv 2603.02619) reads the skeleton off the latents, without decoding them; the published
network is a "pretrained U-Net" without further detail. This one is a small convolutional U-Net that
works on each view alone, its normal and colour latents side by side.

The same network with another last level reads other things off the latents, for the rewards that
PoseScore is compared with: see `READINGS` and `SkeletonNet.fork`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from rewardft_plugins.drpose.model.attention import BODY_VIEWS
from rewardft_plugins.drpose.weights import (
    SHIPPED,
    build_network,
    load_into,
    locate,
    read_json,
    read_tensors,
    write_json,
    write_tensors,
)
from torch import Tensor, nn

from rewardft.files.atomic import make_folder

READINGS = {
    "maps": "one skeleton map per joint",
    "joints": "one joint's place per map, the mean of its softmax",
    "silhouettes": "the body's silhouette",
}
# The last level: what a fork does not share with the network that it comes from
FORKED = ("up1.", "leave.")


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions with group norm and a shortcut."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.GroupNorm(8, channels),
            nn.SiLU(),
            nn.Conv2d(channels, out, 3, padding=1),
            nn.GroupNorm(8, out),
            nn.SiLU(),
            nn.Conv2d(out, out, 3, padding=1),
        )
        self.shortcut = nn.Identity() if channels == out else nn.Conv2d(channels, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.body(x)


class SkeletonNet(nn.Module):
    """Latents `(b, 12, c, h, w)` -> logits of skeleton maps `(b, 6, joints, 2 h, 2 w)`.

    channels: of the latents.
    joints: number of maps.
    width: channels at the latents' resolution; 2 and 3 times as many at the two coarser levels.
    reads: what the maps mean, a key of `READINGS`. The logits of back and left views are mirrored,
        as their latents are.
    """

    def __init__(
        self, channels: int = 8, joints: int = 23, width: int = 32, reads: str = "maps"
    ) -> None:
        super().__init__()
        self.channels, self.joints, self.width, self.reads = channels, joints, width, reads
        w1, w2, w3 = width, 2 * width, 3 * width
        self.view = nn.Parameter(torch.zeros(BODY_VIEWS, w1, 1, 1))
        self.enter = nn.Conv2d(2 * channels, w1, 3, padding=1)
        self.fine = ResidualBlock(w1, w1)
        self.down1, self.middle = nn.Conv2d(w1, w2, 3, stride=2, padding=1), ResidualBlock(w2, w2)
        self.down2, self.coarse = nn.Conv2d(w2, w3, 3, stride=2, padding=1), ResidualBlock(w3, w3)
        self.deep = ResidualBlock(w3, w3)
        self.up2, self.up1 = ResidualBlock(w3 + w2, w2), ResidualBlock(w2 + w1, w1)
        # Twice as fine as the latents: a bone is thinner than one of their pixels.
        self.leave = nn.Sequential(
            nn.GroupNorm(8, w1),
            nn.SiLU(),
            nn.Conv2d(w1, 4 * joints, 3, padding=1),
            nn.PixelShuffle(2),
            nn.SiLU(),
            nn.Conv2d(joints, joints, 3, padding=1),
        )

    @property
    def config(self) -> dict[str, Any]:
        return {
            "channels": self.channels,
            "joints": self.joints,
            "width": self.width,
            "reads": self.reads,
        }

    def forward(self, latents: Tensor) -> Tensor:
        # (b, 6, 2 c, h, w): normal and colour of each view
        x = torch.cat(latents.chunk(2, dim=1), dim=2)
        fine = self.fine(
            (self.enter(x.flatten(0, 1)).unflatten(0, x.shape[:2]) + self.view).flatten(0, 1)
        )
        middle = self.middle(self.down1(fine))
        deep = self.deep(self.coarse(self.down2(middle)))
        middle = self.up2(torch.cat([_double(deep), middle], dim=1))
        fine = self.up1(torch.cat([_double(middle), fine], dim=1))
        return self.leave(fine).unflatten(0, x.shape[:2])

    def fork(self, maps: int, reads: str) -> SkeletonNet:
        """A network that reads something else: a new last level of `maps` maps on this one's
        others, now frozen."""
        other = SkeletonNet(self.channels, maps, self.width, reads)
        other.load_state_dict(_shared(self), strict=False)
        for name, parameter in other.named_parameters():
            # The shared levels stay g_skel's, so that the forms differ in what they read alone.
            parameter.requires_grad_(name.startswith(FORKED))
        return other

    def save(self, folder: Path, *, half: bool = False, forked: bool = False) -> None:
        """Write skeleton.json and skeleton.safetensors; forked: without the levels of the shipped
        network."""
        make_folder(folder)
        state = self.state_dict()
        if forked:
            # The shared tensors would be the same megabytes again.
            state = {name: value for name, value in state.items() if name.startswith(FORKED)}
        write_json(folder / "skeleton.json", self.config | ({"fork_of": SHIPPED} if forked else {}))
        write_tensors(folder / "skeleton.safetensors", state, half=half)

    @classmethod
    def load(cls, folder: Path) -> SkeletonNet:
        """Read what `save` wrote. Raises `ComponentError` when something is missing or does not
        fit."""
        source = folder / "skeleton.json"
        config = read_json(source)
        forked = config.pop("fork_of", None)
        model = build_network(cls, config, source)
        # A fork's file has its own level alone; the rest is the shipped network's.
        shared = {} if forked is None else _shared(cls.load(locate(forked, "skeleton")))
        path = folder / "skeleton.safetensors"
        load_into(model, {**shared, **read_tensors(path)}, str(path))
        return model


def _shared(model: SkeletonNet) -> dict[str, Tensor]:
    """The tensors that forks of a network have in common with it."""
    return {
        name: value for name, value in model.state_dict().items() if not name.startswith(FORKED)
    }


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="nearest")
