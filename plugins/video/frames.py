"""`per_frame`: any image reward over the frames of a video."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Gt
from rewardft_plugins.video.samples import frames_of
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rewardft import Batch, Rollout
from rewardft.contracts.protocols import Reward


class PerFrame(nn.Module):
    """An image reward over the frames of a video, reduced to one value.

    Args:
        reward: an image reward with its options, `{use: NAME, ...}`.
        every: score each n-th frame, from the first one on.
        reduce: `mean`; `min`, the worst frame, whose gradient reaches that frame alone; `soft_min`,
            which is -temperature log mean exp(-value / temperature), between the two.
        temperature: of `soft_min`, in units of the reward.
        at_a_time: frames that the reward sees in one call; under autograd each call is a
            checkpoint, so memory does not grow with frames.
    """

    provides: frozenset[str] = frozenset()  # `tags` gives the inner reward's

    @staticmethod
    def tags(reward: Any) -> frozenset[str]:
        """Those of the reward, as a component that is not built yet."""
        found: frozenset[str] = reward.tags("provides", "tags")
        return found

    def __init__(
        self,
        reward: Reward,
        every: Annotated[int, Ge(1)] = 1,
        reduce: Literal["mean", "min", "soft_min"] = "mean",
        temperature: Annotated[float, Gt(0)] = 1.0,
        at_a_time: Annotated[int, Ge(1)] = 8,
    ) -> None:
        super().__init__()
        self.reward = reward
        self.every, self.reduce, self.temperature = every, reduce, temperature
        self.at_a_time = at_a_time

    def forward(self, rollout: Rollout, batch: Batch) -> Tensor:
        """`(b,)`; NaN where the reward applies to no frame."""
        # (b, n, c, h, w): every n-th frame, from the first on.
        videos = frames_of(rollout, "per_frame")[:, :: self.every]
        rows = [self.score(rollout, batch, video, row) for row, video in enumerate(videos)]
        return self.together(torch.stack(rows))

    def score(self, rollout: Rollout, batch: Batch, frames: Tensor, row: int) -> Tensor:
        """The reward of the frames `(n, c, h, w)` of one sample, `(n,)`."""
        parts = frames.split(self.at_a_time)
        # A checkpoint would run the reward twice, and there is no graph to save.
        if not frames.requires_grad:
            return torch.cat([self.call(part, rollout, batch, row) for part in parts])
        scored = [
            checkpoint(self.call, part, rollout, batch, row, use_reentrant=False) for part in parts
        ]
        return torch.cat(scored)

    def call(self, frames: Tensor, rollout: Rollout, batch: Batch, row: int) -> Tensor:
        """Frames as samples of their own, under the condition of their video."""
        rows = slice(row, row + 1)
        sample = replace(rollout.select(rows), x0=frames, decoder=unchanged)
        # `repeat` gives frames ids of their own, so a reward that draws noise treats each by
        # itself.
        return self.reward(sample, batch.select(rows).repeat(len(frames)))

    def together(self, values: Tensor) -> Tensor:
        """`(b, n)` -> `(b,)`, frames without a value left out."""
        known = ~values.isnan()
        if self.reduce == "mean":
            return values.nanmean(1)
        # inf is never the lowest, and exp(-inf) = 0 adds nothing to the soft minimum.
        values = values.masked_fill(~known, torch.inf)
        if self.reduce == "min":
            lowest = values.min(1).values
        else:
            count = known.sum(1).clamp(min=1)
            scaled = torch.logsumexp(-values / self.temperature, 1) - count.log()
            lowest = -self.temperature * scaled
        # A video of which no frame has a value has none either: no zero in its place.
        return torch.where(known.any(1), lowest, torch.nan)


def unchanged(frames: Tensor) -> Tensor:
    """Frames are decoded already."""
    return frames
