"""What the rewards of this plugin read: decoded pixels and their prompts."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from rewardft.errors import RewardError
from rewardft.types import Batch, Rollout


def pixels_of(rollout: Rollout, reward: str) -> Tensor:
    """Decoded images `(b, 3, h, w)`, RGB in [0, 1], float32. Raises RewardError for samples of
    another shape."""
    pixels = rollout.decoded
    if not isinstance(pixels, Tensor) or pixels.ndim != 4 or pixels.shape[1] != 3:
        got = (
            f"shape {tuple(pixels.shape)}" if isinstance(pixels, Tensor) else type(pixels).__name__
        )
        raise RewardError(
            f"{reward} expects RGB images (b, 3, h, w) in [0, 1] as `rollout.decoded`, got {got}. "
            f"Use it with a model that decodes to images."
        )
    # bfloat16 has steps of up to 1/256 within [0, 1], which rewards would see.
    return pixels.float()


def to_bytes(image: Tensor) -> NDArray[np.uint8]:
    """An image `(3, h, w)` in [0, 1] rounded to 8 bits, `(h, w, 3)`."""
    rounded = (image.detach().float() * 255).round().clamp(0, 255).byte()
    return rounded.permute(1, 2, 0).contiguous().cpu().numpy()


def prompts_of(batch: Batch, column: str, reward: str) -> list[str]:
    """The prompt of each sample. Raises RewardError when the data set has no such column of
    text."""
    if column not in batch:
        raise RewardError(
            f"{reward} compares images with the text in batch[{column!r}], and the data set gives "
            f"only: {', '.join(batch.columns) or 'no columns'}. Name the column of the prompts "
            "with the option `column`."
        )
    # A tensor here is a column of labels: its numbers would be embedded as text.
    prompts = batch[column]
    if not isinstance(prompts, (list, tuple)) or not all(
        isinstance(prompt, str) for prompt in prompts
    ):
        raise RewardError(
            f"{reward} expects batch[{column!r}] to be a list of text, got {type(prompts).__name__}"
        )
    return list(prompts)
