"""`preservation`: an edit should leave the rest of the picture alone."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from rewardft import Batch, Rollout
from rewardft.errors import RewardError


def preservation(
    rollout: Rollout, batch: Batch, *, column: str = "image", mask: str | None = "mask"
) -> Tensor:
    """Minus the mean absolute difference from the edited picture; 0 is untouched, -1 the worst.

    Args:
        column: of the pictures `(b, 3, h, w)` in [0, 1]; they are scaled to the samples' size.
        mask: column of the masks `(b, 1, h, w)`, 1 where the edit may change something, which is
            not counted. null counts every pixel; so does a data set without such a column, in which
            case give a target caption's reward a larger weight. NaN where the mask leaves nothing.
    """
    pixels = rollout.decoded
    if column not in batch:
        raise RewardError(
            f"preservation compares with batch[{column!r}], and the data set gives: "
            f"{', '.join(batch.columns)}"
        )
    if not isinstance(pixels, Tensor) or pixels.ndim != 4:
        got = (
            f"shape {tuple(pixels.shape)}" if isinstance(pixels, Tensor) else type(pixels).__name__
        )
        raise RewardError(
            f"preservation expects images (b, 3, h, w) as `rollout.decoded`, got {got}"
        )
    before = fitted(batch[column], pixels)
    # (b, 1, h, w): 1 where a change counts.
    counted = torch.ones_like(pixels[:, :1])
    if mask is not None and mask in batch:
        counted = 1 - fitted(batch[mask], pixels)
    area = counted.flatten(1).sum(1)
    # (b, 1, h, w): the mean over channels, where it counts.
    change = (pixels - before).abs().mean(1, keepdim=True) * counted
    mean = change.flatten(1).sum(1) / area.clamp(min=1e-6)
    # Nothing to preserve is not perfect preservation.
    return torch.where(area > 0, -mean, torch.nan)


def fitted(pictures: Tensor, pixels: Tensor) -> Tensor:
    """Pictures in the size, type and device of the samples."""
    pictures = pictures.to(pixels)
    if pictures.shape[-2:] == pixels.shape[-2:]:
        return pictures
    # Antialiased: plain bilinear scaling skips pixels when it shrinks a picture.
    return F.interpolate(pictures, pixels.shape[-2:], mode="bilinear", antialias=True)
