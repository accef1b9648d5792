"""A compact multi-view denoiser: the 12 rows of a set as four groups of pixel-aligned maps, with
skeletons drawn in.

Front and back share a silhouette pixel by pixel, because the back is stored mirrored; so do right
and left. Their rows are stacked as channels of one map, and the other two views keep one each: four
maps of 8 x 8 tokens stand for twelve. In each block convolutions work within a map, and row-wise
attention (PSHuman, arXiv 2409.10141) joins the four: orthographic cameras at elevation 0 see a
point of the body at the same height. As in PSHuman's variant with SMPL, the known pose is drawn
into every view; here it is the skeleton that `PoseEstimator` reads off the picture.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from rewardft_plugins.drpose.weights import load_network, save_network
from rewardft_plugins.humans.body import JOINTS, PARENTS
from rewardft_plugins.humans.camera import HALF_EXTENT, MIRRORED, view_axes
from rewardft_plugins.humans.skeleton import skeleton_maps
from torch import Tensor, nn

GROUPS = ((0, 3, 6, 9), (2, 4, 8, 10), (1, 7), (5, 11))
"""Rows of a set in each map: normals and colours of front and back, of right and left, of
front_right, of front_left.
"""

GROUP_VIEWS = (0, 2, 1, 5)
ROWS = 12
SIDE = 8  # tokens along one side of a map
MAP = 32  # pixels along one side of a drawn skeleton
FREQUENCIES = 32


def draw_skeletons(joints: Tensor) -> Tensor:
    """Draw the bones, and the bones times their depth, in the view of each map; differentiable in
    the joints.

    joints: `(b, 23, 3)` metres in the rendered frame, whose origin is the picture's centre.
    Returns `(b, 4, 46, 32, 32)`: 23 bones in [0, 1], then each times its depth towards the
    camera, in units of half the picture's half width.
    """
    right, towards = view_axes()
    sign = torch.where(torch.tensor(MIRRORED), -1.0, 1.0)[:, None]
    views = list(GROUP_VIEWS)
    across = (torch.as_tensor(right) * sign)[views].to(joints)
    along = torch.as_tensor(towards)[views].to(joints)
    # Into units where the picture is 2 wide; x, y and depth are (b, 4, 23).
    points = joints / HALF_EXTENT
    x = torch.einsum("bjc,vc->bvj", points, across)
    y = -points[:, None, :, 1].expand_as(x)
    depth = torch.einsum("bjc,vc->bvj", points, along)
    bones = skeleton_maps(torch.stack([x, y], dim=-1), MAP)
    ends = [parent if parent >= 0 else joint for joint, parent in enumerate(PARENTS)]
    # Depth says which of two crossing limbs is in front, which a drawn bone does not.
    middle = depth + depth[..., ends]
    return torch.cat([bones, bones * middle[..., None, None]], dim=2)


class Block(nn.Module):
    """Two convolutions within each map, told the timestep and the view; then row-wise attention
    between the maps.
    """

    def __init__(self, width: int, embedding: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.GroupNorm(8, width)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(8, width, affine=False)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.modulation = nn.Linear(embedding, 2 * width)
        self.norm3 = nn.LayerNorm(width)
        self.to_qkv = nn.Linear(width, 3 * width, bias=False)
        self.to_out = nn.Linear(width, width, bias=False)
        for weight in (
            self.modulation.weight,
            self.modulation.bias,
            self.conv2.weight,
            self.to_out.weight,
        ):
            nn.init.zeros_(weight)  # a block begins as the identity

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Maps `(4 b, width, 8, 8)` and embeddings `(4 b, e)` -> maps."""
        scale, shift = self.modulation(embedding)[:, :, None, None].chunk(2, dim=1)
        hidden = self.norm2(self.conv1(F.silu(self.norm1(x))))
        x = x + self.conv2(F.silu(hidden * (1 + scale) + shift))
        return x + self._attend(x)

    def _attend(self, x: Tensor) -> Tensor:
        count, width, height, across = x.shape
        # (b, height, map, across, width)
        rows = x.unflatten(0, (-1, len(GROUPS))).permute(0, 3, 1, 4, 2)
        tokens = rows.reshape(-1, len(GROUPS) * across, width)
        q, k, v = (
            self.to_qkv(self.norm3(tokens))
            .unflatten(-1, (3, self.heads, -1))
            .permute(2, 0, 3, 1, 4)
        )
        # Its backward in bfloat16 is slow on a CPU
        with torch.autocast(x.device.type, enabled=False):
            mixed = F.scaled_dot_product_attention(q.float(), k.float(), v.float())
        out = self.to_out(mixed.transpose(1, 2).flatten(2))
        return (
            out.view(-1, height, len(GROUPS), across, width)
            .permute(0, 2, 4, 1, 3)
            .reshape(count, width, height, across)
        )


