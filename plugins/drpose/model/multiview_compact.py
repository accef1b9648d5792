"""`multiview_compact`: the miniature of DrPose's base model, small enough to train on a CPU in
minutes.

It has the same samples, rows, views and latents as `multiview_unet` in miniature, with another
network (`CompactDenoiser`) and a richer condition: beside the picture, the skeleton that a frozen
pose estimator reads off it, drawn into every view.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from diffusers import DDIMScheduler
from rewardft_plugins.drpose.model.autoencoder import LatentAutoencoder
from rewardft_plugins.drpose.model.compact import (
    GROUPS,
    MAP,
    ROWS,
    CompactDenoiser,
    draw_skeletons,
)
from rewardft_plugins.drpose.model.pictures import straight_through_clamp
from rewardft_plugins.drpose.model.pose_estimator import PoseEstimator
from rewardft_plugins.drpose.model.unet import MINI_SCHEDULE
from rewardft_plugins.drpose.weights import SHIPPED, freeze, locate, on_device_of
from rewardft_plugins.humans.body import JOINTS
from torch import Tensor, nn

from rewardft.errors import ComponentError
from rewardft.files.paths import PathOrShipped
from rewardft.types import Batch

KIND = "multiview_compact"


Condition = Mapping[str, Tensor]  # tensors with the sample as leading dimension


class MultiviewCompact(nn.Module):
    """Model contract `DiffusionModel` for multi-view normals and colours of a human from one 64 x
    64 picture.

    Args:
        weights: folder that `save` wrote, "shipped", or None: random weights.
        autoencoder: folder of an autoencoder, or "shipped".
        estimator: folder of a pose estimator, or "shipped"; None: no skeletons, the picture alone.
        network: options of `CompactDenoiser`, for random weights only.

    Raises `ComponentError` when weights are missing or do not fit.
    """

    provides = frozenset({"denoiser", "multiview", "betas"})

    def __init__(
        self,
        weights: PathOrShipped | None = None,
        autoencoder: PathOrShipped = SHIPPED,
        estimator: PathOrShipped | None = SHIPPED,
        network: dict[str, int] | None = None,
    ) -> None:
        super().__init__()
        folder = None if weights is None else locate(weights, "compact")
        # Weights bring their own sizes; options beside them would be ignored.
        if folder is not None and network is not None:
            raise ComponentError(
                "multiview_compact: `network` is for random weights; leave it out beside `weights`"
            )
        self.scheduler = DDIMScheduler.from_config(MINI_SCHEDULE)
        self.autoencoder = LatentAutoencoder.load(locate(autoencoder, "autoencoder"))
        self.estimator = (
            None if estimator is None else PoseEstimator.load(locate(estimator, "pose_estimator"))
        )
        self.trainable = (
            CompactDenoiser(**(network or {})) if folder is None else CompactDenoiser.load(folder)
        )
        freeze(self.autoencoder)
        if self.estimator is not None:
            freeze(self.estimator)

    @property
    def lora_targets(self) -> list[str]:
        return ["to_qkv", "to_out", "conv1", "conv2"]

    @torch.no_grad()
    def encode(self, batch: Batch) -> dict[str, Tensor]:
        """Condition of `batch["image"]` `(b, 3, 64, 64)` in [0, 1]: its latents, and skeletons as
        `draw_skeletons` says.
        """
        image = on_device_of(self.autoencoder, batch["image"])
        latents = self.autoencoder.encode(image)
        if self.estimator is None:
            return {"latents": latents, "skeletons": no_skeletons(latents)}
        # Drawn once per batch and not at every step: the condition does not change along the chain.
        return {"latents": latents, "skeletons": draw_skeletons(self.estimator(image))}

    def drop(self, cond: Condition, mask: Tensor) -> dict[str, Tensor]:
        """The condition with the samples where `mask` `(b,)` is true made unconditional: all of it
        is zero.
        """
        keep = ~mask
        return {
            name: value * keep.to(value).view(-1, *[1] * (value.ndim - 1))
            for name, value in cond.items()
        }

    def sample_shape(self, cond: Condition) -> tuple[int, ...]:
        return (ROWS, *cond["latents"].shape[1:])

    def denoise(self, x: Tensor, t: Tensor, cond: Condition) -> Tensor:
        """States `(b, 12, c, h, w)` and timesteps `(b,)` -> v, shaped as x."""
        return self.trainable(x, t, cond["latents"], cond["skeletons"])

    def decode(self, x0: Tensor) -> Tensor:
        """Latents `(b, 12, c, h, w)` -> pixels `(b, 12, 3, s, s)` in [0, 1], clamped with the
        gradient of the identity.
        """
        # All rows at once: at 64 pixels they need little memory.
        pixels = self.autoencoder.decode(x0.flatten(0, 1)).float()
        return straight_through_clamp(pixels).unflatten(0, x0.shape[:2])

    def clean(self, batch: Batch) -> Tensor:
        """Clean samples `(b, 12, c, h, w)` of a batch with the targets `normals`, `colours` `(b, 6,
        3, s, s)`.
        """
        # (b, 12, 3, s, s): normals, then colours, as a sample's rows.
        images = torch.cat(
            [on_device_of(self.autoencoder, batch[name]) for name in ("normals", "colours")], dim=1
        )
        return self.autoencoder.encode(images.flatten(0, 1)).unflatten(0, images.shape[:2])

    def save(self, folder: str | Path, *, half: bool = False) -> None:
        """Write the network: it loads back with `weights=folder`. half: float16 on disk.

        Raises `ComponentError` when an adapter is still attached.
        """
        if any("lora_" in name for name in self.trainable.state_dict()):
            raise ComponentError(
                "the model still carries a LoRA adapter; merge it into the weights before saving"
            )
        self.trainable.save(Path(folder), half=half)


def no_skeletons(latents: Tensor) -> Tensor:
    """Empty maps for latents `(b, c, h, w)`: what the network was trained on where no pose was
    given."""
    return latents.new_zeros(len(latents), len(GROUPS), 2 * len(JOINTS), MAP, MAP)
