"""The denoiser: a residual network over the pose vector, the condition and the timestep.

HypoNet (ScoreHypo, CVPR 2024), which ADHMR trains, is a graph transformer over 29 joints with image
features. On landmarks, which are a vector, a residual MLP of a million weights does the same at a
thousandth of the cost.
"""

from __future__ import annotations

import torch
from rewardft_plugins.adhmr.space import SIZE
from torch import Tensor, nn

FREQUENCIES = 32


class Block(nn.Module):
    """LayerNorm and two linear layers around a SiLU, added to their input `(b, width)`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.rise = nn.Linear(width, width)
        self.fall = nn.Linear(width, width)

    def forward(self, hidden: Tensor) -> Tensor:
        change: Tensor = self.fall(nn.functional.silu(self.rise(self.norm(hidden))))
        return hidden + change


class PoseDenoiser(nn.Module):
    """Noise prediction `(b, 118)` at states `(b, 118)`, timesteps `(b,)` in [0, 1000) and
    conditions `(b, condition)`."""

    def __init__(self, condition: int, width: int, blocks: int) -> None:
        super().__init__()
        self.enter = nn.Linear(SIZE + condition + 2 * FREQUENCIES, width)
        self.blocks = nn.Sequential(*[Block(width) for _ in range(blocks)])
        self.leave = nn.Linear(width, SIZE)
        self.frequencies: Tensor
        # Periods from 6 to 19,000 timesteps: neighbours differ, and so do beginning and end.
        frequencies = torch.exp(torch.linspace(0, -8, FREQUENCIES))
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        angle = t[:, None].to(x.dtype) * self.frequencies
        entered = self.enter(torch.cat([x, condition, angle.sin(), angle.cos()], dim=1))
        output: Tensor = self.leave(self.blocks(entered))
        return output