class CompactDenoiser(nn.Module):
    """Noisy latents, timesteps, the picture's latents and skeletons -> the network's output, shaped
    as the latents.

    channels: of the latents, which are 16 x 16.
    width, depth, heads: of the blocks.
    embedding: of timestep and view.
    """

    def __init__(
        self,
        channels: int = 8,
        width: int = 128,
        depth: int = 6,
        heads: int = 4,
        embedding: int = 128,
    ) -> None:
        super().__init__()
        self.channels, self.width, self.depth, self.heads, self.embedding = (
            channels,
            width,
            depth,
            heads,
            embedding,
        )
        row, drawn = 4 * channels, 2 * len(JOINTS) * (MAP // SIDE) ** 2
        maps = len(GROUPS)
        # A map has weights of its own: the same channel is another view in each.
        self.enter = nn.Parameter(torch.randn(maps, 5 * row, width) / math.sqrt(3 * row))
        self.skeleton = nn.Parameter(torch.randn(maps, drawn, width) / 8)
        self.position = nn.Parameter(0.3 * torch.randn(maps, width, SIDE, SIDE))
        self.view = nn.Parameter(0.3 * torch.randn(maps, embedding))
        self.picture = nn.Linear(2 * row, embedding)
        self.time1 = nn.Linear(2 * FREQUENCIES, embedding)
        self.time2 = nn.Linear(embedding, embedding)
        self.blocks = nn.ModuleList(Block(width, embedding, heads) for _ in range(depth))
        self.norm = nn.GroupNorm(8, width)
        # Zero at first: the network begins by predicting 0, whatever the depth.
        self.leave = nn.Parameter(torch.zeros(maps, width, 4 * row))
        self.skip = nn.Parameter(torch.zeros(maps, 4 * row))

    @property
    def config(self) -> dict[str, int]:
        names = ("channels", "width", "depth", "heads", "embedding")
        return {name: getattr(self, name) for name in names}

    def forward(self, x: Tensor, t: Tensor, picture: Tensor, skeletons: Tensor) -> Tensor:
        """x `(b, 12, c, 16, 16)`, t `(b,)`, picture `(b, c, 16, 16)`, skeletons `(b, 4, 46, 32,
        32)` -> as x.
        """
        # 2 x 2 latents become channels: a quarter of the tokens.
        noisy = self._group(F.pixel_unshuffle(x.flatten(0, 1), 2).unflatten(0, x.shape[:2]).float())
        picture = F.pixel_unshuffle(picture.float(), 2)
        h = self._tokens(noisy, picture, skeletons)
        embedding = self._embed(t, picture)
        for block in self.blocks:
            h = block(h, embedding)
        h = F.silu(self.norm(h)).unflatten(0, (len(x), -1))
        out = torch.einsum("bgcyx,gcd->bgdyx", h, self.leave.to(h.dtype)).float()
        rows = self._ungroup(out + self.skip[:, :, None, None] * noisy)
        return F.pixel_shuffle(rows.flatten(0, 1), 2).unflatten(0, x.shape[:2])

    def _tokens(self, noisy: Tensor, picture: Tensor, skeletons: Tensor) -> Tensor:
        """The first maps `(4 b, width, 8, 8)`: rows, picture and skeletons of each map by weights
        of its own.
        """
        drawn = F.pixel_unshuffle(skeletons.flatten(0, 1), MAP // SIDE).unflatten(
            0, skeletons.shape[:2]
        )
        shown = picture[:, None].expand(-1, len(GROUPS), -1, -1, -1)
        weights = torch.cat([self.enter, self.skeleton], dim=1)
        # (b, 4, d, 8, 8) by (4, d, width): each map by its own matrix.
        maps = torch.einsum(
            "bgdyx,gdc->bgyxc", torch.cat([noisy, shown, drawn.float()], dim=2), weights
        )
        return (maps + self.position.permute(0, 2, 3, 1)).flatten(0, 1).permute(0, 3, 1, 2)

    def _embed(self, t: Tensor, picture: Tensor) -> Tensor:
        """`(4 b, e)`: timestep, what the picture shows on the whole, and the view."""
        frequency = torch.exp(
            -math.log(1000) * torch.arange(FREQUENCIES, device=t.device) / (FREQUENCIES - 1)
        )
        # Up to 180 radians at the noisiest step, and down to a thousandth of it.
        angle = 0.18 * t.float()[:, None] * frequency
        time = self.time2(F.silu(self.time1(torch.cat([angle.sin(), angle.cos()], dim=1))))
        # The picture as a whole, by mean and maximum: convolutions see a part of it.
        whole = self.picture(torch.cat([picture.mean((2, 3)), picture.amax((2, 3))], dim=1))
        return F.silu((time + whole)[:, None] + self.view).flatten(0, 1)

    def _group(self, rows: Tensor) -> Tensor:
        """`(b, 12, d, 8, 8)` -> `(b, 4, 4 d, 8, 8)`, the maps of two rows filled up with zeros."""
        full = 4 * rows.shape[2]
        maps = [rows[:, list(members)].flatten(1, 2) for members in GROUPS]
        return torch.stack(
            [F.pad(each, (0, 0, 0, 0, 0, full - each.shape[1])) for each in maps], dim=1
        )

    def _ungroup(self, maps: Tensor) -> Tensor:
        """Inverse of `_group`."""
        # (b, 4 maps, 4 places, d, 8, 8).
        parts = maps.unflatten(2, (4, -1))
        places = {
            row: (group, place)
            for group, members in enumerate(GROUPS)
            for place, row in enumerate(members)
        }
        return torch.stack([parts[:, places[row][0], places[row][1]] for row in range(ROWS)], dim=1)

    def save(self, folder: Path, *, half: bool = False) -> None:
        """Write compact.json and compact.safetensors."""
        save_network(self, folder, "compact", half=half)

    @classmethod
    def load(cls, folder: Path) -> CompactDenoiser:
        """Read what `save` wrote. Raises `ComponentError` when something is missing or does not
        fit."""
        return load_network(cls, folder, "compact")
