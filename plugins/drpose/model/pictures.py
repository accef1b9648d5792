"""Pictures that the multi-view model is conditioned on, and the clamp at its other end."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from rewardft.errors import ComponentError
from rewardft.types import Batch


def straight_through_clamp(x: Tensor) -> Tensor:
    """Clamp to [0, 1] with the gradient of the identity: a clamped pixel can still be pulled back
    into range."""
    return x + (x.clamp(0, 1) - x).detach()


def face_crop(image: Tensor) -> Tensor:
    """The top-centre third of images `(n, 3, s, s)`, resized to `(n, 3, s, s)`."""
    side = image.shape[-1]
    third = side // 3
    crop = image[..., :third, third : 2 * third]
    return interpolate(crop, (side, side), mode="bilinear", align_corners=False)


def body_pictures(batch: Batch) -> Tensor:
    """Pictures of the posed body in the six stored views, `(b, 6, 3, s, s)` in [0, 1] on white:
    the condition of PSHuman's SMPL variant.

    They are the column `smpl` where the data set has one, otherwise drawn from `pose`, `betas` and
    `offset` in grey. How PSHuman shades its own is not published. Raises `ComponentError` when the
    batch has neither.
    """
    if "smpl" in batch:
        return batch["smpl"]
    missing = [name for name in ("pose", "betas", "offset") if name not in batch]
    if missing:
        raise ComponentError(
            "this model is conditioned on pictures of the body in each view; the data set has no "
            f"column 'smpl' and, to draw them, lacks {', '.join(missing)}"
        )
    from rewardft_plugins.humans.render import draw_clay

    pose, betas, offset = (batch[name].cpu().numpy() for name in ("pose", "betas", "offset"))
    # At the size of the given picture, so that the encoder gives latents of the same size.
    drawn = draw_clay(_default_body(), pose, betas, offset, batch["image"].shape[-1])
    return torch.from_numpy(drawn).float() / 255


@lru_cache(maxsize=1)
def _default_body() -> Any:
    from rewardft_plugins.humans.body import load_body

    return load_body()
