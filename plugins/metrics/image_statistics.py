"""`image_statistics`: plain facts about pictures, the first that reward hacking changes."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import conv2d

from rewardft.errors import ComponentError
from rewardft.recipe.bounds import Count, NotNegative
from rewardft.types import Batch, Rollout

from .pictures import pictures_of

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
SOBEL = ((-1.0, 0.0, 1.0), (-2.0, 0.0, 2.0), (-1.0, 0.0, 1.0))


class ImageStatistics:
    """Per sample `(n,)`, averaged over the views of a multi-view sample.

    Values:
        brightness: mean luma (ITU-R BT.601), in [0, 1].
        contrast: standard deviation of luma over the pixels, in [0, 0.5].
        saturation: mean of (max - min) / max over the channels of a pixel, 0 for black (HSV), in
            [0, 1]; 0 for grey.
        edge_density: share of the inner pixels with an edge, in [0, 1]: the Sobel gradient of luma,
            per pixel, is above `edge_threshold`.
        colour_entropy: bits of the joint histogram of the channels, each in `levels` equal bins: at
            most 3 log2(levels) for three channels.

    Args:
        edge_threshold: change of luma per pixel above which there is an edge.
        levels: bins per channel, 2 to 64.
    """

    higher_is_better = None  # neither: alarms watch for a mean out of the base's range

    def __init__(self, edge_threshold: NotNegative = 0.1, levels: Count = 8) -> None:
        if edge_threshold < 0 or not 2 <= levels <= 64:
            raise ComponentError(
                "image_statistics: expected edge_threshold >= 0 and levels from 2 to 64, got "
                f"{edge_threshold} and {levels}"
            )
        self.edge_threshold, self.levels = edge_threshold, levels
        self.reset()

    def reset(self) -> None:
        self._tables: dict[str, list[Tensor]] = {}

    @torch.no_grad()
    def update(self, rollout: Rollout, batch: Batch) -> None:
        views = pictures_of(rollout.decoded, "image_statistics")
        # (b, v, c, h, w) -> (b v, c, h, w): statistics are of single pictures.
        count, flat = views.shape[:2], views.flatten(0, 1)
        luma = luma_of(flat)
        values = {
            "brightness": luma.flatten(1).mean(1),
            "contrast": luma.flatten(1).std(1, unbiased=False),
            "saturation": saturation(flat),
            "edge_density": edge_density(luma, self.edge_threshold),
            "colour_entropy": colour_entropy(flat, self.levels),
        }
        # One row per sample, however many views it has: intervals count samples.
        for name, value in values.items():
            self._tables.setdefault(name, []).append(value.unflatten(0, count).mean(1).cpu())

    def compute(self) -> Mapping[str, Tensor]:
        return {name: torch.cat(parts) for name, parts in self._tables.items()}


def luma_of(pictures: Tensor) -> Tensor:
    """`(n, c, h, w)` -> `(n, h, w)`."""
    if pictures.shape[1] == 1:
        return pictures[:, 0]
    weights = torch.tensor(LUMA, device=pictures.device)
    return torch.einsum("nchw,c->nhw", pictures, weights)


def saturation(pictures: Tensor) -> Tensor:
    """`(n, c, h, w)` -> `(n,)`."""
    high, low = pictures.amax(1), pictures.amin(1)
    # `where` evaluates both sides; the smallest number above 0 keeps black from dividing by 0.
    share = torch.where(high > 0, (high - low) / high.clamp_min(torch.finfo(high.dtype).tiny), 0.0)
    return share.flatten(1).mean(1)


def edge_density(luma: Tensor, threshold: float) -> Tensor:
    """`(n, h, w)` -> `(n,)`. Raises ComponentError for pictures without an inner pixel."""
    if min(luma.shape[-2:]) < 3:
        size = tuple(luma.shape[-2:])
        raise ComponentError(
            f"image_statistics: edges need pictures of at least 3x3 pixels, got {size}"
        )
    # The kernel's weights sum to 8 times a change per pixel.
    kernel = torch.tensor(SOBEL, device=luma.device) / 8
    slopes = conv2d(luma[:, None], torch.stack([kernel, kernel.T])[:, None])
    return (slopes.square().sum(1).sqrt() > threshold).float().flatten(1).mean(1)


def colour_entropy(pictures: Tensor, levels: int) -> Tensor:
    """`(n, c, h, w)` in [0, 1] -> `(n,)` bits."""
    # 1.0 belongs to the last bin.
    bins = (pictures * levels).long().clamp_max(levels - 1)
    place = torch.zeros_like(bins[:, 0])
    for channel in bins.unbind(1):
        # One number per colour: the bins of the channels as digits in base `levels`.
        place = place * levels + channel
    return torch.stack([entropy(picture.flatten().bincount()) for picture in place])


def entropy(counts: Tensor) -> Tensor:
    """Bits of a histogram."""
    share = counts[counts > 0] / counts.sum()
    return -(share * share.log2()).sum() + 0.0  # not -0.0
