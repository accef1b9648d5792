"""How a video moves. Use the two rewards together: the optimum of either alone is no video.

A frozen picture is perfectly consistent, and noise moves most. `temporal_consistency` measures
flicker, which is motion that turns back at once; `motion_amount` measures motion of what is larger
than a few pixels, up to a target.
"""

from __future__ import annotations

from typing import Annotated

import torch.nn.functional as F
from annotated_types import Ge, Gt
from rewardft_plugins.video.samples import frames_of
from torch import Tensor

from rewardft import Batch, Rollout


def temporal_consistency(rollout: Rollout, batch: Batch) -> Tensor:
    """Minus the mean squared second difference over time; at most 0, and 0 for a frozen video.

    Brightness that rises or falls steadily costs nothing, brightness that flickers by d costs 4
    d^2.
    """
    videos = frames_of(rollout, "temporal_consistency", least=3)
    # Second differences: first ones would punish all motion. (b, frames - 2, c, h, w).
    bend = videos[:, 2:] - 2 * videos[:, 1:-1] + videos[:, :-2]
    return -bend.square().flatten(1).mean(1)


def motion_amount(
    rollout: Rollout,
    batch: Batch,
    *,
    target: Annotated[float, Gt(0)] = 0.05,
    pool: Annotated[int, Ge(1)] = 8,
) -> Tensor:
    """Mean change from frame to frame as a part of `target`, in [0, 1]; 0 for a frozen video.

    Args:
        target: the change that is enough, in units of the pixels' range.
        pool: side in pixels of the squares whose means are compared, so that noise does not count
            as motion. Each frame's mean is taken out, so that a change of brightness does not
            either.
    """
    videos = frames_of(rollout, "motion_amount", least=2)
    # avg_pool2d refuses a window larger than the picture.
    size = min(pool, *videos.shape[-2:])
    coarse = F.avg_pool2d(videos.flatten(0, 1), size).unflatten(0, videos.shape[:2])
    # A change of brightness is not motion.
    coarse = coarse - coarse.mean((-2, -1), keepdim=True)
    change = (coarse[:, 1:] - coarse[:, :-1]).abs().flatten(1).mean(1)
    # Capped: beyond the target more motion earns nothing, so noise does not win.
    return change.clamp(max=target) / target
