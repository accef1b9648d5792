"""The decoded videos that these rewards read."""

from __future__ import annotations

from torch import Tensor

from rewardft import Rollout
from rewardft.errors import RewardError


def frames_of(rollout: Rollout, reward: str, least: int = 1) -> Tensor:
    """Decoded videos `(b, frames, c, h, w)`, float32.

    Raises RewardError for samples of another shape, or with fewer frames than `least`.
    """
    # Checked by shape: a model of images decodes to four dimensions.
    videos = rollout.decoded
    if not isinstance(videos, Tensor) or videos.ndim != 5 or videos.shape[1] < least:
        got = (
            f"shape {tuple(videos.shape)}" if isinstance(videos, Tensor) else type(videos).__name__
        )
        raise RewardError(
            f"{reward} expects videos (b, frames, c, h, w) of at least {least} frames as "
            "`rollout.decoded`, got "
            f"{got}. Use it with a model that makes videos, such as `modular` with `frames`."
        )
    return videos.float()
