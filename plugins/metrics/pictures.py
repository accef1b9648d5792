"""What these metrics read: decoded samples that are pictures."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from rewardft.errors import ComponentError


def pictures_of(decoded: Any, metric: str) -> Tensor:
    """Pictures `(b, v, c, h, w)`, c = 1 or 3, float32, clamped to [0, 1]; v = 1 where samples are
    single pictures.

    Raises ComponentError for anything else.
    """
    shape = tuple(decoded.shape) if isinstance(decoded, Tensor) else ()
    if len(shape) not in (4, 5) or shape[-3] not in (1, 3):
        got = f"shape {shape}" if isinstance(decoded, Tensor) else type(decoded).__name__
        raise ComponentError(
            f"{metric} measures pictures: decoded samples (b, c, h, w) or (b, v, c, h, w) of 1 or "
            f"3 channels, got {got}. Leave it out for this model."
        )
    views = decoded if len(shape) == 5 else decoded[:, None]
    # Models that do not clamp overshoot a little, which a picture on a screen does not show.
    return views.float().clamp(0, 1)
